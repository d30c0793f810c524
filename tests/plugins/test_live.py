"""The policies in force: one reference, and how long the daemon was silent."""

from __future__ import annotations

from agentgym.live import LivePolicies
from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import CatalogueCache
from agentgym.policy.features import TextHasher
from agentgym.policy.parameters import initial
from agentgym.policy.policy_set import PolicySet
from agentgym.policy.snapshot import Snapshot


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def policies(**versions: str) -> PolicySet:
    hasher = TextHasher(b"key")
    made = {a: Snapshot(v, v * 8, initial((), ()), {}) for a, v in versions.items()}
    return PolicySet(hasher, CatalogueCache(hasher), Exploration(), 0.1, 60.0, policies=made)


def test_a_swap_notes_every_version_that_was_not_in_force() -> None:
    live = LivePolicies()

    live.swap(policies(a="p-1", b="p-2"))
    live.swap(policies(a="p-3", b="p-2"))
    live.swap(policies(a="p-1", b="p-2"))

    assert live.applied == ["p-1", "p-2", "p-3", "p-1"]
    assert live.current is not None
    assert live.current.version("a") == "p-1"


def test_silence_grows_until_the_daemon_is_heard_of() -> None:
    clock = Clock()
    live = LivePolicies(monotonic=clock)

    clock.now += 50
    assert live.silent_s == 50
    live.touch()
    assert live.silent_s == 0
    clock.now += 5
    live.swap(policies())
    assert live.silent_s == 0


def test_an_open_stream_is_contact_even_if_nothing_happens() -> None:
    clock = Clock()
    live = LivePolicies(monotonic=clock)

    live.follow(True)
    clock.now += 10_000
    assert live.silent_s == 0
    live.follow(False)
    clock.now += 3

    assert live.silent_s == 3


def test_forgetting_leaves_no_policy() -> None:
    live = LivePolicies()
    live.swap(policies(a="p-1"))
    live.follow(True)

    live.forget()

    assert live.current is None
