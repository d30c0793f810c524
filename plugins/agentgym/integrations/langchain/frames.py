"""Which run of LangChain belongs to which run of ours.

One callback handler for the whole process (see callbacks) reports every chain and tool, kept here
as `Frame`s linked to their parents. Frames of agents that nobody attached cost a dictionary entry.
The first model call of an attached agent turns the frame of its agent, and the outermost frame,
into runs; their ends close them, however they come.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.messages import BaseMessage

from agentgym import semconv
from agentgym.integrations.langchain import offered
from agentgym.trajectory import Tool
from agentgym.tree import Call, Run, Turn, enter, reserve

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

FRAMEWORK = "langchain"
UNIT = "agentgym_unit"
"""In the metadata of a run's config: the unit by which assignment is sticky."""
MAX_FRAMES = 20_000
"""More open runs than this are not followed: something does not end."""

_DEFAULT_NAMES = {"LangGraph", "AgentExecutor"}
_INVALID_TOOLS = {"invalid_tool", "_Exception"}  # what AgentExecutor runs for an unknown tool
CANCELLED = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)
"""How a run ends that nobody waits for any more."""


class Frame:
    """One open run of LangChain: a chain, a graph, a node of a graph or a tool."""

    __slots__ = (
        "agent_name",
        "calls",
        "created",
        "inputs",
        "is_node",
        "is_tool",
        "key",
        "members",
        "name",
        "nodes",
        "parent",
        "pending",
        "tools",
        "unit",
    )

    def __init__(self, parent: Frame | None, name: str, *, is_tool: bool = False) -> None:
        self.parent = parent
        self.name = name
        self.is_tool = is_tool
        self.is_node = False
        self.created = False  # by create_agent, which says its name itself
        self.agent_name = ""
        self.key = ""
        self.unit = ""
        self.inputs: Any = None
        self.nodes: dict[AgentGym, Run | Call] = {}
        self.calls: dict[str, list[Call]] = {}  # begun by the middleware, by call id
        self.pending: list[tuple[Turn, dict[str, Any]]] = []
        self.tools: tuple[Tool, ...] = ()
        self.members: set[UUID] = set() if parent is None else parent.members

    def ancestors(self) -> Iterator[Frame]:
        """The frames above this one, nearest first."""
        frame = self.parent
        while frame is not None:
            yield frame
            frame = frame.parent

    @property
    def root(self) -> Frame:
        """The outermost frame."""
        *_, root = (self, *self.ancestors())
        return root

    def agent(self) -> tuple[Frame, bool]:
        """The frame of the agent that this one works for, and whether that is a graph."""
        frame = self
        for above in (self, *self.ancestors()):
            if above.is_tool:
                break
            frame = above
            if above.is_node and above.parent is not None:
                return above.parent, True
            if above.name == "AgentExecutor":
                break
        return frame, False


class Frames:
    """All open runs of LangChain in this process."""

    def __init__(self) -> None:
        self._open: dict[UUID, Frame] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, run_id: UUID | None) -> Frame | None:
        """The open frame of a run."""
        return None if run_id is None else self._open.get(run_id)

    # ---- chains

    def start(
        self,
        run_id: UUID,
        parent_id: UUID | None,
        name: str,
        *,
        inputs: Any = None,
        metadata: Mapping[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> None:
        """A chain has started; more than one handler may say so."""
        known = self._open.get(run_id)
        if known is not None:
            known.tools = known.tools or tools
            return
        parent = self.get(parent_id)
        if parent is None:
            reserve()
        frame = self._add(run_id, Frame(parent, name))
        frame.inputs = inputs
        frame.tools = tools
        if metadata:
            frame.key = str(metadata.get("thread_id") or "")
            frame.unit = str(metadata.get(UNIT) or "")
            frame.is_node = metadata.get("langgraph_node") == name
            frame.created = metadata.get("ls_integration") == "langchain_create_agent"
            frame.agent_name = metadata.get("lc_agent_name") or ""

    def _add(self, run_id: UUID, frame: Frame) -> Frame:
        while len(self._open) >= MAX_FRAMES:
            self.end(next(iter(self._open)), GeneratorExit())
        self._open[run_id] = frame
        frame.members.add(run_id)
        return frame

    def prompt(self, parent_id: UUID | None, serialized: Mapping[str, Any] | None) -> None:
        """A prompt is being filled in; a text agent's holds the list of its tools."""
        frame = self.get(parent_id)
        fields = (serialized or {}).get("kwargs")
        variables = fields.get("partial_variables") if isinstance(fields, Mapping) else None
        if frame is not None and isinstance(variables, Mapping) and "tools" in variables:
            agent, _ = frame.agent()
            agent.tools = agent.tools or offered.from_prompt(variables)

    def end(self, run_id: UUID, error: BaseException | None = None) -> None:
        """A chain has ended; the outermost one takes along whatever never said that it ended."""
        frame = self._open.pop(run_id, None)
        if frame is None:
            return
        frame.members.discard(run_id)
        settle(frame)
        for gym, node in frame.nodes.items():
            gym.guard.call("langchain.end", None, close, node, error)
        if frame.parent is None:
            for member in tuple(frame.members):
                self.end(member, GeneratorExit())

    # ---- tools

    def start_tool(
        self, run_id: UUID, parent_id: UUID | None, name: str, *, call_id: str, inputs: Any
    ) -> None:
        """A tool has started."""
        parent = self.get(parent_id)
        if run_id in self._open:
            return
        frame = self._add(run_id, Frame(parent, name, is_tool=True))
        if parent is None:
            return
        agent, _ = parent.agent()
        begun = {call.recorder: call for call in agent.calls.get(call_id, ()) if not call.ended}
        for gym, run in tuple(agent.nodes.items()):
            if isinstance(run, Run) and not run.ended:
                call = begun.get(run.recorder) or gym.guard.call(
                    "langchain.tool", None, _call, run, _asked_for(name, inputs), call_id, inputs
                )
                if call is not None:
                    frame.nodes[gym] = call
                    enter(call)

    def end_tool(self, run_id: UUID, *, error: str = "", output: Any = None) -> None:
        """A tool has returned, or has failed visibly."""
        frame = self._open.pop(run_id, None)
        if frame is None:
            return
        frame.members.discard(run_id)
        error = error or ("invalid_tool" if frame.name in _INVALID_TOOLS else status_error(output))
        for gym, call in frame.nodes.items():
            if isinstance(call, Call):
                gym.guard.call("langchain.tool", None, call.finish, error, result=output)

    # ---- runs

    def run_of(
        self, gym: AgentGym, run_id: UUID | None, messages: Sequence[BaseMessage], *, applies: bool
    ) -> tuple[Run, Frame] | None:
        """The run of the agent that a model call or tool call belongs to, started if need be."""
        frame = self.get(run_id)
        if frame is None or frame.is_tool:
            return None
        agent, is_graph = frame.agent()
        with self._lock:
            run = agent.nodes.get(gym)
            if not isinstance(run, Run) or run.ended:
                run = self._start_run(gym, agent, is_graph, messages, applies)
        return run, agent

    def node_at(self, gym: AgentGym, run_id: UUID | None) -> Run | Call | None:
        """What a model called straight from a tool belongs to."""
        frame = self.get(run_id)
        return None if frame is None else frame.nodes.get(gym) or _node_above(gym, frame)

    def _start_run(
        self,
        gym: AgentGym,
        agent: Frame,
        is_graph: bool,
        messages: Sequence[BaseMessage],
        applies: bool,
    ) -> Run:
        task = task_of(agent.inputs, messages)
        name = _agent_name(agent, is_graph) or gym.config.agent
        parent = _node_above(gym, agent)
        root = agent.root
        if parent is None and root is not agent:
            parent = gym.recorder.start_run(
                root.name,
                framework=FRAMEWORK,
                operation=semconv.INVOKE_WORKFLOW,
                task=task,
                key=root.key,
                unit=root.unit,
                applies=applies,
            )
            root.nodes[gym] = parent
        run = gym.recorder.start_run(
            name,
            framework=FRAMEWORK,
            task=task,
            parent=parent,
            key=agent.key,
            unit=agent.unit,
            applies=applies,
        )
        agent.nodes[gym] = run
        return run


def _node_above(gym: AgentGym, agent: Frame) -> Run | Call | None:
    for frame in agent.ancestors():
        nodes = [node for node in frame.nodes.values() if not node.ended]
        if nodes:
            own = frame.nodes.get(gym)
            return own if own in nodes else nodes[0]
    return None


def _agent_name(agent: Frame, is_graph: bool) -> str:
    if not is_graph:
        return ""
    if agent.created or agent.agent_name:
        # Names are inherited with the metadata: one that the parent has too is the parent's.
        inherited = next((f.agent_name for f in agent.ancestors() if f.agent_name), "")
        if agent.agent_name and (agent.agent_name != inherited or agent.name == inherited):
            return agent.agent_name
        if agent.parent is None:
            return ""
    return "" if agent.name in _DEFAULT_NAMES else agent.name


def _asked_for(name: str, inputs: Any) -> str:
    """The tool that the model named: for an unknown one AgentExecutor runs a stand-in."""
    if name in _INVALID_TOOLS and isinstance(inputs, Mapping):
        return str(inputs.get("requested_tool_name") or name)
    return name


def _call(run: Run, name: str, call_id: str, inputs: Any) -> Call:
    return run.call(name, call_id=call_id, arguments=inputs)


def task_of(inputs: Any, messages: Sequence[BaseMessage]) -> str:
    """What the user asks for: an executor's `input`, else the last message of the user."""
    if isinstance(inputs, Mapping) and isinstance(inputs.get("input"), str):
        return str(inputs["input"])
    for message in reversed(messages):
        if message.type == "human":
            return str(message.text)
    return ""


def status_error(output: Any) -> str:
    """The type of a failure that a tool reported by its message's status."""
    return "ToolException" if getattr(output, "status", "") == "error" else ""


def close(node: Run | Call, error: BaseException | None) -> None:
    """Ends a run, or a call whose end nobody reported."""
    if error is None and isinstance(node, Run):
        node.finish()
    elif error is None or isinstance(error, CANCELLED):
        node.abandon("cancelled")
    else:
        node.finish(type(error).__name__)


def settle(agent: Frame, called: Sequence[tuple[str, str]] = ()) -> None:
    """Finishes the turns of a text agent whose answer has been parsed."""
    pending, agent.pending = agent.pending, []
    for turn, usage in pending:
        turn.finish(called, **usage)


def is_interrupt(error: BaseException) -> bool:
    """Whether a graph only stops here to go on later, or elsewhere."""
    return any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)


FRAMES = Frames()
