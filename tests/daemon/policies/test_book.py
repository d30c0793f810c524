"""Which version is live, as a fold over facts."""

from __future__ import annotations

import pytest

from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym_daemon.errors import NotFoundError, PolicyStateError
from agentgym_daemon.policies.book import Book, Change


def _book(scope: common_pb2.Scope, *versions: str) -> Book:
    book = Book()
    for version in versions:
        book.add(policy_pb2.PolicyVersion(version=version, scope=scope, status="candidate"))
    return book


def _change(scope: common_pb2.Scope, kind: Change.Kind, version: str = "") -> Change:
    return Change(kind=kind, scope=scope, version=version)


def test_ids_rise_and_are_never_used_again(scope: common_pb2.Scope) -> None:
    assert _book(scope).next_version() == "p-000001"
    assert _book(scope, "p-000001", "p-000007").next_version() == "p-000008"
    assert _book(scope, "p-999999", "handmade").next_version() == "p-1000000"


def test_a_promotion_retires_what_was_live(scope: common_pb2.Scope) -> None:
    book = _book(scope, "p-000001", "p-000002", "p-000003")

    book.change(_change(scope, Change.KIND_PROMOTE, "p-000001"))
    book.change(_change(scope, Change.KIND_PROMOTE, "p-000002"))

    statuses = [version.status for version in book.versions("support-desk")]
    assert statuses == ["retired", "live", "candidate"]
    assert book.live_version(scope) == "p-000002"
    assert book.previous_version(scope) == "p-000001"
    assert book.ever_live(scope) == ("p-000001", "p-000002")
    assert [version.version for version in book.live()] == ["p-000002"]
    assert book.live("other") == []


def test_a_rollback_goes_back_step_by_step_to_none(scope: common_pb2.Scope) -> None:
    book = _book(scope, "p-000001", "p-000002")
    book.change(_change(scope, Change.KIND_PROMOTE, "p-000001"))
    book.change(_change(scope, Change.KIND_PROMOTE, "p-000002"))

    book.change(_change(scope, Change.KIND_ROLLBACK, "p-000001"))
    assert book.live_version(scope) == "p-000001"
    assert book.get("p-000002").status == "retired"

    book.change(_change(scope, Change.KIND_ROLLBACK))
    assert book.live_version(scope) == ""
    assert book.live() == []


def test_a_pin_makes_live_and_an_unpin_keeps_it(scope: common_pb2.Scope) -> None:
    book = _book(scope, "p-000001")

    book.change(_change(scope, Change.KIND_PIN, "p-000001"))
    assert book.is_pinned(scope)
    assert book.get("p-000001").pinned

    book.change(_change(scope, Change.KIND_UNPIN, "p-000001"))
    assert not book.is_pinned(scope)
    assert book.live_version(scope) == "p-000001"


def test_nothing_is_known_of_an_unheard_of_scope(scope: common_pb2.Scope) -> None:
    book = Book()

    assert book.live_version(scope) == book.previous_version(scope) == ""
    assert book.ever_live(scope) == ()
    assert not book.is_pinned(scope)
    with pytest.raises(NotFoundError, match="registry is empty"):
        book.get("p-000001")


def test_an_unknown_version_names_those_that_exist(scope: common_pb2.Scope) -> None:
    with pytest.raises(NotFoundError, match=r"'p-9'; the registry has p-000001\.\.p-000002"):
        _book(scope, "p-000002", "p-000001").get("p-9")


def test_a_partly_named_scope_is_completed_if_there_is_one(scope: common_pb2.Scope) -> None:
    book = _book(scope, "p-000001")
    assert book.resolve(common_pb2.Scope(agent="support-desk")) == scope

    other = common_pb2.Scope(agent="support-desk", agent_name="boss", feature_schema=1)
    book.add(policy_pb2.PolicyVersion(version="p-000002", scope=other))

    with pytest.raises(PolicyStateError, match=r"several scopes, name one"):
        book.resolve(common_pb2.Scope(agent="support-desk"))
    assert book.resolve(other) == other
    with pytest.raises(NotFoundError, match=r"agents with policies: \['support-desk'\]"):
        book.resolve(common_pb2.Scope(agent="nobody"))
    with pytest.raises(NotFoundError, match="no policy of agent"):
        book.resolve(common_pb2.Scope(agent="support-desk", feature_schema=9))
