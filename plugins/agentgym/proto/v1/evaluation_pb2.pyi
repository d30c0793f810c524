from agentgym.proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvaluateRequest(_message.Message):
    __slots__ = ("version", "against", "trajectories")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    version: str
    against: str
    trajectories: int
    def __init__(self, version: _Optional[str] = ..., against: _Optional[str] = ..., trajectories: _Optional[int] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("estimator", "value", "low", "high")
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    estimator: str
    value: float
    low: float
    high: float
    def __init__(self, estimator: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("scope", "version", "against", "identifiable", "reason", "runs", "decisions", "left_out", "control", "effective", "outside", "clipped", "matched", "value", "difference")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    version: str
    against: str
    identifiable: bool
    reason: str
    runs: int
    decisions: int
    left_out: int
    control: int
    effective: float
    outside: float
    clipped: float
    matched: int
    value: _containers.RepeatedCompositeFieldContainer[Estimate]
    difference: _containers.RepeatedCompositeFieldContainer[Estimate]
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., version: _Optional[str] = ..., against: _Optional[str] = ..., identifiable: bool = ..., reason: _Optional[str] = ..., runs: _Optional[int] = ..., decisions: _Optional[int] = ..., left_out: _Optional[int] = ..., control: _Optional[int] = ..., effective: _Optional[float] = ..., outside: _Optional[float] = ..., clipped: _Optional[float] = ..., matched: _Optional[int] = ..., value: _Optional[_Iterable[_Union[Estimate, _Mapping]]] = ..., difference: _Optional[_Iterable[_Union[Estimate, _Mapping]]] = ...) -> None: ...

class LiftRequest(_message.Message):
    __slots__ = ("agent", "effect")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    effect: float
    def __init__(self, agent: _Optional[str] = ..., effect: _Optional[float] = ...) -> None: ...

class MetricLift(_message.Message):
    __slots__ = ("name", "policy_runs", "control_runs", "policy_mean", "control_mean", "effect", "low", "high", "p_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_RUNS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_RUNS_FIELD_NUMBER: _ClassVar[int]
    POLICY_MEAN_FIELD_NUMBER: _ClassVar[int]
    CONTROL_MEAN_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    policy_runs: int
    control_runs: int
    policy_mean: float
    control_mean: float
    effect: float
    low: float
    high: float
    p_value: float
    def __init__(self, name: _Optional[str] = ..., policy_runs: _Optional[int] = ..., control_runs: _Optional[int] = ..., policy_mean: _Optional[float] = ..., control_mean: _Optional[float] = ..., effect: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., p_value: _Optional[float] = ...) -> None: ...

class LiftResponse(_message.Message):
    __slots__ = ("agent", "metrics", "strata", "control_share", "effect", "runs_needed")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    STRATA_FIELD_NUMBER: _ClassVar[int]
    CONTROL_SHARE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    RUNS_NEEDED_FIELD_NUMBER: _ClassVar[int]
    agent: str
    metrics: _containers.RepeatedCompositeFieldContainer[MetricLift]
    strata: int
    control_share: float
    effect: float
    runs_needed: int
    def __init__(self, agent: _Optional[str] = ..., metrics: _Optional[_Iterable[_Union[MetricLift, _Mapping]]] = ..., strata: _Optional[int] = ..., control_share: _Optional[float] = ..., effect: _Optional[float] = ..., runs_needed: _Optional[int] = ...) -> None: ...
