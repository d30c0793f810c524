"""Rollouts of a LitAgent through agl.Trainer, with the policy as its resource."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import agentlightning as agl
import pytest
from opentelemetry import trace

from agentgym_daemon.learning import lightning
from agentgym_daemon.learning.lightning import PolicyStore, ToolPolicyAlgorithm
from agentgym_daemon.learning.rollouts.learner import LearnerOptions
from agentgym_daemon.learning.settings import LearningSettings

QUICK = LearningSettings(rounds=15)
KEY = b"k" * 32


class DeskAgent(agl.LitAgent):
    """An agent at the support desk; tasks may tell it to fail or to say nothing."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self.world = world
        self.seen: list[tuple[str, str, str]] = []  # mode, served version, newest version
        self.threads: set[str] = set()

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float | None:
        self.threads.add(threading.current_thread().name)
        with lightning.tool_run(resources, rollout, task=task.text) as run:
            self.seen.append((rollout.mode, run.served.version, rollout.resources_id))
            reward: float = self.world.serve(task, run)
        return reward


def fit(
    agent: Any,
    tasks: Any,
    *,
    runners: int = 1,
    val: Any = None,
    encoder: str = "none",
    **options: Any,
) -> Any:
    """Trains; returns algorithm and store."""
    algorithm = ToolPolicyAlgorithm(
        LearnerOptions(agent="desk", settings=QUICK, feature_key=KEY, encoder=encoder), **options
    )
    store = PolicyStore(name="fixed")
    lightning.trainer(algorithm, store, runners=runners).fit(agent, tasks, val_dataset=val)
    return algorithm, store


def test_each_batch_runs_under_the_version_that_the_batch_before_it_taught(
    desk_world: Callable[..., Any],
) -> None:
    world = desk_world(60)
    agent = DeskAgent(world)

    algorithm, store = fit(agent, world.tasks, batch=30, passes=2, val=world.tasks[:10])

    assert [(r.version, r.rollouts, r.failed) for r in algorithm.rounds] == [
        (f"r-{n:06d}", 30, 0) for n in (1, 2, 3, 4)
    ]
    assert all(r.accepted for r in algorithm.rounds), [r.reasons for r in algorithm.rounds]
    assert [version for mode, version, _ in agent.seen if mode == "train"] == [
        version for version in ("", "r-000001", "r-000002", "r-000003") for _ in range(30)
    ]
    served = {
        update.resources_id: update.resources["tool_policy"].sampling_parameters["version"]
        for update in asyncio.run(store.query_resources())
    }
    assert [served[i] for _, _, i in agent.seen] == [version for _, version, _ in agent.seen]
    assert (agent.seen[-1][0], agent.seen[-1][1]) == ("val", "r-000004")
    assert algorithm.serving.version == "r-000004"
    assert algorithm.rounds[0].policy is None
    assert algorithm.rounds[1].policy is not None


def test_it_learns_to_choose_tools(desk_world: Callable[..., Any]) -> None:
    """240 requests three times, in batches of 120: well above the agent by itself."""
    world = desk_world(240)

    algorithm, _ = fit(DeskAgent(world), world.tasks, batch=120, passes=3, val=world.tasks)

    before = algorithm.rounds[0].control
    assert 0.4 < before < 0.75
    assert algorithm.validation > before + 0.1


def test_it_works_with_the_encoder_that_the_daemon_has_by_default(
    desk_world: Callable[..., Any],
) -> None:
    world = desk_world(20)

    algorithm, _ = fit(DeskAgent(world), world.tasks, batch=10, encoder="default")

    assert [r.accepted for r in algorithm.rounds] == [True, True]
    assert algorithm.rounds[1].report["gradient_steps_of_parent"] > 0
    assert algorithm.rounds[1].report["ratio_error"] < 1e-6


def test_a_run_can_be_repeated(desk_world: Callable[..., Any]) -> None:
    world = desk_world(40)

    first, _ = fit(DeskAgent(world), world.tasks, batch=20)
    second, _ = fit(DeskAgent(world), world.tasks, batch=20)

    assert first.rounds[-1].report == second.rounds[-1].report
    assert first.serving.sha256 != ""


class FaultyAgent(DeskAgent):
    """Breaks on every third task."""

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float | None:
        if self.world.tasks.index(task) % 3 == 0:
            raise ConnectionError("the shop is closed")
        return super().rollout(task, resources, rollout)


def test_a_fault_of_the_agent_is_no_reward_of_zero(desk_world: Callable[..., Any]) -> None:
    world = desk_world(30)

    algorithm, store = fit(FaultyAgent(world), world.tasks, batch=30)

    (done,) = algorithm.rounds
    assert (done.rollouts, done.failed, done.unrewarded) == (30, 10, 0)
    assert done.report["rewarded"] + done.report["held_out"] == 20
    assert len(asyncio.run(store.query_rollouts(status_in=["failed"]))) == 10


class SilentAgent(DeskAgent):
    """Never says how it went."""

    def rollout(self, task: Any, resources: Any, rollout: Any) -> None:
        super().rollout(task, resources, rollout)


def test_a_missing_reward_is_no_zero_either(desk_world: Callable[..., Any]) -> None:
    world = desk_world(10)

    algorithm, _ = fit(SilentAgent(world), world.tasks, batch=10)

    assert (algorithm.rounds[0].unrewarded, algorithm.rounds[0].control) == (10, None)


class EmittingAgent(DeskAgent):
    """Rewards by Agent Lightning's emitter, on as many threads as there are runners."""

    def rollout(self, task: Any, resources: Any, rollout: Any) -> None:
        with lightning.tool_run(resources, rollout, task=task.text) as run:
            self.threads.add(threading.current_thread().name)
            agl.emit_reward(self.world.serve(task, run))
            time.sleep(0.002)  # so that no runner is through before the others begin
        with agl.operation(name="after") as after:
            after.set_input(task.id)


def test_emitters_work_on_several_runners_without_opentelemetry(
    desk_world: Callable[..., Any],
) -> None:
    world = desk_world(60)
    agent = EmittingAgent(world)
    before = trace.get_tracer_provider()

    algorithm, store = fit(agent, world.tasks, batch=60, runners=3)

    assert algorithm.rounds[0].unrewarded == 0
    assert len(agent.threads) > 1
    assert trace.get_tracer_provider() is before
    for rollout in asyncio.run(store.query_rollouts()):
        spans = asyncio.run(store.query_spans(rollout.rollout_id))
        names = [span.name for span in spans]
        assert names.count("agentgym.decisions") == 1
        assert names.count("agentlightning.annotation") == 1
        assert names.count("agentlightning.operation") == 1


class BlindAgent(agl.LitAgent):
    """Does not know of the policy."""

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        return 1.0


class GenerousAgent(DeskAgent):
    """Rewards beyond all measure."""

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        super().rollout(task, resources, rollout)
        return 7.0


class BrokenAgent(DeskAgent):
    """Cannot do anything."""

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        raise OSError("no such shop")


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        (GenerousAgent, "between 0 and 1, got 7.0"),
        (BrokenAgent, "none of 5 rollouts ended without a fault"),
        (lambda world: BlindAgent(), "never asked the policy"),
    ],
)
def test_what_cannot_be_learned_from_ends_the_training(
    agent: Any, says: str, desk_world: Callable[..., Any]
) -> None:
    world = desk_world(5)

    with pytest.raises((ValueError, RuntimeError), match=says):
        fit(agent(world), world.tasks, batch=5)


async def test_without_tasks_and_without_a_job_it_says_so() -> None:
    algorithm = ToolPolicyAlgorithm()
    algorithm.set_store(PolicyStore())

    with pytest.raises(ValueError, match="train_dataset"):
        await algorithm.run()


async def test_another_store_is_refused() -> None:
    algorithm = ToolPolicyAlgorithm()
    algorithm.set_store(agl.InMemoryLightningStore())

    with pytest.raises(TypeError, match="expected a PolicyStore, got InMemoryLightningStore"):
        await algorithm.run([1])


def test_a_trainer_of_your_own_may_wrap_the_store(desk_world: Callable[..., Any]) -> None:
    world = desk_world(10)
    algorithm = ToolPolicyAlgorithm(LearnerOptions(settings=QUICK, encoder="none"), batch=10)
    tracer = lightning.NullTracer()
    trainer = agl.Trainer(
        algorithm=algorithm,
        store=PolicyStore(),
        tracer=tracer,
        runner=agl.LitAgentRunner(tracer, poll_interval=0.02, heartbeat_interval=0.05),
        strategy=agl.SharedMemoryExecutionStrategy(main_thread="algorithm"),
    )

    trainer.fit(DeskAgent(world), world.tasks)

    assert [done.rollouts for done in algorithm.rounds] == [10]


async def test_a_tool_run_needs_the_resource_and_the_tracer() -> None:
    store = PolicyStore()
    rollout = await store.start_rollout({})

    with pytest.raises(ValueError, match="tool_policy"), lightning.tool_run({}, rollout, task="x"):
        pass
    resources = lightning.policy_resource(lightning.Serving("desk"))
    with (
        pytest.raises(RuntimeError, match="build the trainer"),
        lightning.tool_run(resources, rollout, task="x"),
    ):
        pass
