from agentgym.proto.v1 import common_pb2 as _common_pb2
from agentgym.proto.v1 import producer_pb2 as _producer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScopeStatus(_message.Message):
    __slots__ = ("scope", "live", "pinned", "trajectories", "rewarded", "reliability_policy", "n_policy", "reliability_control", "n_control", "until_training", "down")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    REWARDED_FIELD_NUMBER: _ClassVar[int]
    RELIABILITY_POLICY_FIELD_NUMBER: _ClassVar[int]
    N_POLICY_FIELD_NUMBER: _ClassVar[int]
    RELIABILITY_CONTROL_FIELD_NUMBER: _ClassVar[int]
    N_CONTROL_FIELD_NUMBER: _ClassVar[int]
    UNTIL_TRAINING_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    live: str
    pinned: bool
    trajectories: int
    rewarded: int
    reliability_policy: float
    n_policy: int
    reliability_control: float
    n_control: int
    until_training: int
    down: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., live: _Optional[str] = ..., pinned: bool = ..., trajectories: _Optional[int] = ..., rewarded: _Optional[int] = ..., reliability_policy: _Optional[float] = ..., n_policy: _Optional[int] = ..., reliability_control: _Optional[float] = ..., n_control: _Optional[int] = ..., until_training: _Optional[int] = ..., down: _Optional[_Iterable[str]] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("daemon_version", "contract_version", "pid", "uptime_s", "home", "listeners", "counters", "scopes", "subscribers", "log_end", "log_applied", "trainer", "ready", "not_ready", "disk_free", "log_start", "damages", "producers", "produced", "stages", "all_killed", "reward_alarms")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ProducedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DAEMON_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBERS_FIELD_NUMBER: _ClassVar[int]
    LOG_END_FIELD_NUMBER: _ClassVar[int]
    LOG_APPLIED_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    PRODUCERS_FIELD_NUMBER: _ClassVar[int]
    PRODUCED_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ALL_KILLED_FIELD_NUMBER: _ClassVar[int]
    REWARD_ALARMS_FIELD_NUMBER: _ClassVar[int]
    daemon_version: str
    contract_version: int
    pid: int
    uptime_s: float
    home: str
    listeners: _containers.RepeatedScalarFieldContainer[str]
    counters: _containers.ScalarMap[str, int]
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeStatus]
    subscribers: int
    log_end: int
    log_applied: int
    trainer: str
    ready: bool
    not_ready: str
    disk_free: int
    log_start: int
    damages: _containers.RepeatedCompositeFieldContainer[Damage]
    producers: _containers.RepeatedCompositeFieldContainer[ProducerStatus]
    produced: _containers.ScalarMap[str, int]
    stages: _containers.RepeatedCompositeFieldContainer[_common_pb2.AgentStage]
    all_killed: bool
    reward_alarms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, daemon_version: _Optional[str] = ..., contract_version: _Optional[int] = ..., pid: _Optional[int] = ..., uptime_s: _Optional[float] = ..., home: _Optional[str] = ..., listeners: _Optional[_Iterable[str]] = ..., counters: _Optional[_Mapping[str, int]] = ..., scopes: _Optional[_Iterable[_Union[ScopeStatus, _Mapping]]] = ..., subscribers: _Optional[int] = ..., log_end: _Optional[int] = ..., log_applied: _Optional[int] = ..., trainer: _Optional[str] = ..., ready: bool = ..., not_ready: _Optional[str] = ..., disk_free: _Optional[int] = ..., log_start: _Optional[int] = ..., damages: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ..., producers: _Optional[_Iterable[_Union[ProducerStatus, _Mapping]]] = ..., produced: _Optional[_Mapping[str, int]] = ..., stages: _Optional[_Iterable[_Union[_common_pb2.AgentStage, _Mapping]]] = ..., all_killed: bool = ..., reward_alarms: _Optional[_Iterable[str]] = ...) -> None: ...

class Damage(_message.Message):
    __slots__ = ("path", "reason", "lost_bytes", "time_unix_nano")
    PATH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    path: str
    reason: str
    lost_bytes: int
    time_unix_nano: int
    def __init__(self, path: _Optional[str] = ..., reason: _Optional[str] = ..., lost_bytes: _Optional[int] = ..., time_unix_nano: _Optional[int] = ...) -> None: ...

class ProducerStatus(_message.Message):
    __slots__ = ("report", "received_unix_nano")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    report: _producer_pb2.ProducerReport
    received_unix_nano: int
    def __init__(self, report: _Optional[_Union[_producer_pb2.ProducerReport, _Mapping]] = ..., received_unix_nano: _Optional[int] = ...) -> None: ...
