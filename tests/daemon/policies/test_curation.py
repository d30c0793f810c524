"""Aliases, notes, quarantine and pruning, as facts that outlive the process."""

from __future__ import annotations

from typing import Any

import pytest

from agentgym_daemon.errors import InvalidRequestError, NotFoundError, PolicyStateError

BY = {"actor": "cli:ada", "reason": "because"}


async def test_computed_aliases_follow_what_happens(shelf: Any) -> None:
    first, second = await shelf.register(live=True), await shelf.register(live=True)
    assert (shelf.book.find("live"), shelf.book.find("previous")) == (second, first)
    assert shelf.book.get("support-desk/live").version == second

    await shelf.registry.rollback(shelf.scope, actor="cli:ada")

    assert shelf.book.find("live") == first
    with pytest.raises(NotFoundError, match="unknown policy version 'previous'"):
        shelf.book.find("previous")
    with pytest.raises(NotFoundError):
        shelf.book.find("canary")
    shelf.book.at_canary = lambda agent: agent == "support-desk"
    assert list(shelf.book.get("canary").aliases) == ["canary", "live"]


async def test_an_alias_means_a_version_wherever_one_is_expected(shelf: Any) -> None:
    first = await shelf.register(live=True)
    await shelf.register(live=True)
    await shelf.curator.alias("previous", "stable", **BY)
    shelf.reopen()

    change = await shelf.registry.promote("stable", actor="cli:ada")
    pinned = await shelf.registry.pin("support-desk/stable", actor="cli:ada")

    assert (change.version, pinned.version) == (first, first)
    assert list(shelf.book.get("stable").aliases) == ["live", "stable"]
    await shelf.curator.unalias(shelf.scope, "stable", **BY)
    with pytest.raises(PolicyStateError, match="has no alias 'stable'"):
        await shelf.curator.unalias(shelf.scope, "stable", **BY)


@pytest.mark.parametrize(
    "alias", ["live", "canary", "previous", "p-000001", "", "A", "a/b", "a b", "1a", "a" * 65, "ä"]
)
async def test_names_that_would_mislead_are_refused(alias: str, shelf: Any) -> None:
    version = await shelf.register()

    with pytest.raises(InvalidRequestError, match="alias: expected"):
        await shelf.curator.alias(version, alias, **BY)


async def test_an_alias_of_two_agents_needs_the_agent(
    shelf: Any, scope: Any, make_candidate: Any
) -> None:
    mine = await shelf.register(live=True)
    shelf.scope = type(scope)(agent="other", agent_name="clerk", feature_schema=1)
    theirs = await shelf.register(live=True)

    with pytest.raises(PolicyStateError, match="means several versions, name one"):
        shelf.book.find("live")

    assert (shelf.book.find("support-desk/live"), shelf.book.find("other/live")) == (mine, theirs)


async def test_a_note_stays_with_its_version(shelf: Any) -> None:
    version = await shelf.register()
    await shelf.curator.note(version, "trained on the sale", actor="cli:ada")
    shelf.reopen()

    assert shelf.book.get(version).note == "trained on the sale"
    await shelf.curator.note(version, "", actor="cli:ada")
    assert shelf.book.get(version).note == ""
    with pytest.raises(InvalidRequestError, match="at most 2000"):
        await shelf.curator.note(version, "x" * 2001, actor="cli:ada")


async def test_what_is_live_and_quarantined_goes_back_to_the_last_version_that_is_not(
    shelf: Any,
) -> None:
    first, second, third = [await shelf.register(live=True) for _ in range(3)]
    assert await shelf.curator.quarantine(second, **BY) == (second, False)

    assert await shelf.curator.quarantine("live", **BY) == (third, True)

    assert shelf.book.live_version(shelf.scope) == first
    assert [v.status for v in shelf.book.versions()] == ["live", "quarantined", "quarantined"]
    shelf.reopen()
    assert [v.status for v in shelf.book.versions()] == ["live", "quarantined", "quarantined"]
    assert shelf.kinds()[-2:] == ["rollback", "quarantine"]


async def test_a_quarantine_ends_a_pin_on_what_it_takes_away(shelf: Any) -> None:
    await shelf.register(live=True)
    second = await shelf.register()
    await shelf.registry.pin(second, actor="cli:ada")

    await shelf.curator.quarantine(second, **BY)

    assert not shelf.book.is_pinned(shelf.scope)
    await shelf.registry.promote(await shelf.register(), actor="trainer")


async def test_what_is_quarantined_cannot_go_live_until_it_is_released(shelf: Any) -> None:
    version = await shelf.register()
    await shelf.curator.quarantine(version, **BY)

    for act in (shelf.registry.promote, shelf.registry.pin):
        with pytest.raises(PolicyStateError, match=r"is quarantined \(because\); release it"):
            await act(version, actor="cli:ada")
    with pytest.raises(PolicyStateError, match="quarantined already"):
        await shelf.curator.quarantine(version, **BY)
    assert shelf.book.live_version(shelf.scope) == ""

    await shelf.curator.release(version, **BY)
    with pytest.raises(PolicyStateError, match="is not quarantined"):
        await shelf.curator.release(version, **BY)
    await shelf.registry.promote(version, actor="cli:ada")
    assert shelf.book.live_version(shelf.scope) == version


async def test_a_rollback_passes_over_what_is_quarantined(shelf: Any) -> None:
    first, second, _ = [await shelf.register(live=True) for _ in range(3)]
    await shelf.curator.quarantine(second, **BY)

    change = await shelf.registry.rollback(shelf.scope, actor="watch")

    assert change.version == first


async def test_the_best_version_so_far_is_what_the_live_receipt_names_and_is_never_pruned(
    shelf: Any,
) -> None:
    assert shelf.book.best_version(shelf.scope) == ""
    best = await shelf.register(live=True)
    assert shelf.book.best_version(shelf.scope) == best
    await shelf.register(live=True, best=best)
    await shelf.register(live=True, best=best)
    await shelf.register(live=True, best=best)
    shelf.reopen()

    assert shelf.book.best_version(shelf.scope) == best
    gone = await shelf.curator.prune(keep=0, agent="", best=(), dry_run=False, actor="cli:ada")
    assert best not in {version.version for version in gone}
    assert shelf.registry.path(best).exists()


async def test_pruning_spares_whatever_may_be_needed(shelf: Any) -> None:
    """Of ten versions: live, previous, an aliased one, the best and a candidate stay."""
    aliased, best, *_ = names = [await shelf.register(live=True) for _ in range(7)]
    rejected = await shelf.register(status="rejected")
    candidate = await shelf.register()
    bad = await shelf.register()
    await shelf.curator.quarantine(bad, **BY)
    await shelf.curator.alias(aliased, "stable", **BY)
    options = {"agent": "", "best": {best}, "actor": "cli:ada"}

    dry = await shelf.curator.prune(keep=1, dry_run=True, **options)
    assert all(shelf.registry.path(v.version).exists() for v in shelf.book.versions())
    going = await shelf.curator.prune(keep=1, dry_run=False, **options)

    assert dry == going
    assert {v.version for v in going} == {*names[2:5], rejected}
    left = {v.version for v in shelf.book.versions() if shelf.registry.path(v.version).exists()}
    assert left == {aliased, best, *names[5:], candidate, bad}
    assert await shelf.curator.prune(keep=1, dry_run=False, **options) == []
    with pytest.raises(PolicyStateError, match="its file was pruned"):
        await shelf.registry.promote(rejected, actor="cli:ada")


async def test_a_rollback_passes_over_what_was_pruned(shelf: Any) -> None:
    first, second, third, fourth = [await shelf.register(live=True) for _ in range(4)]
    await shelf.registry.rollback(shelf.scope, actor="cli:ada")  # third is live, second is next
    assert shelf.book.find("previous") == second

    gone = await shelf.curator.prune(keep=0, agent="", best=(), dry_run=False, actor="cli:ada")

    assert {v.version for v in gone} == {first, fourth}
    assert (await shelf.registry.rollback(shelf.scope, actor="cli:ada")).version == second
    assert (await shelf.registry.rollback(shelf.scope, actor="cli:ada")).version == ""
    assert third


async def test_a_file_that_outlived_its_pruning_goes_at_the_next_start(shelf: Any) -> None:
    rejected = await shelf.register(status="rejected")
    data = shelf.registry.path(rejected).read_bytes()
    await shelf.curator.prune(keep=0, agent="", best=(), dry_run=False, actor="cli:ada")
    shelf.registry.path(rejected).write_bytes(data)

    shelf.reopen()

    assert not shelf.registry.path(rejected).exists()
