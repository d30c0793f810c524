"""AutoGen's teams, handoffs and people: one trajectory, whoever speaks."""

from __future__ import annotations

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.agents import SocietyOfMindAgent, UserProxyAgent
from autogen_agentchat.conditions import HandoffTermination, MaxMessageTermination
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_agentchat.tools import TeamTool
from autogen_core import SingleThreadedAgentRuntime
from autogen_ext.models.replay import ReplayChatCompletionClient

from agentgym import semconv
from agentgym.testing import ChatReply, ChatRequest, LLMServer, call_tool
from agentgym.testing.recording import RecordingGym
from tests.autogen_model import model
from tests.plugins.integrations.autogen.harness import TOOLS, agents, member, named, pair
from tests.plugins.integrations.trees import assert_whole


async def test_a_team_run_is_one_trajectory_with_a_run_per_turn_of_a_member(
    echo: LLMServer,
) -> None:
    gym = RecordingGym("bot", mode="steer", explore=False)
    gym.force(TOOLS, "news", "second")

    async with model(echo) as client:
        team = gym.attach(
            RoundRobinGroupChat(pair(client), termination_condition=MaxMessageTermination(3))
        )
        result = await team.run(task="Bonn")
        gym.reward(1.0)

    assert_whole(gym)
    (root,) = named(gym, semconv.INVOKE_WORKFLOW)
    assert root.attributes[semconv.AGENT_NAME] == "bot"
    assert agents(gym) == {"bot/first", "bot/second"}
    assert result.messages[-1].to_text().startswith("no news")
    assert [task.text for task in gym.sink.tasks] == ["Bonn"]
    assert [reward.trajectory_id for reward in gym.sink.rewards] == gym.sink.ended


async def test_a_team_with_a_runtime_of_the_users_own_is_one_trajectory(echo: LLMServer) -> None:
    """Such a runtime runs its members in a context that never saw the team's run."""
    gym = RecordingGym("bot", mode="observe")
    runtime = SingleThreadedAgentRuntime()
    runtime.start()

    async with model(echo) as client:
        team = SelectorGroupChat(
            pair(client),
            client,
            name="desk",
            runtime=runtime,
            allow_repeated_speaker=True,
            selector_prompt="{roles} {participants} {history} Say: first",
            termination_condition=MaxMessageTermination(3),
        )
        gym.attach(team)
        await team.run(task="Bonn first")
        await runtime.stop()

    assert_whole(gym)
    assert agents(gym) == {"desk/first"}
    root_turns = [s for s in named(gym, semconv.CHAT) if s.attributes[semconv.AGENT_NAME] == "desk"]
    assert root_turns


async def test_a_team_can_be_reset_and_run_again(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        team = gym.attach(
            RoundRobinGroupChat(pair(client), termination_condition=MaxMessageTermination(2))
        )
        await team.run(task="Bonn")
        await team.reset()
        await team.run(task="Rome")

    assert_whole(gym, trajectories=2)
    assert [task.text for task in gym.sink.tasks] == ["Bonn", "Rome"]


async def test_an_attached_team_behaves_as_without(echo: LLMServer) -> None:
    async with model(echo) as client:
        requests = []
        for gym in (None, RecordingGym("bot", mode="observe")):
            echo.clear()
            team = RoundRobinGroupChat(pair(client), termination_condition=MaxMessageTermination(4))
            stream = (gym.attach(team) if gym else team).run_stream(task="Bonn")
            kinds = [type(item) async for item in stream]
            requests.append((kinds, [request.body_bytes for request in echo.requests]))

    assert requests[0] == requests[1]


async def test_handoffs_and_people_are_observed() -> None:
    gym = RecordingGym("bot", mode="observe")

    def answer(request: ChatRequest) -> ChatReply:
        names = [tool.name for tool in request.tools]
        target = next((name for name in names if name.startswith("transfer_to_second")), None)
        return call_tool(target) if target else call_tool("transfer_to_user")

    class Desk:
        def reply(self, request: ChatRequest) -> ChatReply:
            return answer(request)

    with LLMServer(Desk(), keep_alive=False) as server:
        async with model(server) as client:
            first = member("first", client, handoffs=["second"])
            second = member("second", client, handoffs=["user"])
            person = UserProxyAgent("user", input_func=lambda _: "thanks")
            team = Swarm(
                [first, second, person],
                termination_condition=HandoffTermination("first") | MaxMessageTermination(4),
            )
            await gym.attach(team).run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {"bot/first", "bot/second", "bot/user"}
    calls = {s.attributes[semconv.TOOL_NAME]: s.error for s in named(gym, semconv.EXECUTE_TOOL)}
    assert calls == {"transfer_to_second": "", "transfer_to_user": ""}
    assert {task.text for task in gym.sink.tasks} == {"Bonn"}


async def test_teams_inside_teams_agents_and_tools_are_one_trajectory(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:

        def small(name: str) -> RoundRobinGroupChat:
            return RoundRobinGroupChat([member(f"{name}_member", client)], name=name, max_turns=1)

        tool = TeamTool(small("below"), name="below", description="Asks a team.")
        team = RoundRobinGroupChat(
            [
                small("inner"),
                SocietyOfMindAgent("society", small("mind"), client),
                member("boss", client, tools=[tool]),
            ],
            name="outer",
            max_turns=3,
        )
        await gym.attach(team).run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {
        "outer/inner/inner-member",
        "outer/society",
        "outer/society/mind/mind-member",
        "outer/boss",
        "outer/boss/below/below-member",
    }


async def test_members_that_work_at_the_same_time_do_not_mix(echo: LLMServer) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        members = [member(name, client, max_tool_iterations=2) for name in ("a", "b", "c")]
        graph = DiGraphBuilder()
        for agent in members:
            graph.add_node(agent)
        graph.add_edge(members[0], members[1]).add_edge(members[0], members[2])
        flow = GraphFlow(members, graph.build())
        await gym.attach(flow).run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {"bot/a", "bot/b", "bot/c"}
    owners = {s.span_id: s.attributes[semconv.AGENT_NAME] for s in gym.sink.spans}
    for call in named(gym, semconv.EXECUTE_TOOL):
        assert owners[call.parent_id] == call.attributes[semconv.AGENT_NAME]


async def test_the_orchestrator_of_magentic_one_is_recorded() -> None:
    gym = RecordingGym("bot", mode="observe")
    item = '{{"reason": "r", "answer": {}}}'
    ledger = (
        "{"
        + ", ".join(
            f'"{key}": ' + item.format(value)
            for key, value in {
                "is_request_satisfied": "true",
                "is_in_loop": "false",
                "is_progress_being_made": "true",
                "next_speaker": '"first"',
                "instruction_or_question": '"go"',
            }.items()
        )
        + "}"
    )
    replies = ["facts", "plan", ledger, "final"]
    client = ReplayChatCompletionClient(replies)

    team = MagenticOneGroupChat([member("first", client, tools=None)], client)
    await gym.attach(team).run(task="Bonn")

    assert_whole(gym)
    assert len(named(gym, semconv.CHAT)) == len(replies)
    assert gym.sink.steps == []


async def test_members_with_wrapped_clients_join_the_trajectory_around_the_team(
    echo: LLMServer,
) -> None:
    gym = RecordingGym("bot", mode="observe")

    async with model(echo) as client:
        team = RoundRobinGroupChat(pair(gym.wrap(client)), max_turns=2)
        with gym.trajectory("ticket-1"):
            await team.run(task="Bonn")

    assert_whole(gym)
    assert agents(gym) == {"bot/first", "bot/second"}
