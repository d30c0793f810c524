from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reward(_message.Message):
    __slots__ = ("trajectory_id", "key", "agent", "value", "name", "source", "idempotency_key", "time_unix_nano", "all", "reason")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    key: str
    agent: str
    value: float
    name: str
    source: str
    idempotency_key: str
    time_unix_nano: int
    all: bool
    reason: str
    def __init__(self, trajectory_id: _Optional[bytes] = ..., key: _Optional[str] = ..., agent: _Optional[str] = ..., value: _Optional[float] = ..., name: _Optional[str] = ..., source: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., time_unix_nano: _Optional[int] = ..., all: bool = ..., reason: _Optional[str] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("rewards",)
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    rewards: _containers.RepeatedCompositeFieldContainer[Reward]
    def __init__(self, rewards: _Optional[_Iterable[_Union[Reward, _Mapping]]] = ...) -> None: ...

class ReportResult(_message.Message):
    __slots__ = ("trajectory_ids", "reward_id", "duplicate", "error", "code")
    TRAJECTORY_IDS_FIELD_NUMBER: _ClassVar[int]
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    trajectory_ids: _containers.RepeatedScalarFieldContainer[bytes]
    reward_id: str
    duplicate: bool
    error: str
    code: str
    def __init__(self, trajectory_ids: _Optional[_Iterable[bytes]] = ..., reward_id: _Optional[str] = ..., duplicate: bool = ..., error: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ReportResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ReportResult, _Mapping]]] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("reward_id", "reason")
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    reward_id: str
    reason: str
    def __init__(self, reward_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ("trajectory_id",)
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    def __init__(self, trajectory_id: _Optional[bytes] = ...) -> None: ...
