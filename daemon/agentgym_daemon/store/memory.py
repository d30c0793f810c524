"""What the writer remembers between batches, so that it need not ask the database per record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentgym_daemon.store.database import Cursor, fetch
from agentgym_daemon.store.indexes import Indexes
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.state import RewardState, TrajectoryState, load

KEPT_TRAJECTORIES = 4096
"""Recent trajectories kept in memory between batches; older ones are read again when named."""


class Memory:
    """A copy of small tables and of recent trajectories; dropped whole after a failed batch."""

    def __init__(
        self, cursor: Cursor, indexes: Indexes, *, kept_trajectories: int = KEPT_TRAJECTORIES
    ) -> None:
        self._kept = kept_trajectories
        self._indexes = indexes
        self._states: dict[bytes, TrajectoryState] = {}
        ((last,),) = fetch(cursor, "SELECT coalesce(max(no), 0) FROM trajectories")
        self.stored_trajectory: int = last
        """The greatest number that lies in the database."""
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
        numbers = self._indexes.of_ids(cursor, missing)
        if numbers:
            wanted = set(missing)
            for state in load(cursor, numbers):
                if state.id in wanted:  # numbers are found by a hash
                    self._states[state.id] = state

    def known(self, trajectory_id: bytes) -> TrajectoryState | None:
        """The trajectory, which must have been prepared; None if there is none."""
        return self._states.get(trajectory_id)

    def new_trajectory(self, trajectory_id: bytes, *, no: int, start_ns: int) -> TrajectoryState:
        """A trajectory that is not known."""
        state = TrajectoryState.new(no=no, trajectory_id=trajectory_id, start_ns=start_ns)
        self._states[trajectory_id] = state
        return state

    def committed(
        self, cursor: Cursor, touched: Iterable[TrajectoryState], rewards: Sequence[RewardState]
    ) -> None:
        """Notes that everything is stored, and forgets the trajectories unused for longest."""
        changed = list(touched)
        self._indexes.note(cursor, changed, rewards, stored=self.stored_trajectory)
        for state in changed:
            state.indexed_key = state.key
            self._states[state.id] = self._states.pop(state.id)
            self.stored_trajectory = max(self.stored_trajectory, state.no)
        for trajectory_id in list(self._states)[: max(0, len(self._states) - self._kept)]:
            del self._states[trajectory_id]

    def forget(self) -> None:
        """Forgets all trajectories, because some may have been deleted."""
        self._states.clear()
