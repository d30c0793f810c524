"""What the store knows of policies, as the facts that the log holds."""

from __future__ import annotations

from agentgym.proto.v1 import common_pb2, experiment_pb2, policy_pb2
from agentgym_daemon.policies.book import Change, scope_of
from agentgym_daemon.store.database import Cursor
from agentgym_daemon.store.policies import StoredPolicy, policies, policy_changes


def history(cursor: Cursor) -> tuple[list[policy_pb2.PolicyVersion], list[Change]]:
    """All versions and all changes of what is live, each oldest first."""
    stored = policies(cursor)
    changes = [
        Change(
            kind=Change.Kind.Name(change.kind),
            scope=scope_of(change.scope),
            version=change.version,
            previous=change.previous,
            actor=change.actor,
            reason=change.reason,
            stage=common_pb2.Stage.Name(change.stage),
            canary_share=change.canary_share,
            alias=change.alias,
            receipt_json=change.receipt_json,
            experiment=_experiment(change.experiment),
        )
        for change in policy_changes(cursor)
    ]
    return [_version(version) for version in stored], changes


def _experiment(data: bytes | None) -> experiment_pb2.Experiment | None:
    return None if data is None else experiment_pb2.Experiment.FromString(data)


def _version(stored: StoredPolicy) -> policy_pb2.PolicyVersion:
    return policy_pb2.PolicyVersion(
        scope=scope_of(stored.scope),
        version=stored.version,
        parent=stored.parent,
        sha256=stored.sha256,
        size=stored.size,
        manifest_json=stored.manifest_json,
        status=stored.status,
        created_unix_nano=stored.created_ns,
        receipt_json=stored.receipt_json,
    )
