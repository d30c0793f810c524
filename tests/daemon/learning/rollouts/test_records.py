"""Filters, order and pages of queries."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym_daemon.learning.rollouts.records import WorkerRecord, select

ROWS = [
    WorkerRecord("w-1", "busy", last_busy_time=2.0),
    WorkerRecord("w-2", "idle"),
    WorkerRecord("x-3", "busy", last_busy_time=1.0),
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["w-1", "w-2", "x-3"]),
        ({"among": {"status": ("busy",)}}, ["w-1", "x-3"]),
        ({"among": {"status": None}, "containing": {"worker_id": None}}, ["w-1", "w-2", "x-3"]),
        ({"among": {"status": ()}}, []),
        ({"among": {"status": ("busy",)}, "containing": {"worker_id": "w-"}}, ["w-1"]),
        (
            {"among": {"status": ("idle",)}, "containing": {"worker_id": "x"}, "logic": "or"},
            ["w-2", "x-3"],
        ),
        ({"sort_by": "last_busy_time"}, ["w-2", "x-3", "w-1"]),
        ({"sort_by": "worker_id", "order": "desc", "limit": 1, "offset": 1}, ["w-2"]),
        ({"limit": 0}, []),
    ],
)
def test_rows_are_filtered_sorted_and_cut(query: dict[str, Any], expected: list[str]) -> None:
    assert [row.worker_id for row in select(ROWS, **query)] == expected
