from agentgym.proto.v1 import common_pb2 as _common_pb2
from agentgym.proto.v1 import decision_pb2 as _decision_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrajectorySummary(_message.Message):
    __slots__ = ("trajectory_id", "key", "agent", "framework", "start_unix_nano", "end_unix_nano", "state", "mode", "assignment", "policy_version", "spans", "decisions", "tool_calls", "tool_errors", "input_tokens", "output_tokens", "reward", "tools", "experiment", "experiment_arm")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    END_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_ERRORS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_ARM_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    key: str
    agent: str
    framework: str
    start_unix_nano: int
    end_unix_nano: int
    state: str
    mode: _common_pb2.Mode
    assignment: _common_pb2.Assignment
    policy_version: str
    spans: int
    decisions: int
    tool_calls: int
    tool_errors: int
    input_tokens: int
    output_tokens: int
    reward: float
    tools: _containers.RepeatedScalarFieldContainer[str]
    experiment: str
    experiment_arm: str
    def __init__(self, trajectory_id: _Optional[bytes] = ..., key: _Optional[str] = ..., agent: _Optional[str] = ..., framework: _Optional[str] = ..., start_unix_nano: _Optional[int] = ..., end_unix_nano: _Optional[int] = ..., state: _Optional[str] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., assignment: _Optional[_Union[_common_pb2.Assignment, str]] = ..., policy_version: _Optional[str] = ..., spans: _Optional[int] = ..., decisions: _Optional[int] = ..., tool_calls: _Optional[int] = ..., tool_errors: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reward: _Optional[float] = ..., tools: _Optional[_Iterable[str]] = ..., experiment: _Optional[str] = ..., experiment_arm: _Optional[str] = ...) -> None: ...

class StoredSpan(_message.Message):
    __slots__ = ("span_id", "parent_span_id", "name", "operation", "start_unix_nano", "end_unix_nano", "tool", "agent_name", "error_type", "input_tokens", "output_tokens", "decision_id", "attributes_json")
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    END_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_JSON_FIELD_NUMBER: _ClassVar[int]
    span_id: bytes
    parent_span_id: bytes
    name: str
    operation: str
    start_unix_nano: int
    end_unix_nano: int
    tool: str
    agent_name: str
    error_type: str
    input_tokens: int
    output_tokens: int
    decision_id: bytes
    attributes_json: str
    def __init__(self, span_id: _Optional[bytes] = ..., parent_span_id: _Optional[bytes] = ..., name: _Optional[str] = ..., operation: _Optional[str] = ..., start_unix_nano: _Optional[int] = ..., end_unix_nano: _Optional[int] = ..., tool: _Optional[str] = ..., agent_name: _Optional[str] = ..., error_type: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., decision_id: _Optional[bytes] = ..., attributes_json: _Optional[str] = ...) -> None: ...

class StoredReward(_message.Message):
    __slots__ = ("reward_id", "value", "name", "source", "time_unix_nano", "revoked", "reason")
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    reward_id: str
    value: float
    name: str
    source: str
    time_unix_nano: int
    revoked: bool
    reason: str
    def __init__(self, reward_id: _Optional[str] = ..., value: _Optional[float] = ..., name: _Optional[str] = ..., source: _Optional[str] = ..., time_unix_nano: _Optional[int] = ..., revoked: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Trajectory(_message.Message):
    __slots__ = ("summary", "spans", "decisions", "rewards", "tools", "features")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    summary: TrajectorySummary
    spans: _containers.RepeatedCompositeFieldContainer[StoredSpan]
    decisions: _containers.RepeatedCompositeFieldContainer[_decision_pb2.DecisionRecord]
    rewards: _containers.RepeatedCompositeFieldContainer[StoredReward]
    tools: _containers.RepeatedCompositeFieldContainer[_common_pb2.Tool]
    features: _containers.RepeatedCompositeFieldContainer[_decision_pb2.TaskFeatures]
    def __init__(self, summary: _Optional[_Union[TrajectorySummary, _Mapping]] = ..., spans: _Optional[_Iterable[_Union[StoredSpan, _Mapping]]] = ..., decisions: _Optional[_Iterable[_Union[_decision_pb2.DecisionRecord, _Mapping]]] = ..., rewards: _Optional[_Iterable[_Union[StoredReward, _Mapping]]] = ..., tools: _Optional[_Iterable[_Union[_common_pb2.Tool, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[_decision_pb2.TaskFeatures, _Mapping]]] = ...) -> None: ...

class GetTrajectoryRequest(_message.Message):
    __slots__ = ("trajectory_id",)
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    def __init__(self, trajectory_id: _Optional[bytes] = ...) -> None: ...

class ListTrajectoriesRequest(_message.Message):
    __slots__ = ("agent", "key", "state", "limit", "before_unix_nano")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    agent: str
    key: str
    state: str
    limit: int
    before_unix_nano: int
    def __init__(self, agent: _Optional[str] = ..., key: _Optional[str] = ..., state: _Optional[str] = ..., limit: _Optional[int] = ..., before_unix_nano: _Optional[int] = ...) -> None: ...

class ListTrajectoriesResponse(_message.Message):
    __slots__ = ("trajectories",)
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    trajectories: _containers.RepeatedCompositeFieldContainer[TrajectorySummary]
    def __init__(self, trajectories: _Optional[_Iterable[_Union[TrajectorySummary, _Mapping]]] = ...) -> None: ...

class TailRequest(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    def __init__(self, agent: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    def __init__(self, id: _Optional[bytes] = ...) -> None: ...

class ExplainedArm(_message.Message):
    __slots__ = ("arm", "score", "probability", "taken", "parts")
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ARM_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    arm: str
    score: float
    probability: float
    taken: bool
    parts: _containers.ScalarMap[str, float]
    def __init__(self, arm: _Optional[str] = ..., score: _Optional[float] = ..., probability: _Optional[float] = ..., taken: bool = ..., parts: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("decision", "arms", "offered", "executed", "summary", "recomputed_error", "masked")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTED_ERROR_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    decision: _decision_pb2.DecisionRecord
    arms: _containers.RepeatedCompositeFieldContainer[ExplainedArm]
    offered: _containers.RepeatedScalarFieldContainer[str]
    executed: _containers.RepeatedScalarFieldContainer[str]
    summary: str
    recomputed_error: float
    masked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, decision: _Optional[_Union[_decision_pb2.DecisionRecord, _Mapping]] = ..., arms: _Optional[_Iterable[_Union[ExplainedArm, _Mapping]]] = ..., offered: _Optional[_Iterable[str]] = ..., executed: _Optional[_Iterable[str]] = ..., summary: _Optional[str] = ..., recomputed_error: _Optional[float] = ..., masked: _Optional[_Iterable[str]] = ...) -> None: ...

class RunOutcome(_message.Message):
    __slots__ = ("trajectory_id", "state", "outcome", "training_reward", "weight", "cost", "tokens", "seconds", "calls")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TRAINING_REWARD_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    state: str
    outcome: float
    training_reward: float
    weight: float
    cost: float
    tokens: int
    seconds: float
    calls: int
    def __init__(self, trajectory_id: _Optional[bytes] = ..., state: _Optional[str] = ..., outcome: _Optional[float] = ..., training_reward: _Optional[float] = ..., weight: _Optional[float] = ..., cost: _Optional[float] = ..., tokens: _Optional[int] = ..., seconds: _Optional[float] = ..., calls: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("explanations", "outcome")
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    outcome: RunOutcome
    def __init__(self, explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., outcome: _Optional[_Union[RunOutcome, _Mapping]] = ...) -> None: ...
