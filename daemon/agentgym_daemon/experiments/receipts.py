"""Figures of experiments: read from the store, written down when one ends, read back later."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from agentgym.proto.v1.experiment_pb2 import Experiment, ExperimentFigures
from agentgym_daemon.experiments.judge import judge
from agentgym_daemon.store.arms import experiment_sums
from agentgym_daemon.store.database import Store

_COUNTS = frozenset(("runs", "runs_needed"))


def current(store: Store, experiment: Experiment) -> ExperimentFigures:
    """What the stored runs say now; blocks while they are read."""
    with store.reading() as cursor:
        sums = experiment_sums(cursor, experiment.agent, experiment.name)
    return judge(experiment, sums)


def receipt(figures: ExperimentFigures) -> str:
    """The figures as JSON, without the experiment itself; NaN as a text, as protobuf has it."""
    plain = MessageToDict(
        figures, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    plain.pop("experiment", None)
    return json.dumps(_counted(plain), sort_keys=True)


def kept(experiment: Experiment) -> ExperimentFigures:
    """What an experiment that has ended had come to."""
    figures = ExperimentFigures()
    try:
        ParseDict(json.loads(experiment.receipt_json or "{}"), figures, ignore_unknown_fields=True)
    except (ValueError, ParseError):
        figures = ExperimentFigures()  # by another version; the verdict stands beside it
    figures.experiment.CopyFrom(experiment)
    figures.verdict, figures.why = experiment.verdict, experiment.why
    figures.winner = experiment.winner
    return figures


def _counted(value: Any) -> Any:
    """64-bit counts as numbers: JSON of protobuf has texts."""
    if isinstance(value, dict):
        return {k: int(v) if k in _COUNTS else _counted(v) for k, v in value.items()}
    return [_counted(v) for v in value] if isinstance(value, list) else value
