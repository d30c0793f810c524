"""The command line: exit codes, and one JSON object on stdout where it is asked for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentgym_daemon import app, cli, doctor, serving
from agentgym_daemon.cli import FAILED, GUESTS, HELD, OK, USAGE, main
from agentgym_daemon.config import resolve
from agentgym_daemon.lock import HomeLock, prepare
from agentgym_daemon.rpc.tokens import Tokens


@pytest.fixture(autouse=True)
def home_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs find their directory through the environment."""
    monkeypatch.setenv("AGENTGYM_HOME", str(home))


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """What doctor printed, by name of the check."""
    found = json.loads(capsys.readouterr().out)
    return {check["name"]: check for check in found["checks"]}


def test_serve_hands_the_settings_over_and_returns_the_exit_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def serve(config: Any, ready: Any, read: Any) -> int:
        seen.append(config)
        ready("ready")
        return 0

    monkeypatch.setattr(serving, "serve", serve)

    code = main(["serve", "--control-share", "0.3", "--retrain-trajectories", "7"])

    assert code == OK
    assert (seen[0].home, seen[0].control_share, seen[0].retrain_trajectories) == (home, 0.3, 7)
    assert capsys.readouterr().err == "ready\n"


def test_a_bad_setting_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--top-k", "none"]) == USAGE
    assert "agentgym-daemon: argument top_k: got 'none'" in capsys.readouterr().err


def test_weights_that_cannot_be_had_are_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--encoder", "minilm", "--encoder-dir", str(tmp_path)]) == USAGE
    assert "agentgym-daemon: encoder: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["token"], ["token", "add", "a"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == USAGE
    assert "usage: agentgym-daemon" in capsys.readouterr().err


def test_a_held_directory_is_refused_with_75(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with HomeLock(home):
        assert main(["serve"]) == HELD
        assert main(["rebuild"]) == HELD

    assert "another daemon holds it (pid " in capsys.readouterr().err


def test_an_unusable_directory_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main(["serve", "--home", str(tmp_path / "file")]) == FAILED
    assert "it is a file" in capsys.readouterr().err


def test_rebuild_prints_tables_or_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rebuild"]) == OK
    assert "spans" in capsys.readouterr().out

    assert main(["rebuild", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["equal"] is True


def test_an_error_of_the_system_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "agentgym.duckdb").mkdir()

    assert main(["rebuild"]) == FAILED
    assert capsys.readouterr().err.startswith("agentgym-daemon: ")


def test_tokens_are_shown_once_listed_and_removed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "add", "ci", "--scope", "ingest", "--scope", "reward"]) == OK
    secret = capsys.readouterr().out.strip()

    assert main(["token", "list"]) == OK
    assert capsys.readouterr().out.split() == ["ci", "ingest,", "reward"]
    assert main(["token", "list", "--json"]) == OK
    assert json.loads(capsys.readouterr().out) == {
        "tokens": [{"name": "ci", "scopes": ["ingest", "reward"]}]
    }
    assert Tokens(home).find(secret) is not None
    assert main(["token", "remove", "ci"]) == OK
    assert main(["token", "remove", "ci"]) == FAILED
    assert "no token is named 'ci'" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    anew = ("agentgym_daemon.app", "agentgym_daemon.serving", "agentgym_daemon.store")
    for name in [name for name in sys.modules if name.startswith(anew)]:
        monkeypatch.delitem(sys.modules, name)

    assert main(["serve"]) == USAGE
    assert "duckdb is not installed; run: pip install 'agentgym[daemon]'" in capsys.readouterr().err


def test_any_other_missing_module_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(config: Any, ready: Any, read: Any) -> int:
        raise ModuleNotFoundError("No module named 'typo'", name="typo")

    monkeypatch.setattr(serving, "serve", serve)

    with pytest.raises(ModuleNotFoundError, match="typo"):
        main(["serve"])


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, FAILED)])
def test_an_interrupted_verb_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def serve(config: Any, ready: Any, read: Any) -> int:
        raise error

    monkeypatch.setattr(serving, "serve", serve)

    assert main(["serve"]) == code


def test_guests_get_their_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = ModuleType("a_guest")
    guest.main = lambda argv: len(argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_guest", guest)
    monkeypatch.setitem(GUESTS, "demo", ("a_guest", "help"))

    assert main(["demo", "--anything", "goes", "here"]) == 3


def test_an_absent_guest_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(GUESTS, "bench", ("agentgym_daemon.nowhere.cli", "help"))

    assert main(["bench"]) == USAGE
    assert "'bench' is not part of this installation" in capsys.readouterr().err


def test_a_fault_within_a_guest_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'typo'", name="typo")

    monkeypatch.setattr(cli.importlib, "import_module", broken)

    with pytest.raises(ModuleNotFoundError, match="typo"):
        main(["demo"])


def test_doctor_is_content_with_a_prepared_directory(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(home)

    assert main(["doctor", "--json"]) == OK
    found = checks(capsys)
    assert found["directory"]["verdict"] == "ok"
    assert found["daemon"]["verdict"] == "warn"
    assert main(["doctor"]) == OK
    assert (
        "warn daemon: no daemon holds the directory -> start the daemon" in capsys.readouterr().out
    )


def test_doctor_names_what_is_open_damaged_or_missing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(home)
    home.chmod(0o755)
    (home / "token").chmod(0o644)
    (home / "feature.key").write_bytes(b"x")

    assert main(["doctor", "--json"]) == FAILED

    found = checks(capsys)
    assert found["directory"]["advice"] == f"chmod 700 {home}"
    assert found["token"]["advice"] == f"chmod 600 {home}/token"
    assert found["feature.key"]["verdict"] == "fail"


def test_doctor_stops_at_a_directory_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main(["doctor", "--json", "--home", str(tmp_path / "missing")]) == FAILED
    assert "does not exist" in checks(capsys)["directory"]["found"]
    assert main(["doctor", "--json", "--home", str(tmp_path / "file")]) == FAILED
    assert "is no directory" in checks(capsys)["directory"]["found"]


def test_doctor_finds_a_long_path_a_full_disk_and_old_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ("x" * 100)
    prepare(home)
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 2**62)

    def version_of(package: str) -> str:
        if package == "torch":
            raise metadata.PackageNotFoundError
        return "0.1"

    found = {
        check.name: check
        for check in doctor.examine(resolve({"home": home}, {}), version_of=version_of)
    }

    assert found["socket path"].verdict == "fail"
    assert found["disk"].verdict == "warn"
    assert found["torch"].found == "not installed"
    assert found["duckdb"].advice == "run: pip install -U 'duckdb>=2'"


def test_doctor_finds_a_holder_that_does_not_answer(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(home)
    monkeypatch.setattr(doctor, "_TIMEOUT_S", 0.3)
    with HomeLock(home):
        assert main(["doctor", "--json"]) == FAILED

        assert "does not answer" in checks(capsys)["daemon"]["found"]
        (home / "token").unlink()
        assert main(["doctor", "--json"]) == FAILED
        assert checks(capsys)["token"]["verdict"] == "fail"


async def test_doctor_talks_to_a_running_daemon(desk: Any, capsys: Any) -> None:
    assert await asyncio.to_thread(main, ["doctor", "--json"]) == OK

    found = checks(capsys)
    assert found["daemon"]["found"].startswith("version 0.")
    assert found["contract"]["found"] == "version 1"
    assert found["applier"]["verdict"] == "ok"
    (desk.home / "token").write_text("0" * 64)
    assert await asyncio.to_thread(main, ["doctor", "--json"]) == FAILED
    assert "restart the daemon" in checks(capsys)["token"]["advice"]


def test_doctor_notices_another_contract_and_a_long_backlog() -> None:
    assert doctor._contract(2).verdict == "fail"

    class Status:
        log_end, log_applied = 2**30, 0

    assert doctor._behind(Status()).verdict == "warn"  # type: ignore[arg-type]


def test_serving_ends_in_order_when_the_process_is_told_to(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    class Trainer:
        status = "idle"

        def warm(self) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(
        app.Daemon.__init__,
        "__kwdefaults__",
        {
            "clock": None,
            "trainer_factory": lambda config: Trainer(),
        },
    )
    assert threading.current_thread() is threading.main_thread()

    config = resolve({"home": home}, {})
    code = serving.serve(config, lambda line: os.kill(os.getpid(), signal.SIGTERM), lambda: config)

    assert code == 0
    assert not (home / "daemon.sock").exists()
