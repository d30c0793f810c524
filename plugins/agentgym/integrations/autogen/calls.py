"""Tool executions: watched where a workbench runs them, else read from their results."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from autogen_core import CancellationToken
from autogen_core.models import FunctionExecutionResult
from autogen_core.tools import (
    FunctionTool,
    StaticWorkbench,
    TextResultContent,
    ToolResult,
    Workbench,
)

from agentgym.integrations.marks import is_destructive
from agentgym.recorder import Call, Run, active, current

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

TOOL_ERROR = "tool_error"
"""AutoGen turns a tool's exception into text before anybody sees its type."""
CANCELLED = "cancelled"

_MARK = "_agentgym"
_asked: WeakKeyDictionary[Run, set[str]] = WeakKeyDictionary()


def failure(error: BaseException) -> str:
    """The name under which a failure is recorded."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return CANCELLED
    return type(error).__name__


def ask(run: Run, call_ids: Iterable[str]) -> None:
    """Notes which calls a model asked for, so that each is recorded once."""
    _asked.setdefault(run, set()).update(call_ids)


def record_results(run: Run, results: Iterable[FunctionExecutionResult]) -> None:
    """Records calls that no workbench ran: handoffs, unknown tools, arguments that do not parse."""
    asked = _asked.get(run, set())
    for result in results:
        if result.call_id in asked:
            asked.discard(result.call_id)
            call = run.call(result.name, call_id=result.call_id)
            call.finish(TOOL_ERROR if result.is_error else "", result=result.content)


def watch_workbench(gym: AgentGym, workbench: Workbench) -> None:
    """Records what a workbench runs inside a recorded run; a second time does nothing."""
    if _MARK in vars(workbench):
        return
    vars(workbench)[_MARK] = True
    vars(workbench)["call_tool"] = _watched_call(gym, workbench)
    if hasattr(workbench, "call_tool_stream"):
        vars(workbench)["call_tool_stream"] = _watched_stream(gym, workbench.call_tool_stream)
    if isinstance(workbench, StaticWorkbench):
        gym.recorder.protect(tool.name for tool in workbench._tools if is_destructive(tool))
        for tool in workbench._tools:
            if isinstance(tool, FunctionTool):
                _carry_parent(gym, tool)


def _watched_call(gym: AgentGym, workbench: Workbench) -> Callable[..., Any]:
    call_tool = workbench.call_tool

    async def watched(
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        call = _begin(gym, name, arguments, call_id)
        if call is None:
            return await call_tool(name, arguments, cancellation_token, call_id)
        vetoed = gym.guard.call("autogen.tool", None, _veto, call)
        if vetoed is not None:
            return vetoed
        try:
            with active(call):
                result = await call_tool(name, arguments, cancellation_token, call_id)
        except BaseException as error:
            _end(gym, call, error=error)
            raise
        _end(gym, call, result=result)
        return result

    return watched


def _watched_stream(gym: AgentGym, call_tool_stream: Callable[..., Any]) -> Callable[..., Any]:

    async def watched(
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> AsyncGenerator[Any, None]:
        call = _begin(gym, name, arguments, call_id)
        vetoed = gym.guard.call("autogen.tool", None, _veto, call)
        if vetoed is not None:
            yield vetoed
            return
        inner = call_tool_stream(name, arguments, cancellation_token, call_id)
        try:
            async with aclosing(stepwise(call, inner)) as items:
                async for item in items:
                    if call is not None and isinstance(item, ToolResult):
                        _end(gym, call, result=item)
                    yield item
        except BaseException as error:
            if call is not None:
                _end(gym, call, error=error)
            raise
        if call is not None:
            _end(gym, call)

    return watched


async def stepwise(
    node: Run | Call | None, inner: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    """Yields from `inner`, with `node` as the parent of what it starts.

    A generator runs in the context of whoever asks it for an item, so the parent is set for each
    step and never left behind between two of them.
    """
    try:
        while True:
            try:
                if node is None:
                    item = await anext(inner)
                else:
                    with active(node):
                        item = await anext(inner)
            except StopAsyncIteration:
                return
            yield item
    finally:
        await inner.aclose()


def _begin(gym: AgentGym, name: str, arguments: Any, call_id: str | None) -> Call | None:
    """The call to record, or None outside of runs and inside another call."""
    run = current()
    if not gym.on or not isinstance(run, Run):
        return None
    return gym.guard.call("autogen.tool", None, _start, run, name, arguments, call_id or "")


def _start(run: Run, name: str, arguments: Any, call_id: str) -> Call:
    _asked.get(run, set()).discard(call_id)
    return run.call(name, call_id=call_id, arguments=arguments)


def _end(
    gym: AgentGym,
    call: Call,
    *,
    result: ToolResult | None = None,
    error: BaseException | None = None,
) -> None:
    with gym.guard("autogen.tool"):
        if error is not None and failure(error) == CANCELLED:
            call.abandon(CANCELLED)
        elif error is not None:
            call.finish(failure(error))
        elif result is not None:
            call.finish(TOOL_ERROR if result.is_error else "", result=result.to_text())
        else:
            call.finish()


def _veto(call: Call | None) -> ToolResult | None:
    """What a call of a hidden tool gets instead of its result, if the user wants that."""
    if call is None or not call.blocked:
        return None
    message = call.veto(f"Error: the tool {call.tool} is not available in this step.")
    return ToolResult(name=call.tool, result=[TextResultContent(content=message)], is_error=True)


def _carry_parent(gym: AgentGym, tool: FunctionTool) -> None:
    """Lets agents inside a synchronous tool find their parent.

    AutoGen runs such a function in a thread without the caller's context.
    """
    if asyncio.iscoroutinefunction(tool._func) or _MARK in vars(tool):
        return

    async def run(args: Any, cancellation_token: CancellationToken) -> Any:
        bound = gym.guard.call("autogen.tool", tool, _inside_call, tool)
        return await type(tool).run(bound, args, cancellation_token)

    vars(tool).update({_MARK: True, "run": run})


def _inside_call(tool: FunctionTool) -> FunctionTool:
    """A copy of the tool whose function runs below the call that is open now."""
    call, function = current(), tool._func
    if call is None:
        return tool

    def run(*args: Any, **kwargs: Any) -> Any:
        with active(call):
            return function(*args, **kwargs)

    bound = copy.copy(tool)
    bound._func = run
    return bound
