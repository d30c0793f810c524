"""TrajectoryService: what was stored, what is closing now, and why a step was decided so."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence

from agentgym.errors import SnapshotError
from agentgym.policy.features import Featuriser
from agentgym.policy.parameters import Parameters
from agentgym.proto.v1 import decision_pb2, trajectory_pb2, trajectory_pb2_grpc
from agentgym_daemon.errors import InvalidRequestError, NotFoundError
from agentgym_daemon.policies.hub import Subscriber
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.rewards.tracing import Trace, Tracer
from agentgym_daemon.rpc import messages
from agentgym_daemon.rpc.explain import explain
from agentgym_daemon.rpc.status import Context, stream, unary
from agentgym_daemon.rpc.validate import ID_BYTES, TRAJECTORY_ID_BYTES, identifier
from agentgym_daemon.store import trajectories
from agentgym_daemon.store.database import Store

STATES = ("", "open", "closed", "incomplete")
_WAITING = 1000  # closed trajectories that a slow reader may fall behind; older ones are left out
_TAIL_WAKE_S = 60.0


class Tails:
    """Carries ids of closed trajectories to those who follow; used on the event loop."""

    def __init__(self) -> None:
        self._followers: list[tuple[deque[bytes], Subscriber]] = []
        self.stopping = False

    def publish(self, trajectory_ids: Sequence[bytes]) -> None:
        """These trajectories have just closed."""
        for waiting, subscriber in self._followers:
            waiting.extend(trajectory_ids)
            subscriber.ring()

    def stop(self) -> None:
        """Ends all streams."""
        self.stopping = True
        self.publish(())

    @contextlib.contextmanager
    def follow(self, agent: str) -> Iterator[tuple[deque[bytes], Subscriber]]:
        """What closes for as long as the context lasts."""
        follower = (deque[bytes](maxlen=_WAITING), Subscriber(agent))
        self._followers.append(follower)
        try:
            yield follower
        finally:
            self._followers = [other for other in self._followers if other is not follower]


class TrajectoryService(trajectory_pb2_grpc.TrajectoryServiceServicer):
    """Reads through cursors of its own, off the event loop."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        tails: Tails,
        *,
        features: Featuriser,
        tracer: Tracer,
    ) -> None:
        self._store = store
        self._tracer = tracer
        self._registry = registry
        self._tails = tails
        self._features = features

    @unary
    async def Get(
        self, request: trajectory_pb2.GetTrajectoryRequest, context: Context
    ) -> trajectory_pb2.Trajectory:
        """One trajectory with everything that is known of it."""
        return await asyncio.to_thread(self._get, request.trajectory_id)

    @unary
    async def List(
        self, request: trajectory_pb2.ListTrajectoriesRequest, context: Context
    ) -> trajectory_pb2.ListTrajectoriesResponse:
        """Summaries, newest first."""
        if request.state not in STATES:
            raise InvalidRequestError(f"state: expected one of {STATES[1:]}, got {request.state!r}")
        return await asyncio.to_thread(self._list, request)

    @stream
    async def Tail(
        self, request: trajectory_pb2.TailRequest, context: Context
    ) -> AsyncIterator[trajectory_pb2.TrajectorySummary]:
        """Trajectories as they close."""
        with self._tails.follow(request.agent) as (waiting, subscriber):
            # The first byte says that the stream is open: nothing that closes from now is missed.
            await context.send_initial_metadata(())
            while not self._tails.stopping:
                await subscriber.wait(_TAIL_WAKE_S)
                ids = [waiting.popleft() for _ in range(len(waiting))]
                for row in await asyncio.to_thread(self._summaries, ids):
                    if not request.agent or row.agent == request.agent:
                        yield messages.summary(row)

    @unary
    async def Explain(
        self, request: trajectory_pb2.ExplainRequest, context: Context
    ) -> trajectory_pb2.ExplainResponse:
        """Why a step, or every step of a trajectory, was decided as it was."""
        return await asyncio.to_thread(self._explain, request.id)

    def _get(self, trajectory_id: bytes) -> trajectory_pb2.Trajectory:
        identifier(trajectory_id, TRAJECTORY_ID_BYTES, "trajectory_id")
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_ids(cursor, [trajectory_id])
            found = trajectories.trajectory(cursor, trajectory_id, numbers=numbers)
        if found is None:
            raise NotFoundError(
                f"no trajectory {trajectory_id.hex()}; it may not have been sent yet"
            )
        return messages.trajectory(found)

    def _list(
        self, request: trajectory_pb2.ListTrajectoriesRequest
    ) -> trajectory_pb2.ListTrajectoriesResponse:
        with self._store.reading() as cursor:
            rows = trajectories.list_summaries(
                cursor,
                agent=request.agent,
                key=request.key,
                state=request.state,
                limit=request.limit or trajectories.DEFAULT_LISTED,
                before_ns=min(request.before_unix_nano, 2**63 - 1),
            )
        return trajectory_pb2.ListTrajectoriesResponse(
            trajectories=[messages.summary(row) for row in rows]
        )

    def _summaries(self, trajectory_ids: Sequence[bytes]) -> list[trajectories.Summary]:
        if not trajectory_ids:
            return []
        with self._store.reading() as cursor:
            numbers = self._store.indexes.of_ids(cursor, trajectory_ids)
            return trajectories.summaries(cursor, trajectory_ids, numbers=numbers)

    def _explain(self, wanted: bytes) -> trajectory_pb2.ExplainResponse:
        if len(wanted) == TRAJECTORY_ID_BYTES:
            trajectory = self._get(wanted)
            decisions = list(trajectory.decisions)
        else:
            decision = self._decision(identifier(wanted, ID_BYTES, "id"))
            trajectory = self._get(decision.trajectory_id)
            decisions = [decision]
        return trajectory_pb2.ExplainResponse(
            outcome=_outcome(self._tracer.trace(trajectory.summary.trajectory_id)),
            explanations=[
                explain(
                    trajectory, decision, parameters_of=self._parameters_of, features=self._features
                )
                for decision in decisions
            ],
        )

    def _decision(self, decision_id: bytes) -> decision_pb2.DecisionRecord:
        with self._store.reading() as cursor:
            found = trajectories.decision(cursor, decision_id)
        if found is None:
            raise NotFoundError(f"no decision {decision_id.hex()}; it may not have been sent yet")
        return found

    def _parameters_of(self, version: str) -> Parameters | None:
        try:
            return self._registry.snapshot(version).parameters
        except (NotFoundError, SnapshotError):
            return None


def _outcome(trace: Trace) -> trajectory_pb2.RunOutcome:
    found = trajectory_pb2.RunOutcome(
        trajectory_id=trace.summary.trajectory_id,
        state=trace.summary.state,
        weight=trace.weight,
        cost=trace.cost,
        tokens=max(0, trace.spent.tokens),
        seconds=trace.spent.seconds,
        calls=trace.spent.calls,
    )
    if trace.summary.reward is not None:
        found.outcome = trace.summary.reward
    if trace.training_reward is not None:
        found.training_reward = trace.training_reward
    return found
