"""The chain of changes: whatever is done to it behind the daemon's back shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentgym.proto.v1 import common_pb2, log_pb2
from agentgym_daemon.policies.audit import Chain, verify

NOW = 1_700_000_000_000_000_000
Change = log_pb2.PolicyChange


def records(count: int = 6, *, chain: Chain | None = None) -> list[log_pb2.LogRecord]:
    """Changes as a journal writes them."""
    chain, made = chain or Chain(), []
    for number in range(count):
        record = log_pb2.LogRecord(
            received_unix_nano=NOW + number,
            change=Change(
                kind=Change.KIND_PROMOTE,
                scope=common_pb2.Scope(agent="desk"),
                version=f"p-{number:06d}",
                actor="trainer",
                reason="gate",
            ),
        )
        record.audit.CopyFrom(chain.link(record))
        chain.head = record.audit
        made.append(record)
    return made


def payloads(made: list[log_pb2.LogRecord]) -> list[bytes]:
    """Among other records, as in a log."""
    other = log_pb2.LogRecord(received_unix_nano=NOW, otlp_traces=b"anything \x8a\x01")
    return [p for record in made for p in (other.SerializeToString(), record.SerializeToString())]


def test_a_chain_that_nobody_touched_holds() -> None:
    made = records()

    found = verify(payloads(made), known=made[-1].audit)

    assert (found.broken, found.changes) == ("", 6)
    assert found.head == made[-1].audit


def test_changes_from_before_there_was_a_chain_are_counted() -> None:
    old = log_pb2.LogRecord(change=Change(kind=Change.KIND_PROMOTE, version="p-000001"))

    found = verify([old.SerializeToString(), *payloads(records(2))])

    assert (found.broken, found.changes, found.before_chain) == ("", 2, 1)


def set_version(made: list[log_pb2.LogRecord]) -> None:
    made[3].change.version = "p-000666"


def set_actor(made: list[log_pb2.LogRecord]) -> None:
    made[3].change.actor = "cli:somebody-else"


def set_time(made: list[log_pb2.LogRecord]) -> None:
    made[3].received_unix_nano += 1


def forge_hash(made: list[log_pb2.LogRecord]) -> None:
    """The content and its own hash: the next link does not fit any more."""
    set_version(made)
    made[3].audit.hash = records(4, chain=Chain())[3].audit.hash
    link = Chain(made[2].audit).link(made[3])
    made[3].audit.CopyFrom(link)


def remove(made: list[log_pb2.LogRecord]) -> None:
    del made[3]


def swap(made: list[log_pb2.LogRecord]) -> None:
    made[3], made[4] = made[4], made[3]


def insert(made: list[log_pb2.LogRecord]) -> None:
    made.insert(3, made[1])


def insert_unchained(made: list[log_pb2.LogRecord]) -> None:
    extra = log_pb2.LogRecord()
    extra.CopyFrom(made[3])
    extra.ClearField("audit")
    made.insert(3, extra)


def cut_off(made: list[log_pb2.LogRecord]) -> None:
    del made[4:]


def replace_all(made: list[log_pb2.LogRecord]) -> None:
    """A whole chain of one's own is seen by the database's memory of the old one."""
    for record in made:
        record.change.reason = "forged"
    chain = Chain()
    for record in made:
        record.audit.CopyFrom(chain.link(record))
        chain.head = record.audit


@pytest.mark.parametrize(
    ("tamper", "number"),
    [
        (set_version, 4),
        (set_actor, 4),
        (set_time, 4),
        (forge_hash, 5),
        (remove, 4),
        (swap, 4),
        (insert, 4),
        (insert_unchained, 3),
        (cut_off, 5),
        (replace_all, 6),
    ],
)
def test_the_first_broken_link_is_named(
    tamper: Callable[[list[log_pb2.LogRecord]], None], number: int
) -> None:
    made = records()
    known = log_pb2.Audit()
    known.CopyFrom(made[-1].audit)

    tamper(made)
    found = verify(payloads(made), known=known)

    assert found.broken
    assert found.broken_number == number
