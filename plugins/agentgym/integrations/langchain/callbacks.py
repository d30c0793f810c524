"""The callback handler through which `Frames` learn what starts and ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from agentgym.guard import Guard
from agentgym.integrations.langchain.frames import CANCELLED, FRAMES, Frames, is_interrupt, settle
from agentgym.trajectory import Tool


class FrameHandler(BaseCallbackHandler):
    """Tells `Frames` what starts and ends; quiet about everything else."""

    run_inline = True  # in the caller's context and in order, under asyncio too

    def __init__(self, frames: Frames, guard: Guard, tools: tuple[Tool, ...] = ()) -> None:
        self.frames = frames
        self.guard = guard
        self.tools = tools

    @property
    def ignore_llm(self) -> bool:
        """Model calls are seen by the wrapped model."""
        return True

    @property
    def ignore_chat_model(self) -> bool:
        """Model calls are seen by the wrapped model."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """Retrievers choose no tools."""
        return True

    @property
    def ignore_custom_event(self) -> bool:
        """Nothing of ours."""
        return True

    def on_chain_start(
        self,
        serialized: Any,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A chain, graph, node or prompt starts."""
        with self.guard("langchain.chain"):
            if kwargs.get("run_type") == "prompt":
                self.frames.prompt(parent_run_id, serialized)
            name = kwargs.get("name") or ""
            self.frames.start(
                run_id, parent_run_id, name, inputs=inputs, metadata=metadata, tools=self.tools
            )

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """It has ended."""
        with self.guard("langchain.chain"):
            self.frames.end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It has failed, or was cancelled."""
        with self.guard("langchain.chain"):
            self.frames.end(run_id, error)

    def on_tool_start(
        self,
        serialized: Any,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: Any = None,
        **kwargs: Any,
    ) -> None:
        """A tool starts."""
        with self.guard("langchain.tool"):
            name = (serialized or {}).get("name") or kwargs.get("name") or ""
            call_id = kwargs.get("tool_call_id") or ""
            arguments = input_str if inputs is None else inputs
            self.frames.start_tool(run_id, parent_run_id, name, call_id=call_id, inputs=arguments)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """It has returned."""
        with self.guard("langchain.tool"):
            self.frames.end_tool(run_id, output=output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It has failed."""
        with self.guard("langchain.tool"):
            if is_interrupt(error) or isinstance(error, CANCELLED):
                self.frames.end(run_id, GeneratorExit())
            else:
                self.frames.end_tool(run_id, error=type(error).__name__)

    def on_agent_action(self, action: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """An executor has parsed the tool that its text agent asked for."""
        with self.guard("langchain.action"):
            self._settle(run_id, [(str(action.tool), "")])

    def on_agent_finish(self, finish: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """An executor has parsed a final answer."""
        with self.guard("langchain.action"):
            self._settle(run_id, ())

    def _settle(self, run_id: UUID, called: Sequence[tuple[str, str]]) -> None:
        frame = self.frames.get(run_id)
        if frame is not None:
            settle(frame.agent()[0], called)


_EVERYWHERE = FrameHandler(FRAMES, Guard())
# A default, unlike a value, also holds in threads that somebody starts without a context.
_handler: ContextVar[FrameHandler | None] = ContextVar("agentgym_langchain", default=_EVERYWHERE)
_installed = threading.Event()


def install() -> None:
    """Makes every run of LangChain in this process known to `FRAMES`; once."""
    if not _installed.is_set():
        _installed.set()
        register_configure_hook(_handler, inheritable=True)
