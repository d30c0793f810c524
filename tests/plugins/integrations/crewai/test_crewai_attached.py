"""Attached objects of CrewAI stay what they were to everybody else."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import Agent, Crew, Task
from crewai.hooks.dispatch import HookAborted, InterceptionPoint, scoped_hooks

from agentgym.errors import UnsupportedError
from tests.plugins.integrations.crewai.harness import QUIET, Model, crew, gym_for, spans
from tests.plugins.integrations.trees import assert_whole

pytestmark = QUIET


def test_attached_objects_keep_type_state_and_token_counts(serve: Any) -> None:
    gym = gym_for("observe")
    server = serve(Model("refund"))
    desk = crew(server)
    (agent,), llm = desk.agents, desk.agents[0].llm

    assert gym.attach(gym.attach(desk)) is desk
    desk.kickoff({"order": "7"})

    assert isinstance(desk, Crew)
    assert isinstance(agent, Agent)
    assert isinstance(agent.llm, type(llm))
    assert llm.get_token_usage_summary().successful_requests == 2
    assert desk.usage_metrics.successful_requests == 2
    assert gym.wrap(agent.llm) is agent.llm


def test_a_second_gym_takes_over_instead_of_piling_up(serve: Any) -> None:
    first, second = gym_for("observe"), gym_for("observe")
    desk = second.attach(first.attach(crew(serve(Model("refund")))))

    desk.kickoff({"order": "7"})

    assert first.sink.items == []
    assert_whole(second)


def test_hooks_of_the_user_still_run_and_their_veto_is_a_visible_error(serve: Any) -> None:
    seen: list[str] = []

    def veto(context: Any) -> None:
        seen.append(context.tool_name)
        raise HookAborted("not today")

    gym = gym_for("observe")
    desk = gym.attach(crew(serve(Model("refund"))))

    with scoped_hooks({InterceptionPoint.PRE_TOOL_CALL: [veto]}):
        desk.kickoff({"order": "7"})

    assert seen == ["refund"]
    assert spans(gym, "execute_tool")[0].error == "blocked"


def test_a_plain_crew_among_attached_ones_is_not_recorded(serve: Any) -> None:
    gym = gym_for("observe")
    attached, plain = gym.attach(crew(serve(Model("refund")))), crew(serve(Model("refund")))

    with scoped_hooks({}):
        attached.kickoff({"order": "7"})
        plain.kickoff({"order": "8"})

    assert_whole(gym)
    assert len(spans(gym, "execute_tool")) == 1


@pytest.mark.parametrize("verb", ["attach", "wrap"])
def test_other_objects_of_crewai_are_refused_with_advice(serve: Any, verb: str) -> None:
    task = Task(description="x", expected_output="y")

    with pytest.raises(UnsupportedError, match="gym"):
        getattr(gym_for(), verb)(task)
