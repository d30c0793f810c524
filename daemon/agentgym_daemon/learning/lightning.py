"""Agent Lightning 0.3 as engine of training; the only module that imports it (docs/adr/0001).

As the daemon's trainer it answers the jobs of `learning.worker`, over the same pipes:

    python -m agentgym_daemon.learning.lightning

From a LitAgent it is a store, an algorithm, and a trainer that puts them together:

    algorithm = lightning.ToolPolicyAlgorithm(LearnerOptions(agent="desk"))
    lightning.trainer(algorithm).fit(MyLitAgent(), train_dataset=tasks)
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# Otherwise a dependency of Agent Lightning asks the network for a list of prices at import.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import agentlightning as agl
from agentlightning.store.base import UNSET
from agentlightning.tracer.base import clear_active_tracer, get_active_tracer, set_active_tracer

from agentgym_daemon.learning import worker
from agentgym_daemon.learning.rollouts.history import History
from agentgym_daemon.learning.rollouts.learner import (
    ENGINE,
    Learner,
    LearnerOptions,
    Outcome,
    Round,
    encoder_of,
    mean_reward,
)
from agentgym_daemon.learning.rollouts.served import MODEL, RESOURCE, Serving, open_policy
from agentgym_daemon.learning.rollouts.session import (
    PlainSpan,
    ToolRun,
    read_run,
    trajectory_id_of,
)
from agentgym_daemon.learning.rollouts.store import StoreLogic

POLL_S = 0.02


# ---- the store


class PolicyStore(StoreLogic, agl.LightningStore):  # type: ignore[misc]  # no type information
    """Queue, rollouts and resources in this process; history from the daemon's snapshot.

    Finished rollouts go to a daemon through `reporter`. Nothing is written to disk.
    """

    types = agl
    unset = UNSET


def _status(plain: PlainSpan) -> Any:
    code = "ERROR" if plain.error else "OK"
    return agl.TraceStatus(status_code=code, description=plain.error or None)


# ---- the tracer

_collected: ContextVar[list[Any] | None] = ContextVar("agentgym_collected", default=None)
_last_trace: ContextVar[Sequence[Any]] = ContextVar("agentgym_last_trace", default=())
_active_lock = threading.Lock()
_active_workers = 0


class NullTracer(agl.DummyTracer):  # type: ignore[misc]  # it comes without type information
    """Puts what the emitters say into the store, and touches nothing of OpenTelemetry's.

    Runners on several threads may share it.
    """

    def init_worker(self, worker_id: int, store: Any = None) -> None:
        global _active_workers
        super().init_worker(worker_id, store)
        with _active_lock:
            if not _active_workers:
                set_active_tracer(self)
            _active_workers += 1

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        global _active_workers
        with _active_lock:
            _active_workers -= 1
            if not _active_workers:
                clear_active_tracer()
        super().teardown_worker(worker_id)

    @asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        store: Any = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AsyncIterator[Any]:
        """Collects the spans that are made inside, and stores them at the end."""
        collected: list[Any] = []
        token = _collected.set(collected)
        try:
            yield self
        finally:
            _collected.reset(token)
            kept = store or self._store
            spans = [
                agl.Span.from_core_fields(core, rollout_id=rollout_id, attempt_id=attempt_id)
                for core in collected
            ]
            if kept is not None and rollout_id and attempt_id:
                for span in spans:
                    span.sequence_id = await kept.get_next_span_sequence_id(rollout_id, attempt_id)
                await kept.add_many_spans(spans)
            _last_trace.set(spans)

    def get_last_trace(self) -> list[Any]:
        return list(_last_trace.get())

    def create_span(self, *args: Any, **kwargs: Any) -> Any:
        core = super().create_span(*args, **kwargs)
        if (collected := _collected.get()) is not None:
            collected.append(core)
        return core

    @contextmanager
    def operation_context(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        recording = None
        try:
            with super().operation_context(*args, **kwargs) as recording:
                yield recording
        finally:
            if (collected := _collected.get()) is not None and recording is not None:
                collected.append(recording.get_recorded_span())


# ---- the policy in a LitAgent


@contextmanager
def tool_run(resources: Mapping[str, Any], rollout: Any, *, task: str) -> Iterator[ToolRun]:
    """The policy for one rollout of a LitAgent; validation rollouts take its best choices."""
    resource = resources.get(RESOURCE)
    if resource is None:
        raise ValueError(f"expected the resource {RESOURCE!r}, got {sorted(resources)}")
    tracer = get_active_tracer()
    if tracer is None:
        raise RuntimeError("expected an active tracer; build the trainer with lightning.trainer()")
    run = ToolRun(
        open_policy(resource.sampling_parameters),
        task,
        trajectory_id_of(rollout.attempt.attempt_id),
        key=rollout.rollout_id,
        greedy=rollout.mode == "val",
    )
    try:
        yield run
    finally:
        for plain in run.spans():
            tracer.create_span(plain.name, plain.attributes, plain.start_s, _status(plain))


def policy_resource(serving: Serving) -> dict[str, Any]:
    """A policy version as the named resources that `tool_run` reads."""
    llm = agl.LLM(
        endpoint=serving.endpoint, model=MODEL, sampling_parameters=dict(serving.values())
    )
    return {RESOURCE: llm}


# ---- the algorithm


class ToolPolicyAlgorithm(agl.Algorithm):  # type: ignore[misc]  # it comes without type information
    """Rollouts in batches, each under the newest version; after each batch, one training.

    Without a dataset of tasks it answers `job` from the store's history, as the daemon's trainer.
    """

    def __init__(
        self,
        options: LearnerOptions | None = None,
        *,
        batch: int = 100,
        passes: int = 1,
        folder: Path | None = None,
        job: Mapping[str, Any] | None = None,
    ) -> None:
        self.options = options or LearnerOptions()
        self.rounds: list[Round] = []
        self.validation: float | None = None
        """Mean reward of the validation rollouts, which take the policy's best choices."""
        self.serving: Serving | None = None
        """The newest version that the gate accepted."""
        self.answer: dict[str, Any] | None = None
        self._batch, self._passes, self._folder, self._job = batch, passes, folder, job

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
        """Trains on rollouts of all tasks, or on the history alone."""
        if train_dataset is None:
            await self._answer()
            return
        with tempfile.TemporaryDirectory(prefix="agentgym-lightning-") as temporary:
            folder = self._folder or Path(temporary)
            learner = Learner(folder, self._policy_store().history, self.options)
            self.rounds = learner.rounds
            for tasks in self._batches(train_dataset):
                outcomes, failed = await self._rollouts(learner, tasks, "train")
                await asyncio.to_thread(learner.learn, outcomes, failed=failed)
            self.serving = learner.serving
            if val_dataset is not None:
                outcomes, _ = await self._rollouts(learner, list(val_dataset), "val")
                self.validation = mean_reward(outcomes)

    async def _answer(self) -> None:
        if self._job is None:
            raise ValueError("expected a train_dataset of tasks, got none")
        job = {**self._job, "engine": ENGINE}
        self.answer = await asyncio.to_thread(worker.run_job, job)
        header, data = self._policy_store().history.header, Path(job["out"]).read_bytes()
        serving = Serving(
            agent=header.scope.agent,
            agent_name=header.scope.agent_name,
            version=job["version"],
            sha256=self.answer["sha256"],
            feature_key=header.feature_key,
            encoder=encoder_of(header.scope.feature_schema),
            data=data,
        )
        if self.answer["receipt"]["accepted"]:
            await self.get_store().add_resources(policy_resource(serving))

    def _policy_store(self) -> PolicyStore:
        store = self.get_store()
        # A strategy may have wrapped it.
        found = store if isinstance(store, PolicyStore) else getattr(store, "store", None)
        if not isinstance(found, PolicyStore):
            raise TypeError(
                f"expected a PolicyStore, got {type(store).__name__}; build the trainer with "
                "lightning.trainer(), or give it one"
            )
        return found

    def _batches(self, dataset: Any) -> Iterator[list[Any]]:
        rng = random.Random(self.options.seed)
        order = [
            i for _ in range(self._passes) for i in rng.sample(range(len(dataset)), len(dataset))
        ]
        for first in range(0, len(order), self._batch):
            yield [dataset[i] for i in order[first : first + self._batch]]

    async def _rollouts(
        self, learner: Learner, tasks: Sequence[Any], mode: str
    ) -> tuple[list[Outcome], int]:
        """Runs tasks under the newest version; what succeeded, and how many did not."""
        store = self.get_store()
        resources = await store.add_resources(policy_resource(learner.serving))
        queued = [await store.enqueue_rollout(task, mode, resources.resources_id) for task in tasks]
        ended = await store.wait_for_rollouts(rollout_ids=[r.rollout_id for r in queued])
        outcomes, failed = [], 0
        for rollout in sorted(ended, key=lambda r: r.rollout_id):
            if rollout.status != "succeeded":
                failed += 1
                continue
            spans = await store.query_spans(rollout.rollout_id, "latest")
            run = read_run((span.name, span.attributes) for span in spans)
            if run is None:
                raise RuntimeError(
                    f"rollout {rollout.rollout_id} never asked the policy; use lightning.tool_run "
                    "in the LitAgent"
                )
            reward = self._policy_store().reward(spans)
            outcomes.append(Outcome(run, reward, int(rollout.end_time * 1e9)))
        return outcomes, failed


def trainer(
    algorithm: ToolPolicyAlgorithm, store: PolicyStore | None = None, *, runners: int = 1
) -> Any:
    """A Trainer in this process's memory, with our tracer; call `fit` on it."""
    tracer = NullTracer()
    return agl.Trainer(
        algorithm=algorithm,
        store=PolicyStore() if store is None else store,
        tracer=tracer,
        runner=agl.LitAgentRunner(
            tracer, poll_interval=POLL_S, interval_jitter=0.0, heartbeat_interval=0.0
        ),
        strategy=agl.SharedMemoryExecutionStrategy(
            n_runners=runners, main_thread="algorithm", managed_store=False
        ),
    )


# ---- the daemon's engine


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Answers a job of the daemon through the algorithm; the same update as plain torch."""
    algorithm = ToolPolicyAlgorithm(job=job)
    algorithm.set_store(PolicyStore(History(Path(job["snapshot"]))))
    asyncio.run(algorithm.run())
    assert algorithm.answer is not None  # run() raises otherwise
    return algorithm.answer


if __name__ == "__main__":
    worker.main(run_job)
