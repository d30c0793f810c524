from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reward(_message.Message):
    __slots__ = ("trajectory_id", "key", "agent", "value", "name", "source", "idempotency_key", "time_unix_nano", "all", "reason", "actor", "provenance_json")
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
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_JSON_FIELD_NUMBER: _ClassVar[int]
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
    actor: str
    provenance_json: str
    def __init__(self, trajectory_id: _Optional[bytes] = ..., key: _Optional[str] = ..., agent: _Optional[str] = ..., value: _Optional[float] = ..., name: _Optional[str] = ..., source: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., time_unix_nano: _Optional[int] = ..., all: bool = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ..., provenance_json: _Optional[str] = ...) -> None: ...

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

class ShowRewardsRequest(_message.Message):
    __slots__ = ("trajectory_id", "reward_id")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    reward_id: str
    def __init__(self, trajectory_id: _Optional[bytes] = ..., reward_id: _Optional[str] = ...) -> None: ...

class ShownReward(_message.Message):
    __slots__ = ("reward", "reward_id", "received_unix_nano", "revoked", "share", "standing")
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    reward: Reward
    reward_id: str
    received_unix_nano: int
    revoked: bool
    share: float
    standing: str
    def __init__(self, reward: _Optional[_Union[Reward, _Mapping]] = ..., reward_id: _Optional[str] = ..., received_unix_nano: _Optional[int] = ..., revoked: bool = ..., share: _Optional[float] = ..., standing: _Optional[str] = ...) -> None: ...

class TrainedIn(_message.Message):
    __slots__ = ("version", "verdict", "time_unix_nano", "part")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    version: str
    verdict: str
    time_unix_nano: int
    part: str
    def __init__(self, version: _Optional[str] = ..., verdict: _Optional[str] = ..., time_unix_nano: _Optional[int] = ..., part: _Optional[str] = ...) -> None: ...

class ShowRewardsResponse(_message.Message):
    __slots__ = ("trajectory_id", "agent", "state", "rewards", "aggregation", "outcome", "cost", "training_reward", "weight", "trained_in")
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    TRAINING_REWARD_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TRAINED_IN_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: bytes
    agent: str
    state: str
    rewards: _containers.RepeatedCompositeFieldContainer[ShownReward]
    aggregation: str
    outcome: float
    cost: float
    training_reward: float
    weight: float
    trained_in: _containers.RepeatedCompositeFieldContainer[TrainedIn]
    def __init__(self, trajectory_id: _Optional[bytes] = ..., agent: _Optional[str] = ..., state: _Optional[str] = ..., rewards: _Optional[_Iterable[_Union[ShownReward, _Mapping]]] = ..., aggregation: _Optional[str] = ..., outcome: _Optional[float] = ..., cost: _Optional[float] = ..., training_reward: _Optional[float] = ..., weight: _Optional[float] = ..., trained_in: _Optional[_Iterable[_Union[TrainedIn, _Mapping]]] = ...) -> None: ...

class RewardSourcesRequest(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    def __init__(self, agent: _Optional[str] = ...) -> None: ...

class RewardSource(_message.Message):
    __slots__ = ("agent", "source", "rewards", "revoked", "mean", "share_given", "share_trained", "capped", "weight", "last_unix_nano", "alarms")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    SHARE_GIVEN_FIELD_NUMBER: _ClassVar[int]
    SHARE_TRAINED_FIELD_NUMBER: _ClassVar[int]
    CAPPED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LAST_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    agent: str
    source: str
    rewards: int
    revoked: int
    mean: float
    share_given: float
    share_trained: float
    capped: bool
    weight: float
    last_unix_nano: int
    alarms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, agent: _Optional[str] = ..., source: _Optional[str] = ..., rewards: _Optional[int] = ..., revoked: _Optional[int] = ..., mean: _Optional[float] = ..., share_given: _Optional[float] = ..., share_trained: _Optional[float] = ..., capped: bool = ..., weight: _Optional[float] = ..., last_unix_nano: _Optional[int] = ..., alarms: _Optional[_Iterable[str]] = ...) -> None: ...

class RewardSourcesResponse(_message.Message):
    __slots__ = ("sources",)
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedCompositeFieldContainer[RewardSource]
    def __init__(self, sources: _Optional[_Iterable[_Union[RewardSource, _Mapping]]] = ...) -> None: ...
