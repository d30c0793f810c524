"""The example trains a LitAgent that does better on requests it never saw."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_agent_lightning" / "main.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("agent_lightning_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_policy_does_better_than_the_model_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load()
    unseen = example.tasks()[1::2]
    alone = sum(example.model(t["text"]) == t["needs"] for t in unseen) / len(unseen)
    monkeypatch.setattr(sys, "argv", ["main.py", "--passes", "4"])

    example.main()

    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[:-1]] == [f"r-00000{n}" for n in (1, 2, 3, 4)]
    last = re.fullmatch(r"unseen requests with the last version: (\d\.\d\d)", printed[-1])
    assert last is not None
    assert alone < 0.5
    assert float(last[1]) > alone + 0.2
