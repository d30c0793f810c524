from agentgym.proto.v1 import common_pb2 as _common_pb2
from agentgym.proto.v1 import decision_pb2 as _decision_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainingHeader(_message.Message):
    __slots__ = ("scope", "parent", "tools", "feature_key", "trajectories", "versions")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    parent: str
    tools: _containers.RepeatedCompositeFieldContainer[_common_pb2.Tool]
    feature_key: bytes
    trajectories: int
    versions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., parent: _Optional[str] = ..., tools: _Optional[_Iterable[_Union[_common_pb2.Tool, _Mapping]]] = ..., feature_key: _Optional[bytes] = ..., trajectories: _Optional[int] = ..., versions: _Optional[_Iterable[str]] = ...) -> None: ...

class TrainingCall(_message.Message):
    __slots__ = ("decision_id", "tool", "error")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    decision_id: bytes
    tool: str
    error: bool
    def __init__(self, decision_id: _Optional[bytes] = ..., tool: _Optional[str] = ..., error: bool = ...) -> None: ...

class TrainingTrajectory(_message.Message):
    __slots__ = ("trajectory_id", "reward", "closed_unix_nano", "decisions", "features", "calls", "weight", "outcome", "tokens")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    CLOSED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    reward: float
    closed_unix_nano: int
    decisions: _containers.RepeatedCompositeFieldContainer[_decision_pb2.DecisionRecord]
    features: _containers.RepeatedCompositeFieldContainer[_decision_pb2.TaskFeatures]
    calls: _containers.RepeatedCompositeFieldContainer[TrainingCall]
    weight: float
    outcome: float
    tokens: int
    def __init__(self, trajectory_id: _Optional[bytes] = ..., reward: _Optional[float] = ..., closed_unix_nano: _Optional[int] = ..., decisions: _Optional[_Iterable[_Union[_decision_pb2.DecisionRecord, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[_decision_pb2.TaskFeatures, _Mapping]]] = ..., calls: _Optional[_Iterable[_Union[TrainingCall, _Mapping]]] = ..., weight: _Optional[float] = ..., outcome: _Optional[float] = ..., tokens: _Optional[int] = ...) -> None: ...
