"""A stored run as plain data: what rules, the user's function and the judge see of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentgym import semconv
from agentgym_daemon.store.trajectories import StoredSpan, StoredTrajectory

View = dict[str, Any]
_NS = 1e9
_MODEL_CALLS = frozenset((semconv.CHAT, "text_completion", "generate_content"))
_CONTENT = frozenset(
    (
        semconv.INPUT_MESSAGES,
        semconv.OUTPUT_MESSAGES,
        semconv.TOOL_CALL_ARGUMENTS,
        semconv.TOOL_CALL_RESULT,
    )
)


def view(stored: StoredTrajectory) -> View:
    """The run as JSON-ready data; docs/rewards.md describes every field."""
    run = stored.summary
    attributes = [_attributes(span) for span in stored.spans]
    pairs = list(zip(stored.spans, attributes, strict=True))
    return {
        "id": run.trajectory_id.hex(),
        "key": run.key,
        "agent": run.agent,
        "framework": run.framework,
        "state": run.state,
        "assignment": run.assignment,
        "policy_version": run.policy_version,
        "duration_s": max(0, run.end_ns - run.start_ns) / _NS,
        "steps": run.decisions,
        "tool_calls": run.tool_calls,
        "tool_errors": run.tool_errors,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "tokens": run.input_tokens + run.output_tokens,
        "attributes": next((a for span, a in pairs if span.is_root), {}),
        "calls": [_call(s, a) for s, a in pairs if s.operation == semconv.EXECUTE_TOOL],
        "turns": [_turn(s, a) for s, a in pairs if s.operation in _MODEL_CALLS],
        "rewards": [
            {"name": r.name, "source": r.source, "value": r.value}
            for r in stored.rewards
            if not r.revoked
        ],
        "content": any(not _CONTENT.isdisjoint(a) for a in attributes),
    }


def tools_called(run: View) -> Sequence[str]:
    """Names of the tools that were executed, in order."""
    return [call["tool"] for call in run["calls"]]


def _call(span: StoredSpan, attributes: dict[str, Any]) -> View:
    return {
        "tool": span.tool or span.name,
        "error": span.error_type or ("error" if span.status == 2 else ""),
        "duration_s": max(0, span.end_ns - span.start_ns) / _NS,
        "arguments": attributes.get(semconv.TOOL_CALL_ARGUMENTS),
        "result": attributes.get(semconv.TOOL_CALL_RESULT),
        "attributes": attributes,
    }


def _turn(span: StoredSpan, attributes: dict[str, Any]) -> View:
    return {
        "agent": span.agent_name,
        "model": span.model,
        "input": attributes.get(semconv.INPUT_MESSAGES),
        "output": attributes.get(semconv.OUTPUT_MESSAGES),
        "input_tokens": span.input_tokens,
        "output_tokens": span.output_tokens,
        "attributes": attributes,
    }


def _attributes(span: StoredSpan) -> dict[str, Any]:
    found = json.loads(span.attributes_json or "{}")
    return found if isinstance(found, dict) else {}
