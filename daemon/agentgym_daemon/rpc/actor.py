"""Who made a change, as the chain of changes keeps it: what the caller says of itself, cleaned."""

from __future__ import annotations

import re

from agentgym import semconv
from agentgym_daemon.rpc.status import Context

UNKNOWN = "rpc"
_KIND = "rpc:"
_MAX_LENGTH = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9._@+:-]")


def actor_of(context: Context | None) -> str:
    """The caller of a method, such as `cli:ada`; a bare word, which the daemon uses, is not left.

    The token, not this name, is what a call is let through by.
    """
    metadata = (context.invocation_metadata() if context is not None else None) or ()
    said = next((value for key, value in metadata if key == semconv.METADATA_ACTOR), "")
    name = _UNSAFE.sub("_", str(said))[:_MAX_LENGTH]
    if not name:
        return UNKNOWN
    return name if ":" in name else f"{_KIND}{name}"
