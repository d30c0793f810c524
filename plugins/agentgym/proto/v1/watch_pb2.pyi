from agentgym.proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShowWatchRequest(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    def __init__(self, agent: _Optional[str] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("what", "z", "effect", "alarming")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    ALARMING_FIELD_NUMBER: _ClassVar[int]
    what: str
    z: float
    effect: float
    alarming: bool
    def __init__(self, what: _Optional[str] = ..., z: _Optional[float] = ..., effect: _Optional[float] = ..., alarming: bool = ...) -> None: ...

class ScopeWatch(_message.Message):
    __slots__ = ("scope", "live", "runs", "reference", "recent", "evidence", "enough", "lift", "lift_low", "lift_high", "act", "reason", "drifts", "tools_down")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    ENOUGH_FIELD_NUMBER: _ClassVar[int]
    LIFT_FIELD_NUMBER: _ClassVar[int]
    LIFT_LOW_FIELD_NUMBER: _ClassVar[int]
    LIFT_HIGH_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRIFTS_FIELD_NUMBER: _ClassVar[int]
    TOOLS_DOWN_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    live: str
    runs: int
    reference: float
    recent: float
    evidence: float
    enough: float
    lift: float
    lift_low: float
    lift_high: float
    act: str
    reason: str
    drifts: _containers.RepeatedCompositeFieldContainer[Drift]
    tools_down: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., live: _Optional[str] = ..., runs: _Optional[int] = ..., reference: _Optional[float] = ..., recent: _Optional[float] = ..., evidence: _Optional[float] = ..., enough: _Optional[float] = ..., lift: _Optional[float] = ..., lift_low: _Optional[float] = ..., lift_high: _Optional[float] = ..., act: _Optional[str] = ..., reason: _Optional[str] = ..., drifts: _Optional[_Iterable[_Union[Drift, _Mapping]]] = ..., tools_down: _Optional[_Iterable[str]] = ...) -> None: ...

class Alert(_message.Message):
    __slots__ = ("kind", "agent", "text", "time_unix_nano", "figures_json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    FIGURES_JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    agent: str
    text: str
    time_unix_nano: int
    figures_json: str
    def __init__(self, kind: _Optional[str] = ..., agent: _Optional[str] = ..., text: _Optional[str] = ..., time_unix_nano: _Optional[int] = ..., figures_json: _Optional[str] = ...) -> None: ...

class ShowWatchResponse(_message.Message):
    __slots__ = ("mode", "scopes", "alerts")
    MODE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    mode: str
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeWatch]
    alerts: _containers.RepeatedCompositeFieldContainer[Alert]
    def __init__(self, mode: _Optional[str] = ..., scopes: _Optional[_Iterable[_Union[ScopeWatch, _Mapping]]] = ..., alerts: _Optional[_Iterable[_Union[Alert, _Mapping]]] = ...) -> None: ...
