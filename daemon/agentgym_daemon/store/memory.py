"""What the writer remembers between batches, so that it need not ask the database per record."""

from __future__ import annotations

from collections.abc import Iterable

from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.state import TrajectoryState, load

KEPT_TRAJECTORIES = 4096
"""Recent trajectories kept in memory between batches; older ones are read again when named."""


class Memory:
    """A copy of small tables and of recent trajectories; dropped whole after a failed batch."""

    def __init__(self, cursor: Cursor, *, kept_trajectories: int = KEPT_TRAJECTORIES) -> None:
        self._kept = kept_trajectories
        self._states: dict[bytes, TrajectoryState] = {}
        ((last,),) = fetch(cursor, "SELECT coalesce(max(no), 0) FROM trajectories")
        self.last_trajectory: int = last
        self.stored_trajectory: int = last
        """The greatest number that lies in the database."""
        ((last,),) = fetch(cursor, "SELECT coalesce(max(no), 0) FROM rewards")
        self.last_reward: int = last
        self.tools: set[tuple[str, bytes]] = {
            (agent, fingerprint)
            for agent, fingerprint in fetch(cursor, "SELECT agent, fingerprint FROM tools")
        }
        self.scope_tools: set[tuple[Scope, bytes]] = {
            (Scope(*row[:3]), row[3])
            for row in fetch(
                cursor, "SELECT agent, agent_name, feature_schema, fingerprint FROM scope_tools"
            )
        }
        self.producers: dict[bytes, int] = dict(
            fetch(cursor, "SELECT producer_id, sequence FROM producers")
        )
        self.counters: dict[str, int] = dict(fetch(cursor, "SELECT name, value FROM counters"))

    def prepare(self, cursor: Cursor, ids: Iterable[bytes]) -> None:
        """Reads those of these trajectories that are stored and not in memory."""
        missing = [i for i in dict.fromkeys(ids) if i not in self._states]
        if missing and self.stored_trajectory:
            for state in load(cursor, missing):
                self._states[state.id] = state

    def trajectory(self, trajectory_id: bytes, *, start_ns: int) -> TrajectoryState:
        """The trajectory, which must have been prepared; a new one if it is not stored."""
        state = self._states.get(trajectory_id)
        if state is None:
            self.last_trajectory += 1
            state = TrajectoryState.new(
                no=self.last_trajectory, trajectory_id=trajectory_id, start_ns=start_ns
            )
            self._states[trajectory_id] = state
        return state

    def known(self, trajectory_id: bytes) -> TrajectoryState | None:
        """The trajectory, which must have been prepared; None if there is none."""
        return self._states.get(trajectory_id)

    def committed(self, touched: Iterable[TrajectoryState]) -> None:
        """Notes that everything is stored, and forgets the trajectories unused for longest."""
        self.stored_trajectory = self.last_trajectory
        for state in touched:
            self._states[state.id] = self._states.pop(state.id)
        for trajectory_id in list(self._states)[: max(0, len(self._states) - self._kept)]:
            del self._states[trajectory_id]
