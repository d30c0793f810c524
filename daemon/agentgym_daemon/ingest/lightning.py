"""The reward in an annotation span of Agent Lightning, for the trajectory that it belongs to.

0.3 writes a list, `agentlightning.reward.N.name` and `.value`, of which the first is the reward and
the others are its details; 0.2 wrote one number, `reward`. A link by `trace_id`
(`agentlightning.link.N.key_match`, `.value_match`) names a trace other than the span's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from agentgym_daemon.ingest.foreign import LIGHTNING_REWARD, LIGHTNING_SPAN
from agentgym_daemon.store.rows import MAX_BIGINT, Evaluation

PRIMARY = "primary"
"""What Agent Lightning calls a reward without a name."""
_LINK = "agentlightning.link"
_BEFORE_0_3 = "reward"
_TRACE_ID_BYTES = 16


def is_annotation(name: str) -> bool:
    """Whether a span of this name may carry a reward."""
    return name in (LIGHTNING_SPAN, LIGHTNING_REWARD)


def read_reward(span: Span, attributes: Mapping[str, Any]) -> tuple[Evaluation | None, int]:
    """The reward of an annotation span, if it has one, and how many cannot be used (0 or 1)."""
    value = attributes.get(f"{LIGHTNING_REWARD}.0.value", attributes.get(_BEFORE_0_3))
    if value is None:
        return None, 0
    # NaN and infinity arrive as text.
    if isinstance(value, str | bool) or not isinstance(value, int | float):
        return None, 1
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        return None, 1
    name = attributes.get(f"{LIGHTNING_REWARD}.0.name")
    ended = span.end_time_unix_nano or span.start_time_unix_nano
    return Evaluation(
        trace_id=_linked_trace(attributes) or span.trace_id,
        span_id=span.span_id,
        number=0,
        value=float(value),
        name=name if isinstance(name, str) and name else PRIMARY,
        time_ns=min(ended, MAX_BIGINT),
    ), 0


def _linked_trace(attributes: Mapping[str, Any]) -> bytes | None:
    number = 0
    while (key := attributes.get(f"{_LINK}.{number}.key_match")) is not None:
        if key == "trace_id":
            return _trace_id(attributes.get(f"{_LINK}.{number}.value_match"))
        number += 1
    return None


def _trace_id(value: Any) -> bytes | None:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return None
    return found if len(found) == _TRACE_ID_BYTES and any(found) else None
