"""Tool calls, seen through CrewAI's own hooks, which run inline around each execution.

Hooks know neither the id of a call nor the exception of a failed one: the id comes from what the
model asked for, the failure from the text that CrewAI gives the model instead of a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from crewai.hooks import InterceptionPoint
from crewai.hooks.dispatch import get_scoped_hooks, register_scoped, scoped_hooks
from crewai.hooks.tool_hooks import ToolCallHookContext
from crewai.tools.tool_failure import detect_tool_failure

from agentgym.integrations.crewai.scope import Scope, current_scope
from agentgym.recorder import Call, active

_FAILURES = (
    (re.compile(r"Error executing tool: "), "ToolError"),
    (re.compile(r"\s*I encountered an error while trying to use the tool"), "ToolError"),
    (re.compile(r"Tool execution blocked by hook"), "blocked"),
    (re.compile(r"Tool not found$"), "unknown_tool"),
    (re.compile(r"Tool '.*' has reached its .*usage limit"), "usage_limit"),
)
"""What CrewAI tells the model when a tool could not be used."""


@dataclass(frozen=True, slots=True)
class _Open:
    call: Call
    arguments: Any  # the very dict that both hooks of one execution are given
    veto: str
    stack: ExitStack
    below: _Open | None


_open: ContextVar[_Open | None] = ContextVar("agentgym_crewai_call", default=None)


@contextmanager
def hooked() -> Iterator[None]:
    """Has CrewAI call our hooks inside the block, after the user's own."""
    hooks = {InterceptionPoint.PRE_TOOL_CALL: before, InterceptionPoint.POST_TOOL_CALL: after}
    try:
        for point, hook in hooks.items():
            if hook not in get_scoped_hooks(point):
                register_scoped(point, hook)
    except RuntimeError:  # no scope yet; the user's own would have taken our hooks in
        with scoped_hooks({point: [hook] for point, hook in hooks.items()}):
            yield
    else:
        yield


def before(context: ToolCallHookContext) -> bool | None:
    """PRE_TOOL_CALL: opens the call; False vetoes it."""
    scope = current_scope()
    if scope is None:
        return None
    return scope.gym.guard.call("crewai.before_tool", None, _start, scope, context)


def after(context: ToolCallHookContext) -> str | None:
    """POST_TOOL_CALL: closes the call; a text replaces the result of a vetoed one."""
    scope = current_scope()
    if scope is None:
        return None
    return scope.gym.guard.call("crewai.after_tool", None, _finish, scope, context)


def _start(scope: Scope, context: ToolCallHookContext) -> bool | None:
    call = _call(scope, context)
    veto = ""
    if call.blocked:
        shown = call.turn.forced or call.turn.shown_tools if call.turn else ()
        names = shown.name if hasattr(shown, "name") else ", ".join(t.name for t in shown)
        veto = call.veto(f"The tool {context.tool_name} is not at hand now; use {names}.")
    stack = ExitStack()
    stack.enter_context(active(call))
    _open.set(_Open(call, context.tool_input, veto, stack, _open.get()))
    return False if veto else None


def _finish(scope: Scope, context: ToolCallHookContext) -> str | None:
    top = _open.get()
    if top is None or top.arguments is not context.tool_input:
        # A hook of the user's vetoed the call before ours was asked.
        _call(scope, context).finish(_failure(context), result=context.tool_result)
        return None
    _open.set(top.below)
    top.stack.close()
    top.call.finish(_failure(context), result=context.tool_result)
    return top.veto or None


def _call(scope: Scope, context: ToolCallHookContext) -> Call:
    asked = scope.take(context.tool_name, context.tool_input)
    return scope.run.call(
        context.tool_name,
        call_id=asked.call_id if asked else "",
        arguments=dict(context.tool_input),
    )


def _failure(context: ToolCallHookContext) -> str:
    declared = detect_tool_failure(context.raw_tool_result)
    if declared is not None:
        return str(getattr(declared.reason, "value", declared.reason))
    text = context.raw_tool_result
    if not isinstance(text, str):
        return ""
    return next((kind for pattern, kind in _FAILURES if pattern.match(text)), "")
