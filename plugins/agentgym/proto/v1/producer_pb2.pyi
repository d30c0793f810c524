from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ProducerReport(_message.Message):
    __slots__ = ("producer_id", "agent", "pid", "plugin_version", "counters", "on", "last")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    ON_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    producer_id: bytes
    agent: str
    pid: int
    plugin_version: str
    counters: _containers.ScalarMap[str, int]
    on: bool
    last: bool
    def __init__(self, producer_id: _Optional[bytes] = ..., agent: _Optional[str] = ..., pid: _Optional[int] = ..., plugin_version: _Optional[str] = ..., counters: _Optional[_Mapping[str, int]] = ..., on: bool = ..., last: bool = ...) -> None: ...

class ProducerReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
