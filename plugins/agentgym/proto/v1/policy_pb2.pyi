from agentgym.proto.v1 import common_pb2 as _common_pb2
from agentgym.proto.v1 import experiment_pb2 as _experiment_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubscribeRequest(_message.Message):
    __slots__ = ("contract_version", "plugin_version", "agent", "producer_id", "signed")
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    contract_version: int
    plugin_version: str
    agent: str
    producer_id: bytes
    signed: bool
    def __init__(self, contract_version: _Optional[int] = ..., plugin_version: _Optional[str] = ..., agent: _Optional[str] = ..., producer_id: _Optional[bytes] = ..., signed: bool = ...) -> None: ...

class Steering(_message.Message):
    __slots__ = ("control_share", "temperature", "floor", "defer_floor", "top_k", "stale_after_s", "killed", "stage", "canary_share")
    CONTROL_SHARE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    DEFER_FLOOR_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    STALE_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    KILLED_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    control_share: float
    temperature: float
    floor: float
    defer_floor: float
    top_k: int
    stale_after_s: int
    killed: bool
    stage: _common_pb2.Stage
    canary_share: float
    def __init__(self, control_share: _Optional[float] = ..., temperature: _Optional[float] = ..., floor: _Optional[float] = ..., defer_floor: _Optional[float] = ..., top_k: _Optional[int] = ..., stale_after_s: _Optional[int] = ..., killed: bool = ..., stage: _Optional[_Union[_common_pb2.Stage, str]] = ..., canary_share: _Optional[float] = ...) -> None: ...

class FeatureSchema(_message.Message):
    __slots__ = ("number", "encoder_sha256", "encoder_size")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ENCODER_SHA256_FIELD_NUMBER: _ClassVar[int]
    ENCODER_SIZE_FIELD_NUMBER: _ClassVar[int]
    number: int
    encoder_sha256: str
    encoder_size: int
    def __init__(self, number: _Optional[int] = ..., encoder_sha256: _Optional[str] = ..., encoder_size: _Optional[int] = ...) -> None: ...

class SignedUpdate(_message.Message):
    __slots__ = ("update", "key_id", "signature")
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    update: bytes
    key_id: str
    signature: bytes
    def __init__(self, update: _Optional[bytes] = ..., key_id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class PolicyUpdate(_message.Message):
    __slots__ = ("contract_version", "daemon_version", "feature_key", "steering", "live", "features", "down", "agent", "serial", "issued_unix_nano", "expires_unix_nano", "experiment", "arms")
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    DAEMON_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    STEERING_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    ISSUED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    contract_version: int
    daemon_version: str
    feature_key: bytes
    steering: Steering
    live: _containers.RepeatedCompositeFieldContainer[PolicyVersion]
    features: FeatureSchema
    down: _containers.RepeatedScalarFieldContainer[bytes]
    agent: str
    serial: int
    issued_unix_nano: int
    expires_unix_nano: int
    experiment: _experiment_pb2.Experiment
    arms: _containers.RepeatedCompositeFieldContainer[PolicyVersion]
    def __init__(self, contract_version: _Optional[int] = ..., daemon_version: _Optional[str] = ..., feature_key: _Optional[bytes] = ..., steering: _Optional[_Union[Steering, _Mapping]] = ..., live: _Optional[_Iterable[_Union[PolicyVersion, _Mapping]]] = ..., features: _Optional[_Union[FeatureSchema, _Mapping]] = ..., down: _Optional[_Iterable[bytes]] = ..., agent: _Optional[str] = ..., serial: _Optional[int] = ..., issued_unix_nano: _Optional[int] = ..., expires_unix_nano: _Optional[int] = ..., experiment: _Optional[_Union[_experiment_pb2.Experiment, _Mapping]] = ..., arms: _Optional[_Iterable[_Union[PolicyVersion, _Mapping]]] = ...) -> None: ...

class PolicyVersion(_message.Message):
    __slots__ = ("scope", "version", "parent", "sha256", "size", "manifest_json", "status", "created_unix_nano", "pinned", "receipt_json", "aliases", "note")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_JSON_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    version: str
    parent: str
    sha256: str
    size: int
    manifest_json: str
    status: str
    created_unix_nano: int
    pinned: bool
    receipt_json: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    note: str
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., version: _Optional[str] = ..., parent: _Optional[str] = ..., sha256: _Optional[str] = ..., size: _Optional[int] = ..., manifest_json: _Optional[str] = ..., status: _Optional[str] = ..., created_unix_nano: _Optional[int] = ..., pinned: bool = ..., receipt_json: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., note: _Optional[str] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    def __init__(self, agent: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyVersion]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyVersion, _Mapping]]] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("version", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    reason: str
    def __init__(self, version: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("scope", "reason")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    reason: str
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("version", "scope", "unpin", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    UNPIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    scope: _common_pb2.Scope
    unpin: bool
    reason: str
    def __init__(self, version: _Optional[str] = ..., scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., unpin: bool = ..., reason: _Optional[str] = ...) -> None: ...

class ChangeResponse(_message.Message):
    __slots__ = ("version", "previous")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    version: str
    previous: str
    def __init__(self, version: _Optional[str] = ..., previous: _Optional[str] = ...) -> None: ...

class SetStageRequest(_message.Message):
    __slots__ = ("agent", "stage", "step", "canary_share", "reason", "unseen", "if_proven")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNSEEN_FIELD_NUMBER: _ClassVar[int]
    IF_PROVEN_FIELD_NUMBER: _ClassVar[int]
    agent: str
    stage: _common_pb2.Stage
    step: int
    canary_share: float
    reason: str
    unseen: bool
    if_proven: bool
    def __init__(self, agent: _Optional[str] = ..., stage: _Optional[_Union[_common_pb2.Stage, str]] = ..., step: _Optional[int] = ..., canary_share: _Optional[float] = ..., reason: _Optional[str] = ..., unseen: bool = ..., if_proven: bool = ...) -> None: ...

class ListStagesRequest(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    def __init__(self, agent: _Optional[str] = ...) -> None: ...

class ListStagesResponse(_message.Message):
    __slots__ = ("stages", "all_killed")
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ALL_KILLED_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedCompositeFieldContainer[_common_pb2.AgentStage]
    all_killed: bool
    def __init__(self, stages: _Optional[_Iterable[_Union[_common_pb2.AgentStage, _Mapping]]] = ..., all_killed: bool = ...) -> None: ...

class KillRequest(_message.Message):
    __slots__ = ("agent", "revive", "reason")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    REVIVE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    agent: str
    revive: bool
    reason: str
    def __init__(self, agent: _Optional[str] = ..., revive: bool = ..., reason: _Optional[str] = ...) -> None: ...

class StageResponse(_message.Message):
    __slots__ = ("now", "before", "seen", "killed", "all_killed", "evidence", "proven")
    NOW_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    KILLED_FIELD_NUMBER: _ClassVar[int]
    ALL_KILLED_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    PROVEN_FIELD_NUMBER: _ClassVar[int]
    now: _common_pb2.AgentStage
    before: _common_pb2.AgentStage
    seen: bool
    killed: _containers.RepeatedScalarFieldContainer[str]
    all_killed: bool
    evidence: str
    proven: bool
    def __init__(self, now: _Optional[_Union[_common_pb2.AgentStage, _Mapping]] = ..., before: _Optional[_Union[_common_pb2.AgentStage, _Mapping]] = ..., seen: bool = ..., killed: _Optional[_Iterable[str]] = ..., all_killed: bool = ..., evidence: _Optional[str] = ..., proven: bool = ...) -> None: ...
