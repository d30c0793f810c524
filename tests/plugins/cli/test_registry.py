"""The verbs of the registry and of the audit, against a scripted daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from agentgym import semconv
from agentgym.cli import main
from agentgym.cli.registry import parse_time
from agentgym.errors import AgentGymError
from agentgym.proto.v1 import artifact_pb2, common_pb2, log_pb2, policy_pb2, registry_pb2
from agentgym.testing.daemon import FakeDaemon
from agentgym.testing.signing import SigningKey

Run = Callable[..., tuple[int, str, str]]
Kind = log_pb2.PolicyChange
NOW_S = 1_800_000_000.0


@pytest.fixture
def agentgym(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command against the fake daemon: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--home", str(daemon.home), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def last(daemon: FakeDaemon, method: str) -> registry_pb2.AliasRequest:
    return daemon.taken(method)[-1].request


def test_the_daemon_is_told_who_calls(
    daemon: FakeDaemon, agentgym: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user, sent in (("ada", "cli:ada"), ("Åse", "cli:?se")):
        monkeypatch.setenv("LOGNAME", user)
        agentgym("policy", "promote", "p-000001")
        assert daemon.taken("Promote")[-1].metadata[semconv.METADATA_ACTOR] == sent


def test_an_alias_is_given_and_taken_away(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.reply("Alias", policy_pb2.PolicyVersion(version="p-000002"))

    code, out, _ = agentgym("policy", "alias", "previous", "stable", "--reason", "why")
    assert (code, out) == (0, "stable means p-000002\n")
    request = last(daemon, "Alias")
    assert (request.version, request.alias, request.reason) == ("previous", "stable", "why")

    code, out, _ = agentgym(
        "policy", "alias", "stable", "--remove", "desk", "--agent-name", "Clerk"
    )
    assert (code, out) == (0, "stable means nothing now (before: p-000002)\n")
    request = last(daemon, "Alias")
    assert (request.version, request.alias) == ("", "stable")
    assert (request.scope.agent, request.scope.agent_name) == ("desk", "clerk")

    code, _, err = agentgym("policy", "alias", "p-000001")
    assert (code, "VERSION and NAME" in err) == (1, True)


def test_notes_quarantine_and_release(daemon: FakeDaemon, agentgym: Run) -> None:
    policy = policy_pb2.PolicyVersion(version="p-000002", note="fine", status="retired")
    quarantined = registry_pb2.QuarantineResponse(policy=policy, rolled_back=True, live="p-000001")
    daemon.reply("Note", policy)
    daemon.reply("Quarantine", quarantined)
    daemon.reply("Release", policy)

    assert agentgym("policy", "note", "live", "fine")[1] == "p-000002: fine\n"
    _, out, _ = agentgym("policy", "quarantine", "live", "--reason", "bad")
    assert out == "p-000002 is quarantined; it was live, now: p-000001\n"
    assert daemon.taken("Quarantine")[-1].request.reason == "bad"
    _, out, _ = agentgym("policy", "release", "p-000002")
    assert out == "p-000002 may go live again; it is retired\n"
    _, out, _ = agentgym("policy", "quarantine", "live", "--json")
    assert json.loads(out)["policy"]["version"] == "p-000002"


def test_a_difference_is_a_sentence_and_two_tables(daemon: FakeDaemon, agentgym: Run) -> None:
    daemon.reply(
        "Diff",
        registry_pb2.DiffResponse(
            before="p-000001",
            after="p-000002",
            trajectories=40,
            steps=50,
            changed=10,
            kl=0.125,
            examples=[
                registry_pb2.DiffExample(trajectory_id=bytes(range(16)), step=1, after="refund")
            ],
            tools=[registry_pb2.DiffTool(tool="refund", before=5, after=15)],
        ),
    )

    code, out, _ = agentgym("policy", "diff", "previous", "live", "--trajectories", "40")

    assert code == 0
    assert "p-000001 -> p-000002: 10 of 50 first choices change (20.0%), KL 0.1250" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["refund", "5", "15", "+10"] in lines
    assert [bytes(range(16)).hex(), "1", "(left", "alone)", "refund"] in lines
    request = daemon.taken("Diff")[-1].request
    assert (request.before, request.after, request.trajectories) == ("previous", "live", 40)
    assert agentgym("policy", "diff", "a", "b", "--examples", "-1")[0] == 1


def test_what_was_live_at_a_time(daemon: FakeDaemon, agentgym: Run) -> None:
    then = registry_pb2.LiveThen(
        scope=common_pb2.Scope(agent="desk", agent_name="clerk"),
        version="p-000001",
        pinned=True,
        since_unix_nano=10**18,
        actor="cli:ada",
    )
    daemon.reply("LiveAt", registry_pb2.LiveAtResponse(live=[then]))

    code, out, _ = agentgym("policy", "at", "2026-11-21T14:00:00+00:00", "--agent", "desk")

    assert code == 0
    assert "p-000001 (pinned)" in out
    assert "cli:ada" in out
    request = daemon.taken("LiveAt")[-1].request
    assert (request.at_unix_nano, request.agent) == (1_795_269_600 * 10**9, "desk")
    assert json.loads(agentgym("policy", "at", "2h", "--json")[1])["live"][0]["pinned"] is True


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", NOW_S - 45),
        ("30m", NOW_S - 1800),
        ("2h", NOW_S - 7200),
        ("1.5h ago", NOW_S - 5400),
        ("3d", NOW_S - 259_200),
        ("1 w", NOW_S - 604_800),
        ("2026-11-21T14:00:00Z", 1_795_269_600),
        ("2026-11-21T15:00:00+01:00", 1_795_269_600),
    ],
)
def test_times_are_iso_or_ago(text: str, seconds: float) -> None:
    assert parse_time(text, NOW_S) == seconds * 10**9


def test_a_time_without_a_zone_is_local() -> None:
    assert abs(parse_time("2026-11-21T14:00", NOW_S) / 1e9 - 1_795_269_600) <= 15 * 3600


@pytest.mark.parametrize("text", ["", "yesterday", "2x", "99999w", "0001-01-01", "inf", "-2h", "h"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(AgentGymError, match="expected a time"):
        parse_time(text, NOW_S)


def test_a_bundle_is_written_once_and_whole(
    daemon: FakeDaemon, agentgym: Run, tmp_path: Path
) -> None:
    daemon.reply("ExportPolicy", artifact_pb2.Chunk(data=b"bundle", total=6))
    path = tmp_path / "policy.bundle"

    assert agentgym("policy", "export", "live", str(path))[0] == 0
    assert path.read_bytes() == b"bundle"
    assert path.stat().st_mode & 0o777 == 0o600
    code, _, err = agentgym("policy", "export", "live", str(path))
    assert (code, "exists; choose another name" in err) == (1, True)
    assert path.read_bytes() == b"bundle"


@pytest.mark.parametrize("fault", ["short", "refused", "nowhere"])
def test_a_bundle_that_did_not_come_whole_leaves_no_file(
    fault: str, daemon: FakeDaemon, agentgym: Run, tmp_path: Path
) -> None:
    daemon.reply("ExportPolicy", artifact_pb2.Chunk(data=b"bun", total=6))
    path = tmp_path / "policy.bundle"
    if fault == "refused":
        daemon.refuse("ExportPolicy", grpc.StatusCode.NOT_FOUND, details="unknown version")
    if fault == "nowhere":
        path = tmp_path / "no" / "directory"

    code, _, err = agentgym("policy", "export", "live", str(path))

    assert code == 1
    assert {"short": "cut off", "refused": "unknown version", "nowhere": "written"}[fault] in err
    assert not path.exists()


def test_a_bundle_travels_in_parts_with_the_keys_it_may_have(
    daemon: FakeDaemon, agentgym: Run, tmp_path: Path
) -> None:
    scope = common_pb2.Scope(agent="desk")
    daemon.reply(
        "Import", policy_pb2.PolicyVersion(version="p-000004", scope=scope, status="candidate")
    )
    data, key = bytes(range(256)) * 5000, SigningKey()
    (tmp_path / "bundle").write_bytes(data)
    (tmp_path / "their.pub").write_text(key.public.hex())

    code, out, _ = agentgym(
        "policy", "import", str(tmp_path / "bundle"), "--trust", str(tmp_path / "their.pub"),
        "--agent", "desk", "--reason", "from staging",
    )  # fmt: skip

    assert (code, out) == (0, "p-000004 of desk is a candidate\n")
    request = daemon.taken("Import")[-1].request
    assert request.data == data
    assert list(request.trusted_keys) == [key.public]
    assert (request.agent, request.reason) == ("desk", "from staging")


@pytest.mark.parametrize("key", [None, "", "no key", "ab" * 31])
def test_a_file_without_a_key_is_no_trust(
    key: str | None, daemon: FakeDaemon, agentgym: Run, tmp_path: Path
) -> None:
    (tmp_path / "bundle").write_bytes(b"x")
    if key is not None:
        (tmp_path / "their.pub").write_text(key)

    code, _, err = agentgym(
        "policy", "import", str(tmp_path / "bundle"), "--trust", str(tmp_path / "their.pub")
    )

    assert (code, "holds no public key" in err) == (1, True)
    assert not daemon.taken("Import")
    assert agentgym("policy", "import", str(tmp_path / "nothing"))[0] == 1


def test_pruning(daemon: FakeDaemon, agentgym: Run) -> None:
    pruned = [registry_pb2.Pruned(version=f"p-00000{n}", size=2048) for n in (1, 2)]
    daemon.reply("Prune", registry_pb2.PruneResponse(pruned=pruned))

    _, out, _ = agentgym("policy", "prune", "--keep", "3", "--dry-run")

    assert out == "would delete p-000001, p-000002 (4 KB)\n"
    request = daemon.taken("Prune")[-1].request
    assert (request.keep, request.dry_run) == (3, True)


def entry(number: int, **fields: object) -> registry_pb2.AuditEntry:
    return registry_pb2.AuditEntry(
        audit=log_pb2.Audit(number=number),
        received_unix_nano=10**18,
        change=Kind(**fields),  # type: ignore[arg-type]
    )


def test_the_audit_says_who_did_what_and_why(daemon: FakeDaemon, agentgym: Run) -> None:
    scope = common_pb2.Scope(agent="desk")
    daemon.reply(
        "ListAudit",
        registry_pb2.ListAuditResponse(
            entries=[
                entry(3, kind=Kind.KIND_STAGE, stage=3, canary_share=0.05, scope=scope),
                entry(2, kind=Kind.KIND_ALIAS, alias="stable", version="p-000001"),
                entry(1, kind=Kind.KIND_PROMOTE, version="p-000001", actor="cli:ada", reason="so"),
                entry(0, kind=99),
            ]
        ),
    )

    code, out, _ = agentgym("audit", "list", "--limit", "4")

    assert code == 0
    assert "canary 0.05" in out
    assert "alias stable" in out
    [row] = [line.split() for line in out.splitlines() if "cli:ada" in line]
    assert (row[0], row[3], row[4], row[6], row[7]) == ("1", "cli:ada", "promote", "p-000001", "so")
    assert daemon.taken("ListAudit")[-1].request.limit == 4


def test_a_broken_chain_is_exit_code_1(daemon: FakeDaemon, agentgym: Run) -> None:
    head = log_pb2.Audit(number=7, hash=b"\xab" * 32)
    daemon.reply("VerifyAudit", registry_pb2.VerifyAuditResponse(ok=True, changes=7, head=head))
    code, out, _ = agentgym("audit", "verify")
    assert (code, "7 changes, all links hold" in out, "abab" in out) == (0, True, True)

    broken = registry_pb2.VerifyAuditResponse(broken="its content was changed", broken_number=4)
    daemon.reply("VerifyAudit", broken)
    code, out, err = agentgym("audit", "verify", "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False
    assert "the chain of changes is broken at change 4: its content was changed" in err
