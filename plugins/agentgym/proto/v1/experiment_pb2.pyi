from agentgym.proto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_RUNNING: _ClassVar[Verdict]
    VERDICT_WON: _ClassVar[Verdict]
    VERDICT_LOST: _ClassVar[Verdict]
    VERDICT_NO_DIFFERENCE: _ClassVar[Verdict]
    VERDICT_GUARDRAIL: _ClassVar[Verdict]
    VERDICT_OUT_OF_RUNS: _ClassVar[Verdict]
    VERDICT_STOPPED: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_RUNNING: Verdict
VERDICT_WON: Verdict
VERDICT_LOST: Verdict
VERDICT_NO_DIFFERENCE: Verdict
VERDICT_GUARDRAIL: Verdict
VERDICT_OUT_OF_RUNS: Verdict
VERDICT_STOPPED: Verdict

class ExperimentArm(_message.Message):
    __slots__ = ("name", "kind", "version", "mode", "share")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[ExperimentArm.Kind]
        KIND_VERSION: _ClassVar[ExperimentArm.Kind]
        KIND_LIVE: _ClassVar[ExperimentArm.Kind]
        KIND_NONE: _ClassVar[ExperimentArm.Kind]
        KIND_MODE: _ClassVar[ExperimentArm.Kind]
        KIND_LABEL: _ClassVar[ExperimentArm.Kind]
    KIND_UNSPECIFIED: ExperimentArm.Kind
    KIND_VERSION: ExperimentArm.Kind
    KIND_LIVE: ExperimentArm.Kind
    KIND_NONE: ExperimentArm.Kind
    KIND_MODE: ExperimentArm.Kind
    KIND_LABEL: ExperimentArm.Kind
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: ExperimentArm.Kind
    version: str
    mode: _common_pb2.Mode
    share: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[ExperimentArm.Kind, str]] = ..., version: _Optional[str] = ..., mode: _Optional[_Union[_common_pb2.Mode, str]] = ..., share: _Optional[float] = ...) -> None: ...

class ExperimentGuard(_message.Message):
    __slots__ = ("metric", "bound", "relative", "scale")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    metric: str
    bound: float
    relative: bool
    scale: float
    def __init__(self, metric: _Optional[str] = ..., bound: _Optional[float] = ..., relative: bool = ..., scale: _Optional[float] = ...) -> None: ...

class Experiment(_message.Message):
    __slots__ = ("name", "agent", "arms", "metric", "effect", "scale", "guards", "max_runs", "alpha", "started_unix_nano", "started_by", "reason", "ended_unix_nano", "ended_by", "verdict", "why", "winner", "receipt_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    GUARDS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    ENDED_BY_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    agent: str
    arms: _containers.RepeatedCompositeFieldContainer[ExperimentArm]
    metric: str
    effect: float
    scale: float
    guards: _containers.RepeatedCompositeFieldContainer[ExperimentGuard]
    max_runs: int
    alpha: float
    started_unix_nano: int
    started_by: str
    reason: str
    ended_unix_nano: int
    ended_by: str
    verdict: Verdict
    why: str
    winner: str
    receipt_json: str
    def __init__(self, name: _Optional[str] = ..., agent: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[ExperimentArm, _Mapping]]] = ..., metric: _Optional[str] = ..., effect: _Optional[float] = ..., scale: _Optional[float] = ..., guards: _Optional[_Iterable[_Union[ExperimentGuard, _Mapping]]] = ..., max_runs: _Optional[int] = ..., alpha: _Optional[float] = ..., started_unix_nano: _Optional[int] = ..., started_by: _Optional[str] = ..., reason: _Optional[str] = ..., ended_unix_nano: _Optional[int] = ..., ended_by: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., why: _Optional[str] = ..., winner: _Optional[str] = ..., receipt_json: _Optional[str] = ...) -> None: ...

class ArmFigures(_message.Message):
    __slots__ = ("arm", "runs", "mean")
    ARM_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    arm: str
    runs: int
    mean: float
    def __init__(self, arm: _Optional[str] = ..., runs: _Optional[int] = ..., mean: _Optional[float] = ...) -> None: ...

class GuardFigures(_message.Message):
    __slots__ = ("metric", "bound", "relative", "effect", "beyond", "broken")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    BEYOND_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    metric: str
    bound: float
    relative: bool
    effect: float
    beyond: float
    broken: bool
    def __init__(self, metric: _Optional[str] = ..., bound: _Optional[float] = ..., relative: bool = ..., effect: _Optional[float] = ..., beyond: _Optional[float] = ..., broken: bool = ...) -> None: ...

class ArmComparison(_message.Message):
    __slots__ = ("arm", "effect", "low", "high", "p_value", "verdict", "guards", "runs_needed")
    ARM_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    GUARDS_FIELD_NUMBER: _ClassVar[int]
    RUNS_NEEDED_FIELD_NUMBER: _ClassVar[int]
    arm: str
    effect: float
    low: float
    high: float
    p_value: float
    verdict: Verdict
    guards: _containers.RepeatedCompositeFieldContainer[GuardFigures]
    runs_needed: int
    def __init__(self, arm: _Optional[str] = ..., effect: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., p_value: _Optional[float] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., guards: _Optional[_Iterable[_Union[GuardFigures, _Mapping]]] = ..., runs_needed: _Optional[int] = ...) -> None: ...

class ExperimentFigures(_message.Message):
    __slots__ = ("experiment", "arms", "comparisons", "runs", "runs_needed", "verdict", "why", "winner", "next")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    RUNS_NEEDED_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    WINNER_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    arms: _containers.RepeatedCompositeFieldContainer[ArmFigures]
    comparisons: _containers.RepeatedCompositeFieldContainer[ArmComparison]
    runs: int
    runs_needed: int
    verdict: Verdict
    why: str
    winner: str
    next: str
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., arms: _Optional[_Iterable[_Union[ArmFigures, _Mapping]]] = ..., comparisons: _Optional[_Iterable[_Union[ArmComparison, _Mapping]]] = ..., runs: _Optional[int] = ..., runs_needed: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., why: _Optional[str] = ..., winner: _Optional[str] = ..., next: _Optional[str] = ...) -> None: ...

class StartExperimentRequest(_message.Message):
    __slots__ = ("experiment", "unseen")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    UNSEEN_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    unseen: bool
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., unseen: bool = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    def __init__(self, agent: _Optional[str] = ...) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments",)
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[ExperimentFigures]
    def __init__(self, experiments: _Optional[_Iterable[_Union[ExperimentFigures, _Mapping]]] = ...) -> None: ...

class ShowExperimentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StopExperimentRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
