from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SpoolFrame(_message.Message):
    __slots__ = ("header", "record", "dropped")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    header: SpoolHeader
    record: SpoolRecord
    dropped: SpoolDropped
    def __init__(self, header: _Optional[_Union[SpoolHeader, _Mapping]] = ..., record: _Optional[_Union[SpoolRecord, _Mapping]] = ..., dropped: _Optional[_Union[SpoolDropped, _Mapping]] = ...) -> None: ...

class SpoolHeader(_message.Message):
    __slots__ = ("producer_id", "agent", "plugin_version", "pid", "contract_version", "resource_spans", "shared")
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_SPANS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    producer_id: bytes
    agent: str
    plugin_version: str
    pid: int
    contract_version: int
    resource_spans: bytes
    shared: bool
    def __init__(self, producer_id: _Optional[bytes] = ..., agent: _Optional[str] = ..., plugin_version: _Optional[str] = ..., pid: _Optional[int] = ..., contract_version: _Optional[int] = ..., resource_spans: _Optional[bytes] = ..., shared: bool = ...) -> None: ...

class SpoolRecord(_message.Message):
    __slots__ = ("sequence", "trajectory_id", "spans", "decisions", "rewards", "catalogue", "items")
    class ItemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    trajectory_id: bytes
    spans: bytes
    decisions: bytes
    rewards: bytes
    catalogue: bytes
    items: _containers.ScalarMap[str, int]
    def __init__(self, sequence: _Optional[int] = ..., trajectory_id: _Optional[bytes] = ..., spans: _Optional[bytes] = ..., decisions: _Optional[bytes] = ..., rewards: _Optional[bytes] = ..., catalogue: _Optional[bytes] = ..., items: _Optional[_Mapping[str, int]] = ...) -> None: ...

class SpoolDropped(_message.Message):
    __slots__ = ("trajectory_id", "reason", "items")
    class ItemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    reason: str
    items: _containers.ScalarMap[str, int]
    def __init__(self, trajectory_id: _Optional[bytes] = ..., reason: _Optional[str] = ..., items: _Optional[_Mapping[str, int]] = ...) -> None: ...
