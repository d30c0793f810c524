from agentgym.proto.v1 import artifact_pb2 as _artifact_pb2
from agentgym.proto.v1 import common_pb2 as _common_pb2
from agentgym.proto.v1 import log_pb2 as _log_pb2
from agentgym.proto.v1 import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AliasRequest(_message.Message):
    __slots__ = ("version", "alias", "scope", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    alias: str
    scope: _common_pb2.Scope
    reason: str
    def __init__(self, version: _Optional[str] = ..., alias: _Optional[str] = ..., scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class NoteRequest(_message.Message):
    __slots__ = ("version", "note")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    version: str
    note: str
    def __init__(self, version: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class QuarantineRequest(_message.Message):
    __slots__ = ("version", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    reason: str
    def __init__(self, version: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class QuarantineResponse(_message.Message):
    __slots__ = ("policy", "rolled_back", "live")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    policy: _policy_pb2.PolicyVersion
    rolled_back: bool
    live: str
    def __init__(self, policy: _Optional[_Union[_policy_pb2.PolicyVersion, _Mapping]] = ..., rolled_back: bool = ..., live: _Optional[str] = ...) -> None: ...

class DiffRequest(_message.Message):
    __slots__ = ("before", "after", "trajectories", "examples")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    before: str
    after: str
    trajectories: int
    examples: int
    def __init__(self, before: _Optional[str] = ..., after: _Optional[str] = ..., trajectories: _Optional[int] = ..., examples: _Optional[int] = ...) -> None: ...

class DiffExample(_message.Message):
    __slots__ = ("trajectory_id", "step", "before", "after")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    step: int
    before: str
    after: str
    def __init__(self, trajectory_id: _Optional[bytes] = ..., step: _Optional[int] = ..., before: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class DiffTool(_message.Message):
    __slots__ = ("tool", "before", "after")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    tool: str
    before: int
    after: int
    def __init__(self, tool: _Optional[str] = ..., before: _Optional[int] = ..., after: _Optional[int] = ...) -> None: ...

class DiffResponse(_message.Message):
    __slots__ = ("before", "after", "trajectories", "steps", "changed", "kl", "examples", "tools")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    before: str
    after: str
    trajectories: int
    steps: int
    changed: int
    kl: float
    examples: _containers.RepeatedCompositeFieldContainer[DiffExample]
    tools: _containers.RepeatedCompositeFieldContainer[DiffTool]
    def __init__(self, before: _Optional[str] = ..., after: _Optional[str] = ..., trajectories: _Optional[int] = ..., steps: _Optional[int] = ..., changed: _Optional[int] = ..., kl: _Optional[float] = ..., examples: _Optional[_Iterable[_Union[DiffExample, _Mapping]]] = ..., tools: _Optional[_Iterable[_Union[DiffTool, _Mapping]]] = ...) -> None: ...

class LiveAtRequest(_message.Message):
    __slots__ = ("at_unix_nano", "agent")
    AT_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    at_unix_nano: int
    agent: str
    def __init__(self, at_unix_nano: _Optional[int] = ..., agent: _Optional[str] = ...) -> None: ...

class LiveThen(_message.Message):
    __slots__ = ("scope", "version", "pinned", "since_unix_nano", "actor", "reason")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    scope: _common_pb2.Scope
    version: str
    pinned: bool
    since_unix_nano: int
    actor: str
    reason: str
    def __init__(self, scope: _Optional[_Union[_common_pb2.Scope, _Mapping]] = ..., version: _Optional[str] = ..., pinned: bool = ..., since_unix_nano: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class LiveAtResponse(_message.Message):
    __slots__ = ("live",)
    LIVE_FIELD_NUMBER: _ClassVar[int]
    live: _containers.RepeatedCompositeFieldContainer[LiveThen]
    def __init__(self, live: _Optional[_Iterable[_Union[LiveThen, _Mapping]]] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class ImportRequest(_message.Message):
    __slots__ = ("data", "trusted_keys", "agent", "reason")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_KEYS_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    trusted_keys: _containers.RepeatedScalarFieldContainer[bytes]
    agent: str
    reason: str
    def __init__(self, data: _Optional[bytes] = ..., trusted_keys: _Optional[_Iterable[bytes]] = ..., agent: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PruneRequest(_message.Message):
    __slots__ = ("keep", "dry_run", "agent")
    KEEP_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    keep: int
    dry_run: bool
    agent: str
    def __init__(self, keep: _Optional[int] = ..., dry_run: bool = ..., agent: _Optional[str] = ...) -> None: ...

class Pruned(_message.Message):
    __slots__ = ("version", "size")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    version: str
    size: int
    def __init__(self, version: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class PruneResponse(_message.Message):
    __slots__ = ("pruned",)
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    pruned: _containers.RepeatedCompositeFieldContainer[Pruned]
    def __init__(self, pruned: _Optional[_Iterable[_Union[Pruned, _Mapping]]] = ...) -> None: ...

class ListAuditRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("audit", "received_unix_nano", "change")
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    audit: _log_pb2.Audit
    received_unix_nano: int
    change: _log_pb2.PolicyChange
    def __init__(self, audit: _Optional[_Union[_log_pb2.Audit, _Mapping]] = ..., received_unix_nano: _Optional[int] = ..., change: _Optional[_Union[_log_pb2.PolicyChange, _Mapping]] = ...) -> None: ...

class ListAuditResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ...) -> None: ...

class VerifyAuditRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyAuditResponse(_message.Message):
    __slots__ = ("ok", "changes", "before_chain", "head", "broken", "broken_number")
    OK_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    BEFORE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    BROKEN_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ok: bool
    changes: int
    before_chain: int
    head: _log_pb2.Audit
    broken: str
    broken_number: int
    def __init__(self, ok: bool = ..., changes: _Optional[int] = ..., before_chain: _Optional[int] = ..., head: _Optional[_Union[_log_pb2.Audit, _Mapping]] = ..., broken: _Optional[str] = ..., broken_number: _Optional[int] = ...) -> None: ...
