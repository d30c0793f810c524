from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_OBSERVE: _ClassVar[Mode]
    MODE_SHADOW: _ClassVar[Mode]
    MODE_ADVISE: _ClassVar[Mode]
    MODE_STEER: _ClassVar[Mode]

class Assignment(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ASSIGNMENT_UNSPECIFIED: _ClassVar[Assignment]
    ASSIGNMENT_POLICY: _ClassVar[Assignment]
    ASSIGNMENT_CONTROL: _ClassVar[Assignment]
    ASSIGNMENT_SHADOW: _ClassVar[Assignment]
    ASSIGNMENT_PINNED: _ClassVar[Assignment]

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_NONE: _ClassVar[Fallback]
    FALLBACK_NO_POLICY: _ClassVar[Fallback]
    FALLBACK_STALE: _ClassVar[Fallback]
    FALLBACK_TIMEOUT: _ClassVar[Fallback]
    FALLBACK_ERROR: _ClassVar[Fallback]
    FALLBACK_PROTECTED: _ClassVar[Fallback]
    FALLBACK_KILLED: _ClassVar[Fallback]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_OBSERVE: _ClassVar[Stage]
    STAGE_SHADOW: _ClassVar[Stage]
    STAGE_CANARY: _ClassVar[Stage]
    STAGE_LIVE: _ClassVar[Stage]
MODE_UNSPECIFIED: Mode
MODE_OBSERVE: Mode
MODE_SHADOW: Mode
MODE_ADVISE: Mode
MODE_STEER: Mode
ASSIGNMENT_UNSPECIFIED: Assignment
ASSIGNMENT_POLICY: Assignment
ASSIGNMENT_CONTROL: Assignment
ASSIGNMENT_SHADOW: Assignment
ASSIGNMENT_PINNED: Assignment
FALLBACK_NONE: Fallback
FALLBACK_NO_POLICY: Fallback
FALLBACK_STALE: Fallback
FALLBACK_TIMEOUT: Fallback
FALLBACK_ERROR: Fallback
FALLBACK_PROTECTED: Fallback
FALLBACK_KILLED: Fallback
STAGE_UNSPECIFIED: Stage
STAGE_OBSERVE: Stage
STAGE_SHADOW: Stage
STAGE_CANARY: Stage
STAGE_LIVE: Stage

class AgentStage(_message.Message):
    __slots__ = ("agent", "stage", "canary_share", "killed", "recorded")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    KILLED_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    agent: str
    stage: Stage
    canary_share: float
    killed: bool
    recorded: bool
    def __init__(self, agent: _Optional[str] = ..., stage: _Optional[_Union[Stage, str]] = ..., canary_share: _Optional[float] = ..., killed: bool = ..., recorded: bool = ...) -> None: ...

class Scope(_message.Message):
    __slots__ = ("agent", "agent_name", "feature_schema")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    agent: str
    agent_name: str
    feature_schema: int
    def __init__(self, agent: _Optional[str] = ..., agent_name: _Optional[str] = ..., feature_schema: _Optional[int] = ...) -> None: ...

class Tool(_message.Message):
    __slots__ = ("fingerprint", "name", "description", "parameters_json")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_JSON_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    name: str
    description: str
    parameters_json: str
    def __init__(self, fingerprint: _Optional[bytes] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., parameters_json: _Optional[str] = ...) -> None: ...
