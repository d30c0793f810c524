"""Evaluation of a policy at one step."""

from __future__ import annotations

import math
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgym.policy.evaluate import (
    NAMED_ALIKE,
    Catalogue,
    CatalogueCache,
    Scorer,
    ScorerCache,
    _used,
    evaluate,
    sigmoid,
    softmax,
)
from agentgym.policy.features import Featuriser, TextHasher, TextVector
from agentgym.policy.parameters import EFFECTS, MAX_OK, Parameters, initial
from agentgym.trajectory import PastCall, Tool

HASHER = TextHasher(b"key")


def unit(text: str, dim: int) -> np.ndarray:
    """A fake encoder: pure in the text, of unit length."""
    vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def featuriser(dim: int) -> Featuriser:
    if not dim:
        return Featuriser(TextHasher(b"key"))
    return Featuriser(TextHasher(b"key"), lambda text: unit(text, dim), schema=7, dim=dim)


def learned(tools: Sequence[Tool], seed: int, dim: int) -> Parameters:
    """A policy whose every tensor differs from its first value."""
    rng = np.random.default_rng(seed)
    policy = initial(tuple(t.fingerprint.hex() for t in tools), tuple(t.name for t in tools), dim)
    for tensor in policy.tensors.values():
        tensor += rng.normal(0, 0.5, tensor.shape).astype(np.float32)
    return policy


def prior(tools: tuple[Tool, ...]) -> Parameters:
    return initial(tuple(t.fingerprint.hex() for t in tools), tuple(t.name for t in tools))


def test_estimates_are_probabilities(parameters: Parameters, tools: tuple[Tool, ...]) -> None:
    result = evaluate(parameters, HASHER("cancel it"), Catalogue(tools, HASHER), [])

    assert len(result.right) == len(tools) + 1
    assert math.isclose(result.right.sum(), 1.0, abs_tol=1e-12)
    assert 0.0 < result.alone < 1.0


def naive(
    policy: Parameters,
    x: TextVector,
    catalogue: Catalogue,
    history: list[PastCall],
    down: Sequence[int] = (),
) -> tuple[list[float], float]:
    """The formula of the module, term by term and tool by tool."""
    effect = dict(zip(EFFECTS, map(float, policy["history.effect"]), strict=True))
    ok_calls = sum(not call.error for call in history)
    stage, last = int(ok_calls > 0), history[-1] if history else None
    e = x.embedding.values() if x.embedding else np.zeros(0)
    matched = len(e) == policy.embedding_dim > 0

    def learned(column: int) -> float:
        z = float(x.dense() @ policy["tool.weight"][:, column])
        return z + (float(e @ policy["tool.embedding"][:, column]) if matched else 0.0)

    def similarity(task: TextVector, tool: TextVector) -> float:
        score = float(policy["similarity.gain"][0]) * float(task.dense() @ tool.dense())
        vectors = [v.embedding.values() for v in (task, tool) if v.embedding]
        if [len(v) for v in vectors] == [policy.embedding_dim] * 2:
            gain = float(policy["meaning.gain"][0])
            score += gain * float(vectors[0] @ policy["meaning.map"] @ vectors[1])
        return score

    z, level = [], []
    for text, fingerprint in zip(catalogue.texts, catalogue.fingerprints, strict=True):
        score = similarity(x, text)
        level.append(score)
        column = policy.position.get(fingerprint)
        if column is not None:
            score += learned(column) + float(policy["tool.bias"][column])
            if last and last.tool in policy.position:
                score += float(policy["history.transition"][policy.position[last.tool], column])
        for error, name in ((False, "repeat_ok"), (True, "repeat_error")):
            if PastCall(fingerprint, error) in history:
                score += effect[name]
        z.append(score)
    respond = float(policy["tool.bias"][-1]) + sum(level) / len(level)
    if stage:
        respond += learned(len(policy.tools))
    if not last:
        respond += effect["respond_first"]
    else:
        respond += effect["respond_per_ok"] * min(ok_calls, MAX_OK)
        respond += effect["respond_after_error"] * last.error
        if last.tool in policy.position:
            respond += float(policy["history.transition"][policy.position[last.tool], -1])
    z.append(respond)
    right = probabilities(z)

    logit = float(x.dense() @ policy["defer.weight"][:, stage]) + float(policy["defer.bias"][stage])
    if matched:
        logit += float(e @ policy["defer.embedding"][:, stage])
    for p, fingerprint in zip(right, catalogue.fingerprints, strict=False):
        if fingerprint in policy.position:
            logit += p * float(policy["defer.tool"][policy.position[fingerprint]])
    logit += right[-1] * float(policy["defer.tool"][-1])
    if last and last.error:
        logit += effect["defer_after_error"]
    alone = 1.0 / (1.0 + math.exp(-logit))
    if not down:
        return right, alone
    lost = sum(right[i] for i in down)
    asked = [
        sum(
            right[i]
            * (
                similarity(catalogue.texts[i], text)
                + NAMED_ALIKE * float(catalogue.texts[i].dense() @ text.dense())
            )
            for i in down
        )
        for text in catalogue.texts
    ]
    z = [a + b for a, b in zip(z, [*asked, sum(asked) / len(asked)], strict=True)]
    return probabilities([-math.inf if t in down else z_t for t, z_t in enumerate(z)]), alone * (
        1 - min(1, lost / max(right))
    )


def probabilities(z: list[float]) -> list[float]:
    """Softmax."""
    weights = [math.exp(value - max(z)) for value in z]
    return [weight / sum(weights) for weight in weights]


POOL = (
    Tool("find_order", "Finds an order by its number."),
    Tool("refund_order", "Pays the price of an order back."),
    Tool("cancel_order", "Cancels an order that was not shipped."),
    Tool("open_ticket", "Hands the request over to a person."),
    Tool("track_parcel", "Says where a parcel is."),
)
subsets = st.lists(st.integers(0, len(POOL) - 1), unique=True, min_size=1)
histories = st.lists(
    st.builds(
        PastCall, st.sampled_from([*(t.fingerprint for t in POOL), b"", b"foreign!"]), st.booleans()
    ),
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    known=subsets,
    offered=subsets,
    history=histories,
    text=st.sampled_from(["", "where is my parcel", "please pay my order back, it never came"]),
    schema=st.sampled_from([(0, 0), (12, 12), (12, 0), (0, 12)]),
    data=st.data(),
)
def test_a_scorer_computes_the_formula(
    seed: int,
    known: list[int],
    offered: list[int],
    history: list[PastCall],
    text: str,
    schema: tuple[int, int],
    data: st.DataObject,
) -> None:
    policy = learned([POOL[i] for i in known], seed, schema[0])
    features = featuriser(schema[1])
    catalogue = Catalogue(tuple(POOL[i] for i in offered), features)
    down = data.draw(st.lists(st.sampled_from(range(len(offered))), unique=True))
    scorer, x = Scorer(policy, catalogue), features(text)

    for _ in range(2):  # the second time from what it remembers of the task
        whole, part = scorer(x, history), scorer(x, history, down)

    right, alone = naive(policy, x, catalogue, history)
    assert whole.right == pytest.approx(right, abs=1e-9)
    assert whole.alone == pytest.approx(alone, abs=1e-9)
    right, alone = naive(policy, x, catalogue, history, down)
    assert part.right == pytest.approx(right, abs=1e-9)
    assert part.alone == pytest.approx(alone, abs=1e-9)
    assert np.array_equal(evaluate(policy, x, catalogue, history).right, whole.right)


@pytest.mark.parametrize("dim", [0, 12])
@pytest.mark.parametrize("errors", [(), (True,), (False,), (False, True)])
def test_parts_add_up_to_the_logits(dim: int, errors: tuple[bool, ...]) -> None:
    features = featuriser(dim)
    scorer = Scorer(learned(POOL[:3], 0, dim), Catalogue(POOL, features))
    x = features("cancel my order")
    history = [PastCall(POOL[1].fingerprint, error) for error in errors]

    parts = scorer.parts(x, history)

    assert set(parts) == {"similarity", "learned", "history", "errors"}
    whole = softmax(sum(parts.values(), np.zeros(len(POOL) + 1)))
    assert whole == pytest.approx(scorer(x, history).right, abs=1e-12)
    assert parts["errors"].any() == any(errors)
    alone = sum(scorer.defer_parts(x, history).values())
    assert scorer(x, history).alone == pytest.approx(sigmoid(alone), abs=1e-12)
    assert bool(scorer.defer_parts(x, history)["errors"]) == (errors[-1:] == (True,))


@pytest.mark.parametrize("dim", [0, 12])
def test_parts_say_what_is_asked_of_a_tool_because_others_are_down(dim: int) -> None:
    features = featuriser(dim)
    scorer = Scorer(learned(POOL[:3], 0, dim), Catalogue(POOL, features))
    x, down = features("cancel my order"), [0, 2]

    parts = scorer.parts(x, [], down)

    z = sum(parts.values(), np.zeros(len(POOL) + 1))
    z[down] = -np.inf
    assert softmax(z) == pytest.approx(scorer(x, [], down).right, abs=1e-12)
    assert parts["stands in"].any()


def test_what_means_the_same_is_chosen_where_no_word_is_shared() -> None:
    meaning = {"Pays the price of an order back.": 0, "reimburse me": 0}

    def encode(text: str) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[
            next((i for words, i in meaning.items() if words in text), 1)
        ]

    features = Featuriser(TextHasher(b"key"), encode, schema=7, dim=3)
    fingerprints = tuple(t.fingerprint.hex() for t in POOL)
    policy = initial(fingerprints, tuple(t.name for t in POOL), 3)

    result = evaluate(policy, features("reimburse me"), Catalogue(POOL, features), [])

    assert int(np.argmax(result.right[:-1])) == 1


def test_a_scorer_remembers_a_bounded_number_of_tasks() -> None:
    features = featuriser(0)
    scorer = Scorer(learned(POOL, 0, 0), Catalogue(POOL, features))
    tasks = [features(f"task {chr(97 + i % 26)}{chr(97 + i // 26)}") for i in range(100)]

    first = [scorer(x, []).right for x in tasks]

    assert len(scorer._recent) == 64
    assert all(np.array_equal(scorer(x, []).right, r) for x, r in zip(tasks, first, strict=True))


def test_a_part_of_a_catalogue_keeps_texts_and_fingerprints() -> None:
    whole = Catalogue(POOL, featuriser(12))
    whole.fingerprints = tuple(bytes([i]) * 8 for i in range(len(POOL)))

    part = whole.part([3, 1])

    assert part.tools == (POOL[3], POOL[1])
    assert part.fingerprints == (bytes([3]) * 8, bytes([1]) * 8)
    assert part.index == {bytes([3]) * 8: 0, bytes([1]) * 8: 1}
    assert np.array_equal(part.grams(), whole.grams()[:, [3, 1]])
    assert np.array_equal(part.embeddings(12), whole.embeddings(12)[:, [3, 1]])
    assert (whole.embedding_dim, Catalogue((), featuriser(12)).embedding_dim) == (12, 0)
    assert len(whole.tools) == len(POOL)


def test_before_any_learning_the_resembling_tool_is_likeliest(tools: tuple[Tool, ...]) -> None:
    task = HASHER("please cancel the order, it was not shipped")

    result = evaluate(prior(tools), task, Catalogue(tools, HASHER), [])

    assert int(np.argmax(result.right[:-1])) == 2


def test_a_tool_that_succeeded_or_failed_is_less_likely_again(tools: tuple[Tool, ...]) -> None:
    policy, task = prior(tools), HASHER("order")
    scorer = Scorer(policy, Catalogue(tools, HASHER))
    first = scorer.parts(task, [])

    for error, effect in ((False, "repeat_ok"), (True, "repeat_error")):
        past = scorer.parts(task, [PastCall(tools[0].fingerprint, error)])
        part = "errors" if error else "history"

        assert past[part][0] - first[part][0] == policy["history.effect"][EFFECTS.index(effect)] < 0


def test_a_tool_that_the_policy_does_not_know_is_judged_by_its_text(
    tools: tuple[Tool, ...],
) -> None:
    stranger = Tool("track_parcel", "Says where a parcel is.")
    scorer = Scorer(prior(tools), Catalogue((*tools, stranger), HASHER))
    task = HASHER("track the parcel")

    assert scorer.parts(task, [])["learned"][4] == 0.0
    assert int(np.argmax(scorer(task, []).right[:-1])) == 4


def test_a_call_of_a_tool_that_was_never_offered_is_no_error(
    parameters: Parameters, tools: tuple[Tool, ...]
) -> None:
    history = [PastCall(b"", error=False), PastCall(b"12345678", error=True)]

    result = evaluate(parameters, HASHER("x"), Catalogue(tools, HASHER), history)

    assert np.isfinite(result.right).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_softmax_sums_to_one(values: list[float]) -> None:
    assert math.isclose(softmax(np.array(values)).sum(), 1.0, abs_tol=1e-12)


@given(st.floats(allow_nan=False))
def test_sigmoid_never_overflows(z: float) -> None:
    assert 0.0 <= sigmoid(z) <= 1.0
    assert sigmoid(z) == pytest.approx(1.0 - sigmoid(-z), abs=1e-12)


@pytest.mark.parametrize("dim", [0, 12])
def test_catalogues_are_made_once_and_the_least_used_is_forgotten(
    dim: int, tools: tuple[Tool, ...]
) -> None:
    cache = CatalogueCache(featuriser(dim))
    menu = tuple(tools[:2])

    first, other = cache(tools), cache(menu)

    for i in range(63):
        assert cache(list(tools)) is first  # in use all the time
        assert cache((Tool(f"t{i}"),)) is not None
    assert cache(tools) is first
    assert cache(menu) is not other or dim  # the encoder's own memory may still have it
    assert len(cache._known) == 64


@pytest.mark.parametrize("slow", [False, True])
def test_a_catalogue_whose_texts_take_too_long_is_there_later(
    slow: bool, tools: tuple[Tool, ...]
) -> None:
    go = threading.Event()

    def encode(text: str) -> np.ndarray:
        assert go.wait(20)
        return unit(text, 12)

    features = Featuriser(TextHasher(b"key"), encode, schema=7, dim=12, slow=slow)
    cache = CatalogueCache(features)

    assert cache(tools, 0.01) is None
    go.set()

    made = cache(tools, 20.0)
    assert made is not None
    assert made is cache(tools, 0.0)
    assert np.array_equal(made.embeddings(12), Catalogue(tools, featuriser(12)).embeddings(12))


def test_scorers_are_made_once_and_the_least_used_is_forgotten(tools: tuple[Tool, ...]) -> None:
    cache, policy = ScorerCache(), prior(tools)
    catalogues = [Catalogue(tools[: 1 + i % 4], HASHER) for i in range(10)]
    first, other = cache(policy, catalogues[0]), cache(policy, catalogues[1])

    for catalogue in catalogues[2:]:
        assert cache(policy, catalogues[0]) is first
        cache(policy, catalogue)

    assert cache(policy, catalogues[0]) is first
    assert cache(policy, catalogues[1]) is not other
    assert cache(prior(tools), catalogues[0]) is not first


def test_what_another_thread_forgot_in_between_is_still_used() -> None:
    class Racing(OrderedDict[str, int]):
        def get(self, key: str, default: int | None = None) -> int | None:
            return self.pop(key, default)

    assert _used(Racing(a=1), "a") == 1
    assert _used(Racing(a=1), "b") is None
