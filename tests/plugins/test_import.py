"""`import agentgym` is light: it loads nothing that an agent does not have already, and quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "plugins"
HEAVY = (
    "autogen_agentchat",
    "autogen_core",
    "autogen_ext",
    "crewai",
    "cryptography",
    "duckdb",
    "google.protobuf",
    "grpc",
    "langchain",
    "langchain_core",
    "langgraph",
    "numpy",
    "openai",
    "opentelemetry",
    "pydantic",
    "rich",
    "torch",
)
BUDGET = 0.6  # of what these take, which every agent has loaded
USUAL = "asyncio, dataclasses, logging, pathlib, typing, urllib.parse"

LOADED = "import agentgym, json, sys; print(json.dumps(sorted(sys.modules)))"
TIMED = (
    f"import time; start = time.process_time(); import {USUAL}; usual = time.process_time(); "
    "import agentgym; print((time.process_time() - usual) / (usual - start))"
)


def in_a_fresh_interpreter(code: str, *options: str) -> str:
    # Coverage would import, trace and slow down what is measured here.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
    command = [sys.executable, "-I", *options, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_import_loads_no_framework_and_nothing_heavy() -> None:
    loaded = json.loads(in_a_fresh_interpreter(LOADED))

    assert [name for name in HEAVY if name in loaded] == []


def test_import_works_where_nothing_is_installed() -> None:
    """-S leaves out site-packages: what is imported here comes from the standard library."""
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); {LOADED}"

    assert "agentgym" in json.loads(in_a_fresh_interpreter(code, "-S"))


def test_import_starts_no_thread_and_leaves_no_process() -> None:
    code = "import agentgym, threading; print(threading.active_count())"

    assert in_a_fresh_interpreter(code).strip() == "1"


def test_every_public_name_can_be_reached() -> None:
    code = "import agentgym; print([n for n in agentgym.__all__ if not hasattr(agentgym, n)])"

    assert in_a_fresh_interpreter(code).strip() == "[]"


def test_import_stays_within_its_time_budget() -> None:
    """An explicit requirement, so timed: a ratio of processor times, the best of seven."""
    in_a_fresh_interpreter(TIMED)  # compiles the bytecode

    assert min(float(in_a_fresh_interpreter(TIMED)) for _ in range(7)) < BUDGET
