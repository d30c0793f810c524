"""Settings as text, the sets, vectors of texts, digests, and the file of results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agentgym_daemon.bench.learn import identity, jobs, results, sets
from agentgym_daemon.bench.learn.embedding import Floats, Vectors
from agentgym_daemon.bench.learn.jobs import OURS, Job, JobError, Place, Run
from agentgym_daemon.bench.learn.overrides import overrides
from agentgym_daemon.bench.learn.plan import Plan
from agentgym_daemon.errors import ConfigError
from agentgym_daemon.learning.settings import LearningSettings

# ---- settings as text


def test_overrides_take_the_type_of_the_setting() -> None:
    settings, gate = overrides("pg_weight=0, rounds=7,gate=0")

    assert (settings.pg_weight, settings.rounds, gate) == (0.0, 7, False)
    assert type(settings.rounds) is int


def test_no_text_is_the_default() -> None:
    assert overrides("") == (LearningSettings(), True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed=1", "got 'speed=1'"),
        ("rounds=many", "rounds: expected a number, got 'many'"),
        ("temperature=0", "temperature > 0"),
    ],
)
def test_overrides_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        overrides(text)


@pytest.mark.parametrize("arm", sets.ABLATIONS[1:], ids=lambda arm: arm.name)
def test_every_arm_of_the_ablations_differs_from_the_default(arm: sets.Arm) -> None:
    assert arm.encoder == "none" or overrides(arm.settings) != overrides("")


def test_the_first_arm_of_the_ablations_is_the_default() -> None:
    assert (sets.ABLATIONS[0].settings, sets.ABLATIONS[0].encoder) == ("", "")


# ---- sets


def test_sets_are_chosen_by_name_in_the_order_given() -> None:
    assert [s.name for s in sets.chosen("ultratool, clinc30")] == ["ultratool", "clinc30"]
    assert sets.chosen("") == sets.STANDARD


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected some of clinc150, .*got 'clinc'"):
        sets.chosen("clinc")


def test_sets_with_the_same_stream_share_a_ceiling_and_a_changing_world_has_none() -> None:
    by_name = {s.name: s for s in sets.STANDARD}

    assert by_name["clinc150"].ceiling == by_name["clinc150-retry"].ceiling
    assert by_name["clinc150"].ceiling != by_name["clinc30"].ceiling
    assert by_name["clinc150-drift"].ceiling == ""


def test_a_set_is_shortened_but_never_lengthened() -> None:
    setting = sets.STANDARD[0]

    assert sets.shortened(setting, 60).arguments() == ["--episodes=60"]
    assert sets.shortened(setting, 10**6) == setting
    assert sets.shortened(setting, None) == setting


# ---- vectors


def test_vectors_are_read_from_the_file_and_new_texts_are_encoded(tmp_path: Path) -> None:
    asked = []

    def encode(text: str) -> Floats:
        asked.append(text)
        return np.array([len(text), 1.0], np.float32)

    first = Vectors(encode)
    first("one")
    first("three")
    first.save(tmp_path / "vectors.npz")
    second = Vectors(encode, tmp_path / "vectors.npz")
    again, new = second("three"), second("seven!")

    assert asked == ["one", "three", "seven!"]
    assert again.tolist() == [5.0, 1.0]
    assert new.tolist() == [6.0, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npz"]


# ---- digests


def test_comments_and_docstrings_do_not_change_a_digest() -> None:
    plain = "def f(x):\n    return x\n"
    told = '"""About."""\n\ndef f(x):\n    """Gives x."""\n    return x  # as it is\n'
    other = "def f(x):\n    return -x\n"

    assert identity.of_source([plain]) == identity.of_source([told])
    assert identity.of_source([plain]) != identity.of_source([other])


def test_the_digest_of_a_module_covers_what_it_loads() -> None:
    digest, files = identity.of_module(identity.ORACLE)

    assert len(digest) == 16
    assert {"oracle.py", "ceiling.py", "features.py"} <= {path.name for path in files}
    assert identity.versions().keys() >= {"python", "numpy"}


# ---- results


def a_run(seed: int = 0, **of: str) -> Run:
    return Run(OURS, "clinc150", seed, "", of, {"test": {}})


def a_job(seed: int = 0, **of: str) -> Job:
    return Job(OURS, sets.STANDARD[0], seed, of)


def test_a_run_serves_a_job_only_if_all_it_depends_on_is_the_same() -> None:
    same, older, other = a_run(0, code="b"), a_run(1, code="a"), a_run(7, code="b")

    resumed = results.resume([same, older, other], [a_job(0, code="b"), a_job(1, code="b")])

    assert resumed.done == (same,)
    assert resumed.others == (older, other)


def test_a_file_keeps_other_runs_but_not_those_that_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "new" / "runs.json"
    new = a_run(0, code="b", encoder="x")
    replaced = a_run(0, code="a", encoder="x")
    other_encoder, other_seed = a_run(0, code="a", encoder="y"), a_run(3, code="a", encoder="x")

    results.write(target, {"seeds": [0]}, [new], [replaced, other_encoder, other_seed])

    assert results.read(target) == (new, other_encoder, other_seed)
    assert json.loads(target.read_text())["seeds"] == [0]
    assert [path.name for path in target.parent.iterdir()] == ["runs.json"]


@pytest.mark.parametrize("content", ["no json", "[]", '{"name": "decision", "runs": []}', "{}"])
def test_a_file_of_something_else_cannot_be_resumed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)

    with pytest.raises(ConfigError, match="expected a file written by"):
        results.read(path)


def test_a_results_file_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        results.read(tmp_path)


def test_a_run_during_which_the_learner_was_changed_does_not_count(tmp_path: Path) -> None:
    part = tmp_path / "learner.py"
    part.write_text("x = 2")
    place = Place(tmp_path, tmp_path, tmp_path, tmp_path, {"clinc150": ""})
    made = Plan(place, (), (), (), "", identity.of_source(["x = 1"]), (part,), {})

    ((_, result),) = made.perform([a_job()], 1)

    assert isinstance(result, JobError)
    assert "the learner was changed while it was measured" in str(result)


def test_a_program_that_is_not_there_fails_its_job(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path, tmp_path, tmp_path, {})

    with pytest.raises(JobError, match="cannot be run: No such file"):
        jobs.call([str(tmp_path / "nothing")], place, {})
