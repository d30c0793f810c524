"""Stored runs as a policy sees them, for the services that compare versions."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentgym.policy.features import Featuriser
from agentgym.policy.parameters import Parameters
from agentgym.proto.v1 import policy_pb2
from agentgym_daemon.errors import InvalidRequestError
from agentgym_daemon.ingest.log import SegmentLog
from agentgym_daemon.learning.dataset import Dataset, read_dataset
from agentgym_daemon.policies.book import scope_key
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.store.training import export_snapshot


@dataclass(frozen=True, slots=True)
class Sources:
    """What services read besides the registry."""

    home: Path
    store: Store
    log: SegmentLog
    features: Featuriser
    feature_key: bytes

    def require_schema(self, version: policy_pb2.PolicyVersion) -> None:
        """Raises InvalidRequestError for a version that reads features which are not made here."""
        if version.scope.feature_schema != self.features.schema:
            raise InvalidRequestError(
                f"{version.version} reads features of schema {version.scope.feature_schema}, this "
                f"daemon makes those of schema {self.features.schema}; see the setting encoder"
            )

    def dataset(
        self, version: policy_pb2.PolicyVersion, policies: Sequence[Parameters], limit: int
    ) -> Dataset:
        """The newest ended runs of a version's scope, over the tools of these policies too.

        Blocks for as long as it takes to read them.
        """
        tools = {t: name for p in policies for t, name in zip(p.tools, p.names, strict=True)}
        with tempfile.TemporaryDirectory(dir=self.home, prefix="runs-") as directory:
            path = Path(directory) / "snapshot"
            with self.store.reading() as cursor:
                export_snapshot(
                    cursor,
                    Scope(*scope_key(version.scope)),
                    path,
                    feature_key=self.feature_key,
                    limit=limit,
                )
            return read_dataset(
                path, extra=tuple(tools.items()), featuriser=lambda *_: self.features
            )
