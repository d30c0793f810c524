from agentgym.proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskFeatures(_message.Message):
    __slots__ = ("features_id", "trajectory_id", "feature_schema", "index", "quantised", "scale", "embedding", "embedding_scale")
    FEATURES_ID_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    QUANTISED_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SCALE_FIELD_NUMBER: _ClassVar[int]
    features_id: bytes
    trajectory_id: bytes
    feature_schema: int
    index: _containers.RepeatedScalarFieldContainer[int]
    quantised: bytes
    scale: float
    embedding: bytes
    embedding_scale: float
    def __init__(self, features_id: _Optional[bytes] = ..., trajectory_id: _Optional[bytes] = ..., feature_schema: _Optional[int] = ..., index: _Optional[_Iterable[int]] = ..., quantised: _Optional[bytes] = ..., scale: _Optional[float] = ..., embedding: _Optional[bytes] = ..., embedding_scale: _Optional[float] = ...) -> None: ...

class PastCall(_message.Message):
    __slots__ = ("tool", "error")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    tool: bytes
    error: bool
    def __init__(self, tool: _Optional[bytes] = ..., error: bool = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("kind", "tools", "score", "probability")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Arm.Kind]
        KIND_DEFER: _ClassVar[Arm.Kind]
        KIND_FORCE: _ClassVar[Arm.Kind]
        KIND_SHOW: _ClassVar[Arm.Kind]
    KIND_UNSPECIFIED: Arm.Kind
    KIND_DEFER: Arm.Kind
    KIND_FORCE: Arm.Kind
    KIND_SHOW: Arm.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    kind: Arm.Kind
    tools: _containers.RepeatedScalarFieldContainer[int]
    score: float
    probability: float
    def __init__(self, kind: _Optional[_Union[Arm.Kind, str]] = ..., tools: _Optional[_Iterable[int]] = ..., score: _Optional[float] = ..., probability: _Optional[float] = ...) -> None: ...

class DecisionRecord(_message.Message):
    __slots__ = ("decision_id", "trajectory_id", "step", "scope", "agent_path", "time_unix_nano", "mode", "assignment", "assignment_probability", "fallback", "policy_version", "offered", "allowed", "shown", "support", "arm", "arm_propensity", "temperature", "floor", "defer_floor", "top_k", "greedy", "history", "features_id", "called", "completed", "down", "force")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    AGENT_PATH_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    ARM_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    DEFER_FLOOR_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_ID_FIELD_NUMBER: _ClassVar[int]
    CALLED_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    decision_id: bytes
    trajectory_id: bytes
    step: int
    scope: _common_pb2.Scope
    agent_path: _containers.RepeatedScalarFieldContainer[str]
    time_unix_nano: int
    mode: _common_pb2.Mode
    assignment: _common_pb2.Assignment
    assignment_probability: float
    fallback: _common_pb2.Fallback
    policy_version: str
    offered: _containers.RepeatedScalarFieldContainer[bytes]
    allowed: _containers.RepeatedScalarFieldContainer[bool]
    shown: _containers.RepeatedScalarFieldContainer[int]
    support: _containers.RepeatedCompositeFieldContainer[Arm]
    arm: int
    arm_propensity: float
    temperature: float
    floor: float
    defer_floor: float
    top_k: int
    greedy: bool
    history: _containers.RepeatedCompositeFieldContainer[PastCall]
    features_id: bytes
    called: _containers.RepeatedScalarFieldContainer[str]
    completed: bool
    down: _containers.RepeatedScalarFieldContainer[int]
    force: str
    def __init__(self, decision_id: _Optional[bytes] = ..., trajectory_id: _Optional[bytes] = ..., step: _Optional[int] = ..., scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., agent_path: _Optional[_Iterable[str]] = ..., time_unix_nano: _Optional[int] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., assignment: _Optional[_Union[_common_pb2.Assignment, str]] = ..., assignment_probability: _Optional[float] = ..., fallback: _Optional[_Union[_common_pb2.Fallback, str]] = ..., policy_version: _Optional[str] = ..., offered: _Optional[_Iterable[bytes]] = ..., allowed: _Optional[_Iterable[bool]] = ..., shown: _Optional[_Iterable[int]] = ..., support: _Optional[_Iterable[_Union[Arm, _Mapping]]] = ..., arm: _Optional[int] = ..., arm_propensity: _Optional[float] = ..., temperature: _Optional[float] = ..., floor: _Optional[float] = ..., defer_floor: _Optional[float] = ..., top_k: _Optional[int] = ..., greedy: bool = ..., history: _Optional[_Iterable[_Union[PastCall, _Mapping]]] = ..., features_id: _Optional[bytes] = ..., called: _Optional[_Iterable[str]] = ..., completed: bool = ..., down: _Optional[_Iterable[int]] = ..., force: _Optional[str] = ...) -> None: ...

class RecordRequest(_message.Message):
    __slots__ = ("decisions", "features")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[DecisionRecord]
    features: _containers.RepeatedCompositeFieldContainer[TaskFeatures]
    def __init__(self, decisions: _Optional[_Iterable[_Union[DecisionRecord, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[TaskFeatures, _Mapping]]] = ...) -> None: ...

class RecordResponse(_message.Message):
    __slots__ = ("accepted", "rejected", "message")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    rejected: int
    message: str
    def __init__(self, accepted: _Optional[int] = ..., rejected: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...
