"""What the gate lets through, and what its receipt says."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentgym.policy import snapshot
from agentgym.policy.arms import Exploration
from agentgym.policy.parameters import Parameters, initial
from agentgym.trajectory import Tool
from agentgym_daemon.learning import gate
from agentgym_daemon.learning.churn import churn
from agentgym_daemon.learning.dataset import Dataset, read_dataset
from agentgym_daemon.learning.settings import LearningSettings
from agentgym_daemon.learning.train import train
from tests.manifests import make_manifest

SETTINGS = LearningSettings(rounds=20, held_out_in=4)
MANIFEST = make_manifest("p-2", parent="p-1")
TOOLS = [
    Tool("track_order", "Find a parcel."),
    Tool("issue_refund", "Pay money back."),
    Tool("reset_password", "Send a link for a new password."),
]
TEXTS = {
    "track_order": ["where is it", "parcel please", "the courier is late", "did it ship"],
    "issue_refund": ["money", "pay me", "charged twice", "wrong amount"],
    "reset_password": ["login", "no access", "forgot my link", "new credentials"],
}


@pytest.fixture(scope="module")
def data(world_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """300 runs of the bare agent."""
    requests = [world_class.request_class(t, (n,)) for n, texts in TEXTS.items() for t in texts]
    world = world_class(requests, TOOLS, seed=0)
    rng = random.Random(0)
    for _ in range(300):
        world.episode(rng.choice(requests), None)
    return read_dataset(world.write(tmp_path_factory.mktemp("gate") / "snapshot"))


@pytest.fixture(scope="module")
def learned(data: Dataset) -> Parameters:
    """A policy trained on the data."""
    return train(data, None, settings=SETTINGS, seed=0)[0]


def judge(
    candidate: Parameters, data: Dataset, incumbent: Parameters | None, **changes: Any
) -> gate.Receipt:
    file = snapshot.dump(candidate, MANIFEST)
    settings = replace(SETTINGS, **changes)
    return gate.tier0(file, snapshot.digest(file), data, incumbent=incumbent, settings=settings)


def shifted(policy: Parameters, amount: float) -> Parameters:
    tensors = dict(policy.tensors)
    bias = policy["tool.bias"].copy()
    bias[0] += amount
    tensors["tool.bias"] = bias
    return Parameters(policy.tools, policy.names, tensors)


def verdicts(receipt: gate.Receipt) -> dict[str, bool | None]:
    return {check.name: check.passed for check in receipt.checks}


def test_a_first_policy_that_learned_is_accepted_and_its_change_is_not_judged(
    data: Dataset, learned: Parameters
) -> None:
    receipt = judge(learned, data, None)

    assert receipt.accepted
    assert verdicts(receipt) == {"file": True, "change": None, "likelihood": True}
    assert "no incumbent" in receipt.checks[1].reason
    assert receipt.reasons == ()


def test_an_unchanged_policy_is_accepted(data: Dataset, learned: Parameters) -> None:
    receipt = judge(learned, data, learned)

    assert receipt.accepted
    assert receipt.checks[1].figures["kl"] == 0
    assert receipt.checks[2].figures["difference"] == 0


def test_a_changed_byte_is_refused(data: Dataset, learned: Parameters) -> None:
    file = bytearray(snapshot.dump(learned, MANIFEST))
    digest = snapshot.digest(bytes(file))
    file[-1] ^= 1

    receipt = gate.tier0(bytes(file), digest, data, incumbent=None, settings=SETTINGS)

    assert not receipt.accepted
    assert "sha256" in receipt.reasons[0]


def test_weights_that_are_not_finite_are_refused(data: Dataset, learned: Parameters) -> None:
    tensors = dict(learned.tensors)
    tensors["similarity.gain"] = np.array([1.0], np.float32)
    file = snapshot.dump(Parameters(learned.tools, learned.names, tensors), MANIFEST)
    value, broken = np.float32(1.0).tobytes(), np.float32(np.nan).tobytes()
    start = file.rindex(value, 0, file.index(b'"similarity.gain"') + len(file))
    file = file[:start] + broken + file[start + 4 :]

    receipt = gate.tier0(file, snapshot.digest(file), data, incumbent=None, settings=SETTINGS)

    assert not receipt.accepted


def test_too_much_change_is_refused(data: Dataset, learned: Parameters) -> None:
    receipt = judge(shifted(learned, 9.0), data, learned)

    assert verdicts(receipt)["change"] is False
    assert any("first choices changed" in reason for reason in receipt.reasons)


def test_a_worse_likelihood_is_refused(data: Dataset, learned: Parameters) -> None:
    receipt = judge(shifted(learned, 9.0), data, learned, max_changed=1.0, max_kl=99.0)

    assert verdicts(receipt) == {"file": True, "change": True, "likelihood": False}
    assert not receipt.accepted


def test_too_few_held_out_runs_are_said_to_be_too_few(data: Dataset, learned: Parameters) -> None:
    few = replace(data, trajectories=data.trajectories[:8])

    receipt = judge(learned, few, learned)

    assert verdicts(receipt)["likelihood"] is None
    assert "are needed" in receipt.checks[2].reason


def test_without_any_step_nothing_but_the_file_is_judged(
    data: Dataset, learned: Parameters
) -> None:
    receipt = judge(learned, replace(data, trajectories=()), learned)

    assert receipt.accepted
    assert verdicts(receipt) == {"file": True, "change": None, "likelihood": None}


def test_the_receipt_is_json_with_every_figure(data: Dataset, learned: Parameters) -> None:
    plain = json.loads(json.dumps(judge(learned, data, learned).plain(), allow_nan=False))

    assert plain["tier"] == 0
    assert plain["accepted"] is True
    figures = {check["name"]: check["figures"] for check in plain["checks"]}
    assert figures["change"].keys() == {"steps", "changed", "kl"}
    assert figures["likelihood"].keys() >= {"candidate", "before", "standard_error"}


def test_the_prior_is_the_measure_of_a_first_policy(data: Dataset) -> None:
    prior = initial(data.tools, data.names)

    figures = judge(prior, data, None).checks[2].figures

    assert figures["candidate"] == figures["before"]


def test_churn_counts_changed_first_choices_and_is_zero_without_steps() -> None:
    allowed = np.array([[True, True]])
    a = np.array([[0.7, 0.2, 0.1]]), np.array([0.5])
    b = np.array([[0.2, 0.7, 0.1]]), np.array([0.5])

    assert churn(a, b, allowed, Exploration()).changed == 1
    assert churn(a, b, allowed, Exploration()).kl > 1
    assert churn(a, a, allowed, Exploration()).kl == 0
    assert churn(a, b, allowed[:0], Exploration()).steps == 0
