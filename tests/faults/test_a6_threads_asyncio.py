"""Cancellation, task groups, threads and nested agents: every span ends, below the right parent."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from agentgym import semconv
from agentgym.integrations.langchain.frames import FRAMES
from agentgym.testing.recording import RecordingGym
from agentgym.tree import Node


class Model(BaseChatModel):
    """Calls its first tool once, then answers; waits a turn of the loop each time."""

    @property
    def _llm_type(self) -> str:
        return "waiting"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(t) for t in tools])

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        name = kwargs["tools"][0]["function"]["name"]
        if messages[-1].type == "tool":
            message = AIMessage(f"done: {messages[-1].content}")
        else:
            asked = {"name": name, "args": {"query": str(messages[-1].content)}, "id": "call-1"}
            message = AIMessage("", tool_calls=[asked])
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        await asyncio.sleep(0)
        result = self._generate(messages, **kwargs)
        await asyncio.sleep(0)
        return result


def look_up(query: str) -> str:
    """Looks an order up."""
    return f"order {query}"


async def look_up_slowly(query: str) -> str:
    await asyncio.sleep(0)
    return look_up(query)


TOOL: BaseTool = StructuredTool.from_function(look_up, look_up_slowly, name="look_up")


def ask(text: str) -> dict[str, Any]:
    return {"messages": [("user", text)]}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Every node that a test opens."""
    opened: list[Node] = []
    make = Node.__init__

    def remember(node: Node, *args: Any, **kwargs: Any) -> None:
        make(node, *args, **kwargs)
        opened.append(node)

    monkeypatch.setattr(Node, "__init__", remember)
    return opened


@pytest.fixture
def gym() -> RecordingGym:
    return RecordingGym("desk", mode="observe")


@pytest.fixture
def agent(gym: RecordingGym) -> Any:
    return create_agent(Model(), [TOOL], middleware=[gym], name="desk")


@pytest.fixture
def check(gym: RecordingGym, nodes: list[Node]) -> Iterator[Callable[[], list[Any]]]:
    """All that was opened was closed, once, in trees with one root; returns the spans."""
    frames = len(FRAMES)

    def closed() -> list[Any]:
        assert [node for node in nodes if not node.ended] == []
        assert len(FRAMES) == frames
        spans = gym.sink.spans
        ids = {span.span_id: span for span in spans}
        assert len(ids) == len(spans) == len(nodes)
        for span in spans:
            if span.parent_id:
                assert ids[span.parent_id].trajectory_id == span.trajectory_id
        roots = Counter(span.trajectory_id for span in spans if not span.parent_id)
        assert set(roots) == {span.trajectory_id for span in spans}
        assert set(roots.values()) <= {1}
        assert sorted(gym.sink.ended) == sorted(roots)
        return spans

    yield closed
    assert gym.guard.errors == {}


async def test_a_run_cancelled_at_any_await_leaves_no_span_open(
    agent: Any, gym: RecordingGym, check: Callable[[], list[Any]], load: Callable[..., int]
) -> None:
    """Cancel at each await of 1k runs: every opened span is closed, as cancelled."""
    awaits, cancelled = 0, 0
    for _ in range(load(1000)):
        running = asyncio.ensure_future(agent.ainvoke(ask("7")))
        for _ in range(awaits):
            await asyncio.sleep(0)
        running.cancel()
        [outcome] = await asyncio.gather(running, return_exceptions=True)
        cancelled += isinstance(outcome, asyncio.CancelledError)
        # from the first await to the one after which nothing is left to cancel, and again
        awaits = awaits + 1 if isinstance(outcome, asyncio.CancelledError) else 0

    spans = check()

    assert cancelled > 0
    interrupted = [s for s in spans if s.attributes.get(semconv.INCOMPLETE) == "cancelled"]
    assert interrupted
    assert {s.error for s in interrupted} == {"cancelled"}


async def test_a_failing_sibling_in_a_task_group_cancels_the_others_cleanly(
    agent: Any, check: Callable[[], list[Any]], load: Callable[..., int]
) -> None:
    async def fail(after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        raise ZeroDivisionError

    async def all_or_none(after: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(agent.ainvoke(ask(str(number))))
            group.create_task(fail(after))

    for round_ in range(load(100)):
        with pytest.raises(ExceptionGroup):
            await all_or_none(3 * round_)

    assert check()


@pytest.mark.filterwarnings("ignore:Direct attribute assignment:DeprecationWarning")
# LangChain silences it by `catch_warnings`, which 64 threads share.
def test_64_threads_do_not_mix_their_trajectories(
    agent: Any, check: Callable[[], list[Any]], load: Callable[..., int]
) -> None:
    start = threading.Barrier(64)

    def work(number: int) -> str:
        start.wait(60)
        for _ in range(load(20, least=1)):
            answer = agent.invoke(ask(f"t{number}"))["messages"][-1].content
        return str(answer)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(work, range(64)))

    assert answers == [f"done: order t{number}" for number in range(64)]
    per_trajectory = Counter(span.trajectory_id for span in check())
    assert set(per_trajectory.values()) == {4}  # run, two turns, one call
    assert len(per_trajectory) == 64 * load(20, least=1)


def test_copied_contexts_keep_their_own_parents(
    gym: RecordingGym, agent: Any, check: Callable[[], list[Any]]
) -> None:
    with gym.trajectory(name="outer") as outer:
        inside = contextvars.copy_context()
        with ThreadPoolExecutor(8) as pool:
            runs = [pool.submit(inside.copy().run, agent.invoke, ask(str(n))) for n in range(8)]
            outside = pool.submit(agent.invoke, ask("outside"))
            for run in (*runs, outside):
                run.result()

    spans = check()

    by_id = {span.span_id: span for span in spans}
    agents = [s for s in spans if s.name == "invoke_agent desk"]
    below = [s for s in agents if s.parent_id == outer.span_id]
    alone = [s for s in agents if not s.parent_id]
    assert (len(below), len(alone)) == (8, 1)
    assert all(by_id[s.parent_id].trajectory_id == outer.trajectory.id for s in below)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_nested_agent_is_a_child_of_the_call_that_ran_it(
    gym: RecordingGym, agent: Any, check: Callable[[], list[Any]], asynchronous: bool
) -> None:
    def delegate(query: str) -> str:
        """Hands the order over to the clerk."""
        return str(agent.invoke(ask(query))["messages"][-1].content)

    async def delegate_later(query: str) -> str:
        return str((await agent.ainvoke(ask(query)))["messages"][-1].content)

    tool = StructuredTool.from_function(delegate, delegate_later, name="delegate")
    outer: Any = create_agent(Model(), [tool], middleware=[gym], name="boss")

    if asynchronous:
        await asyncio.gather(*(outer.ainvoke(ask(str(n))) for n in range(5)))
    else:
        await asyncio.to_thread(lambda: [outer.invoke(ask(str(n))) for n in range(5)])

    spans = check()

    by_id = {span.span_id: span for span in spans}
    nested = [span for span in spans if span.name == "invoke_agent desk"]
    assert len(nested) == 5
    for span in nested:
        call = by_id[span.parent_id]
        assert call.name == "execute_tool delegate"
        turn = by_id[call.parent_id]
        assert by_id[turn.parent_id].name == "invoke_agent boss"
