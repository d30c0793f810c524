from agentgym.proto.v1 import catalogue_pb2 as _catalogue_pb2
from agentgym.proto.v1 import common_pb2 as _common_pb2
from agentgym.proto.v1 import experiment_pb2 as _experiment_pb2
from agentgym.proto.v1 import policy_pb2 as _policy_pb2
from agentgym.proto.v1 import reward_pb2 as _reward_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogRecord(_message.Message):
    __slots__ = ("received_unix_nano", "producer_id", "sequence", "expired", "audit", "no_rewards", "otlp_traces", "decisions", "catalogue", "reward", "revocation", "closure", "policy", "change", "training", "retention")
    RECEIVED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    NO_REWARDS_FIELD_NUMBER: _ClassVar[int]
    OTLP_TRACES_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    CLOSURE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    received_unix_nano: int
    producer_id: bytes
    sequence: int
    expired: _containers.RepeatedScalarFieldContainer[bytes]
    audit: Audit
    no_rewards: bool
    otlp_traces: bytes
    decisions: bytes
    catalogue: _catalogue_pb2.PutRequest
    reward: RewardFact
    revocation: Revocation
    closure: Closure
    policy: _policy_pb2.PolicyVersion
    change: PolicyChange
    training: TrainingRun
    retention: Retention
    def __init__(self, received_unix_nano: _Optional[int] = ..., producer_id: _Optional[bytes] = ..., sequence: _Optional[int] = ..., expired: _Optional[_Iterable[bytes]] = ..., audit: _Optional[_Union[Audit, _Mapping]] = ..., no_rewards: bool = ..., otlp_traces: _Optional[bytes] = ..., decisions: _Optional[bytes] = ..., catalogue: _Optional[_Union[_catalogue_pb2.PutRequest, _Mapping]] = ..., reward: _Optional[_Union[RewardFact, _Mapping]] = ..., revocation: _Optional[_Union[Revocation, _Mapping]] = ..., closure: _Optional[_Union[Closure, _Mapping]] = ..., policy: _Optional[_Union[_policy_pb2.PolicyVersion, _Mapping]] = ..., change: _Optional[_Union[PolicyChange, _Mapping]] = ..., training: _Optional[_Union[TrainingRun, _Mapping]] = ..., retention: _Optional[_Union[Retention, _Mapping]] = ...) -> None: ...

class RewardFact(_message.Message):
    __slots__ = ("reward_id", "reward")
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    reward_id: str
    reward: _reward_pb2.Reward
    def __init__(self, reward_id: _Optional[str] = ..., reward: _Optional[_Union[_reward_pb2.Reward, _Mapping]] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("reward_id", "reason")
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    reward_id: str
    reason: str
    def __init__(self, reward_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Closure(_message.Message):
    __slots__ = ("trajectory_id", "reason")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    reason: str
    def __init__(self, trajectory_id: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class PolicyChange(_message.Message):
    __slots__ = ("kind", "scope", "version", "previous", "actor", "reason", "stage", "canary_share", "alias", "receipt_json", "experiment")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[PolicyChange.Kind]
        KIND_PROMOTE: _ClassVar[PolicyChange.Kind]
        KIND_ROLLBACK: _ClassVar[PolicyChange.Kind]
        KIND_PIN: _ClassVar[PolicyChange.Kind]
        KIND_UNPIN: _ClassVar[PolicyChange.Kind]
        KIND_QUARANTINE: _ClassVar[PolicyChange.Kind]
        KIND_RELEASE: _ClassVar[PolicyChange.Kind]
        KIND_STAGE: _ClassVar[PolicyChange.Kind]
        KIND_KILL: _ClassVar[PolicyChange.Kind]
        KIND_REVIVE: _ClassVar[PolicyChange.Kind]
        KIND_NOTE: _ClassVar[PolicyChange.Kind]
        KIND_ALIAS: _ClassVar[PolicyChange.Kind]
        KIND_PRUNE: _ClassVar[PolicyChange.Kind]
        KIND_IMPORT: _ClassVar[PolicyChange.Kind]
        KIND_SETTINGS: _ClassVar[PolicyChange.Kind]
        KIND_KEY: _ClassVar[PolicyChange.Kind]
        KIND_EXPERIMENT_START: _ClassVar[PolicyChange.Kind]
        KIND_EXPERIMENT_STOP: _ClassVar[PolicyChange.Kind]
    KIND_UNSPECIFIED: PolicyChange.Kind
    KIND_PROMOTE: PolicyChange.Kind
    KIND_ROLLBACK: PolicyChange.Kind
    KIND_PIN: PolicyChange.Kind
    KIND_UNPIN: PolicyChange.Kind
    KIND_QUARANTINE: PolicyChange.Kind
    KIND_RELEASE: PolicyChange.Kind
    KIND_STAGE: PolicyChange.Kind
    KIND_KILL: PolicyChange.Kind
    KIND_REVIVE: PolicyChange.Kind
    KIND_NOTE: PolicyChange.Kind
    KIND_ALIAS: PolicyChange.Kind
    KIND_PRUNE: PolicyChange.Kind
    KIND_IMPORT: PolicyChange.Kind
    KIND_SETTINGS: PolicyChange.Kind
    KIND_KEY: PolicyChange.Kind
    KIND_EXPERIMENT_START: PolicyChange.Kind
    KIND_EXPERIMENT_STOP: PolicyChange.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_JSON_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    kind: PolicyChange.Kind
    scope: _common_pb2.Scope
    version: str
    previous: str
    actor: str
    reason: str
    stage: _common_pb2.Stage
    canary_share: float
    alias: str
    receipt_json: str
    experiment: _experiment_pb2.Experiment
    def __init__(self, kind: _Optional[_Union[PolicyChange.Kind, str]] = ..., scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., version: _Optional[str] = ..., previous: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., stage: _Optional[_Union[_common_pb2.Stage, str]] = ..., canary_share: _Optional[float] = ..., alias: _Optional[str] = ..., receipt_json: _Optional[str] = ..., experiment: _Optional[_Union[_experiment_pb2.Experiment, _Mapping]] = ...) -> None: ...

class Audit(_message.Message):
    __slots__ = ("number", "previous", "hash")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    number: int
    previous: bytes
    hash: bytes
    def __init__(self, number: _Optional[int] = ..., previous: _Optional[bytes] = ..., hash: _Optional[bytes] = ...) -> None: ...

class TrainingRun(_message.Message):
    __slots__ = ("scope", "version", "trajectories", "verdict", "report_json", "duration_s")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    version: str
    trajectories: int
    verdict: str
    report_json: str
    duration_s: float
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., version: _Optional[str] = ..., trajectories: _Optional[int] = ..., verdict: _Optional[str] = ..., report_json: _Optional[str] = ..., duration_s: _Optional[float] = ...) -> None: ...

class Retention(_message.Message):
    __slots__ = ("before_unix_nano", "trajectories", "spans", "log_bytes", "totals")
    class Total(_message.Message):
        __slots__ = ("scope", "assignment", "policy_version", "values")
        SCOPE_FIELD_NUMBER: _ClassVar[int]
        ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
        POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
        VALUES_FIELD_NUMBER: _ClassVar[int]
        scope: _common_pb2.Scope
        assignment: _common_pb2.Assignment
        policy_version: str
        values: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., assignment: _Optional[_Union[_common_pb2.Assignment, str]] = ..., policy_version: _Optional[str] = ..., values: _Optional[_Iterable[int]] = ...) -> None: ...
    BEFORE_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    before_unix_nano: int
    trajectories: int
    spans: int
    log_bytes: int
    totals: _containers.RepeatedCompositeFieldContainer[Retention.Total]
    def __init__(self, before_unix_nano: _Optional[int] = ..., trajectories: _Optional[int] = ..., spans: _Optional[int] = ..., log_bytes: _Optional[int] = ..., totals: _Optional[_Iterable[_Union[Retention.Total, _Mapping]]] = ...) -> None: ...
