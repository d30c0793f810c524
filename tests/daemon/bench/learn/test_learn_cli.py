"""The command, against a referee of a few lines; once against the real one, where it is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.bench import cli
from agentgym_daemon.bench.learn import cli as learn_cli
from agentgym_daemon.bench.learn import plan, sets

pytestmark = pytest.mark.timeout(400)  # many processes that load torch, on whatever machine
REAL_ARENA = Path(__file__).parents[5] / "shared" / "arena"
REAL_DATA = REAL_ARENA.with_name("data")

FAKE_ARENA = '''
"""A referee that plays nothing: it says what it was called with."""
import argparse, json, os, pathlib, sys

p = argparse.ArgumentParser()
for name in "data learner seeds every test json episodes tools retry drift".split():
    p.add_argument("--" + name)
a = p.parse_args()
here = pathlib.Path(__file__).parent
with open(here / "calls.txt", "a") as calls:
    print(a.learner, pathlib.Path(a.data).stem, a.seeds, a.episodes, a.every,
          os.environ["AGENTGYM_ENCODER"], os.environ["AGENTGYM_BENCH_SETTINGS"] or "-",
          os.environ["OMP_NUM_THREADS"], file=calls)
if (here / "broken").exists() and a.seeds == (here / "broken").read_text():
    sys.exit("the referee says no")
last, seed = int(a.episodes), int(a.seeds)
call = {"vw-l5": 0.7}.get(a.learner, 0.8) + seed / 100

def figures(call):
    return {"test": {str(last): {"call": call, "task": call, "deferred": 0.1}}, "windows": [call],
            "worst_window": call, "online_call": call, "deferred": 0.2, "finish_cpu_s": 1.5,
            "decide_cpu_s": 0.5}

pathlib.Path(a.json).write_text(json.dumps({"runs": [figures(call)], "base_runs": [figures(0.65)]}))
'''

FAKE_WORLD = '''
"""Two tools and sixty tasks, of which each names its tool."""
from types import SimpleNamespace

def load(path, catalogue=None, tools=0):
    names = ("refund", "parcel")
    return SimpleNamespace(
        texts=[f"my {names[i % 2]} {i}" for i in range(60)],
        tools=[SimpleNamespace(name=name, description="") for name in names],
        gold=[frozenset({i % 2}) for i in range(60)],
        multi=False,
    )
'''

ARENA_CLASS = """
class Arena:
    def __init__(self, data, seed, episodes, test):
        self.data, self._gold = data, (data.gold, ())
        self._stream, self._test = list(range(40)), list(range(40, 60))
"""


@pytest.fixture
def arena(tmp_path: Path) -> Path:
    directory = tmp_path / "arena"
    directory.mkdir()
    program = "if __name__ == '__main__':\n" + "\n".join(f"    {x}" for x in FAKE_ARENA.split("\n"))
    (directory / "arena.py").write_text(ARENA_CLASS + program)
    (directory / "world.py").write_text(FAKE_WORLD)
    (directory / "vw_learner.py").write_text("")
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    for name in ("clinc150", "metatool", "ultratool"):
        for suffix in (".jsonl", ".catalogue.jsonl"):
            (directory / f"{name}{suffix}").write_text(name)
    return directory


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package of the peer's name."""
    place = tmp_path / "installed"
    (place / "vowpalwabbit-9.9.dist-info").mkdir(parents=True)
    (place / "vowpalwabbit-9.9.dist-info" / "METADATA").write_text("Version: 9.9\n")
    (place / "vowpalwabbit.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(place))


@pytest.fixture
def bench(arena: Path, data: Path) -> Callable[..., int]:
    def call(*arguments: str, encoder: str = "none") -> int:
        given = ["learn", "--arena", str(arena), "--data", str(data), "--encoder", encoder]
        return cli.main([*given, *arguments])

    return call


def calls(arena: Path) -> list[list[str]]:
    path = arena / "calls.txt"
    return sorted(line.split() for line in path.read_text().splitlines()) if path.exists() else []


def written(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.usefixtures("peer")
def test_it_compares_ours_with_peer_and_ceiling_and_draws(
    bench: Callable[..., int], arena: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "out" / "learn.json", tmp_path / "out" / "learn.svg"
    arguments = [
        "--sets",
        "clinc150,clinc30",
        "--seeds",
        "0,2",
        "--jobs",
        "2",
        "--peer",
        "--ceiling",
    ]

    assert bench(*arguments, "--json", str(out), "--picture", str(picture)) == 0

    played = calls(arena)
    ours = "agentgym_daemon.bench.learn.learner:learner"
    assert [call for call in played if call[0] == ours] == [
        [ours, "clinc150", seed, episodes, "0", "none", "-", "1"]
        for seed in ("0", "2")
        for episodes in ("10000", "5000")
    ]
    assert len([call for call in played if call[0] == "vw-l5"]) == 4
    report = written(out)
    assert report["seeds"] == [0, 2]
    assert report["versions"]["vowpalwabbit"] == "9.9"
    assert report["command"].startswith("agentgym-daemon bench learn --arena")
    assert report["failed"] == []
    assert len(report["runs"]) == 2 * 2 * 3
    first = report["figures"]["clinc150"][0]
    assert (first["name"], first["ours"]["median"]) == ("unseen, 10,000", pytest.approx(0.81))
    assert first["ceiling"]["median"] == 1.0  # every task names its tool
    assert first["gap"] == pytest.approx(0.1 / 0.29)
    assert "CLINC150, 30 confusable tools" in capsys.readouterr().out
    assert picture.read_text().startswith("<?xml")


def test_a_later_call_continues_an_interrupted_one(
    bench: Callable[..., int], arena: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "learn.json")
    arguments = ["--sets", "metatool", "--seeds", "0,1,2", "--resume", out]
    (arena / "broken").write_text("1")

    assert bench(*arguments) == 1
    said = capsys.readouterr().err
    assert "1 runs failed" in said
    assert "the referee says no" in said
    (arena / "broken").unlink()
    assert bench(*arguments) == 0

    assert "2 of 3 runs are there already" in capsys.readouterr().err
    assert [call[2] for call in calls(arena)] == ["0", "1", "1", "2"]
    assert sorted(run["seed"] for run in written(Path(out))["runs"]) == [0, 1, 2]
    # other settings are another learner: nothing of this is used for it
    assert bench(*arguments, "--settings", "rounds=3") == 0
    assert "0 of 3 runs are there already" in capsys.readouterr().err
    assert calls(arena)[-1][6] == "rounds=3"


def test_without_the_peer_its_column_says_so(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\nexit 1\n")
    empty.chmod(0o755)

    assert bench("--sets", "clinc30", "--seeds", "0", "--peer", "--peer-python", str(empty)) == 0

    assert "not installed" in capsys.readouterr().out


def test_ablations_play_every_arm_on_both_sets(
    bench: Callable[..., int],
    arena: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "learn.json"
    few = tuple(arm for arm in sets.ABLATIONS if arm.settings in ("", "pg_weight=0", "gate=0"))
    for module in (learn_cli, plan):  # all of them are a process each: half a minute of starts
        monkeypatch.setattr(module, "ABLATIONS", few)

    arguments = ["--sets", "clinc30", "--seeds", "0", "--ablations", "--json", str(out)]
    assert bench(*arguments, "--jobs", "2") == 0

    played = {(call[1], call[6]) for call in calls(arena) if call[3] == "2000"}
    arms = {arm.settings or "-" for arm in few}
    assert played == {(name, arm) for name in ("clinc150", "ultratool") for arm in arms}
    report = written(out)
    assert set(report["ablations"]) == {"clinc150-2k", "ultratool-2k"}
    assert report["ablations"]["clinc150-2k"][0]["arm"] == "default"
    assert "no policy gradient" in capsys.readouterr().out


def test_texts_are_encoded_once_for_all_runs_of_a_set(
    bench: Callable[..., int], arena: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    arguments = ["--sets", "clinc150,clinc30", "--seeds", "0", "--cache", str(cache)]

    assert bench(*arguments, encoder="default") == 0
    first = list(cache.iterdir())
    made = first[0].stat().st_mtime_ns
    assert bench(*arguments, encoder="default") == 0

    assert [path.name.split("-")[0] for path in first] == ["clinc150"]
    assert list(cache.iterdir()) == first
    assert first[0].stat().st_mtime_ns == made
    assert {call[5] for call in calls(arena)} == {"default"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "a"], "--seeds: expected numbers"),
        (["--seeds", "-1"], "--seeds: expected numbers"),
        (["--sets", "imagenet"], "got 'imagenet'"),
        (["--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["--episodes", "0"], "--episodes: expected at least 1"),
        (["--settings", "speed=1"], "--settings: expected NAME=VALUE"),
        (["--picture", "curve.jpg"], "expected a file ending in .png or .svg"),
        (["--peer", "--peer-python", "no/such/python"], "--peer-python: expected an interpreter"),
    ],
)
def test_wrong_usage_says_what_was_expected(
    bench: Callable[..., int],
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(*arguments) == 2
    assert said in capsys.readouterr().err


def test_an_absent_or_incomplete_arena_or_data_directory_is_named(
    bench: Callable[..., int], arena: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "ultratool.catalogue.jsonl").unlink()
    assert bench() == 2
    assert "lacks ultratool.catalogue.jsonl" in capsys.readouterr().err

    (arena / "vw_learner.py").unlink()
    assert bench("--peer") == 2
    assert "lacks vw_learner.py" in capsys.readouterr().err

    nowhere = str(arena / "nowhere")
    assert cli.main(["learn", "--arena", nowhere, "--data", str(data)]) == 2
    assert "nowhere is no directory" in capsys.readouterr().err


@pytest.mark.skipif(
    not (REAL_ARENA / "arena.py").is_file() or not REAL_DATA.is_dir(),
    reason="needs the referee and its data in ../shared, beside this checkout",
)
def test_the_real_referee_plays_our_learner(tmp_path: Path) -> None:
    out = tmp_path / "learn.json"
    places = ["--arena", str(REAL_ARENA), "--data", str(REAL_DATA)]
    small = ["--episodes", "60", "--test", "50", "--seeds", "0", "--sets", "clinc30"]

    assert cli.main(["learn", *places, *small, "--encoder=none", "--ceiling", f"--json={out}"]) == 0

    report = written(out)
    rows = {row["name"]: row for row in report["figures"]["clinc30"]}
    assert rows["unseen, 60"]["ours"]["n"] == 1
    # nothing is trained on so few episodes: the agent alone acts
    assert rows["worst window - agent's own"]["ours"]["median"] == 0.0
    assert rows["unseen, 60"]["ceiling"]["median"] > 0.5
    assert report["encoder"] == {"name": "none", "sha256": "", "bytes": 0}
