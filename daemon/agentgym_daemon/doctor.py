"""Looks at an installation and says what is wrong with it and what to do about it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc

from agentgym import semconv
from agentgym.proto.v1 import admin_pb2, admin_pb2_grpc
from agentgym_daemon.config import DaemonConfig
from agentgym_daemon.errors import DaemonError, ListenError
from agentgym_daemon.lock import (
    FEATURE_KEY_NAME,
    SIGNING_KEY_NAME,
    SIGNING_PUBLIC_NAME,
    TOKEN_NAME,
    holder,
    is_held,
    read_feature_key,
    read_signing_key,
    read_token,
)
from agentgym_daemon.policies.signing import public_file
from agentgym_daemon.rpc.server import SOCKET_NAME, check_socket_path

LEAST_FREE_BYTES = 512 * 2**20
_TIMEOUT_S = 3.0
_START = "start the daemon: agentgym-daemon serve"
_VERSIONS = {"duckdb": (2,), "torch": (2, 10), "grpcio": (1, 71), "protobuf": (5, 29)}


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found and, if it is not ok, what to do."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""

    def plain(self) -> dict[str, Any]:
        """The check as JSON values."""
        return asdict(self)


def examine(
    config: DaemonConfig, *, version_of: Callable[[str], str] = metadata.version
) -> list[Check]:
    """All checks, in the order in which they should be mended."""
    checks = [_directory(config.home)]
    if checks[0].verdict is not Verdict.FAIL:
        checks += [
            *_secrets(config.home),
            _socket_path(config.home),
            _disk(config.home),
            *_daemon(config.home),
        ]
    return [*checks, *(_version(name, least, version_of) for name, least in _VERSIONS.items())]


def _directory(home: Path) -> Check:
    if not home.exists():
        return Check("directory", Verdict.FAIL, f"{home} does not exist", _START)
    if not home.is_dir() or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return Check(
            "directory",
            Verdict.FAIL,
            f"{home} is no directory that this user may write",
            "set AGENTGYM_HOME to one, or change its owner",
        )
    if mode := home.stat().st_mode & 0o077:
        return Check(
            "directory", Verdict.WARN, f"{home} is open to others ({mode:03o})", f"chmod 700 {home}"
        )
    return Check("directory", Verdict.OK, f"{home} is writable and private")


def _secrets(home: Path) -> Iterator[Check]:
    readers: dict[str, Callable[[Path], Any]] = {
        TOKEN_NAME: read_token,
        FEATURE_KEY_NAME: read_feature_key,
        SIGNING_KEY_NAME: read_signing_key,
    }
    for name, read in readers.items():
        path = home / name
        try:
            read(home)
        except DaemonError as error:
            yield Check(name, Verdict.FAIL, str(error), _START)
            continue
        if path.stat().st_mode & 0o077:
            yield Check(name, Verdict.WARN, f"{path} is open to others", f"chmod 600 {path}")
        else:
            yield Check(name, Verdict.OK, f"{path} is there and private")
            if name == SIGNING_KEY_NAME:
                yield _public_key(home)


def _public_key(home: Path) -> Check:
    """Whoever may write this file says which policies this machine's agents take."""
    path = home / SIGNING_PUBLIC_NAME
    if not path.exists():
        return Check(path.name, Verdict.WARN, f"{path} is missing", _START)
    if path.stat().st_mode & 0o022:
        return Check(path.name, Verdict.WARN, f"others may write {path}", f"chmod 600 {path}")
    if path.read_bytes() != public_file(home):
        found = f"{path} is not the public half of {SIGNING_KEY_NAME}"
        return Check(path.name, Verdict.FAIL, found, "start the daemon again: it writes it")
    return Check(path.name, Verdict.OK, f"{path} is the public half of {SIGNING_KEY_NAME}")


def _socket_path(home: Path) -> Check:
    path = home / SOCKET_NAME
    try:
        check_socket_path(path)
    except ListenError as error:
        return Check("socket path", Verdict.FAIL, str(error), "use a shorter AGENTGYM_HOME")
    return Check("socket path", Verdict.OK, f"{len(str(path).encode())} bytes")


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(home).free
    found = f"{free / 2**30:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        return Check("disk", Verdict.WARN, found, "free some space: the log grows as agents run")
    return Check("disk", Verdict.OK, found)


def _daemon(home: Path) -> Iterator[Check]:
    if not is_held(home):
        yield Check("daemon", Verdict.WARN, "no daemon holds the directory", _START)
        return
    pid = holder(home)
    yield Check("lock", Verdict.OK, f"held by pid {pid}")
    try:
        status = _ask(home)
    except DaemonError as error:
        yield Check("token", Verdict.FAIL, str(error), _START)
    except grpc.RpcError as error:
        yield _refused(error, pid)
    else:
        yield Check(
            "daemon", Verdict.OK, f"version {status.daemon_version}, up {status.uptime_s:.0f} s"
        )
        yield _contract(status.contract_version)
        yield _behind(status)


def _ask(home: Path) -> admin_pb2.StatusResponse:
    token = read_token(home)
    with grpc.insecure_channel(f"unix:{home / SOCKET_NAME}") as channel:
        response: admin_pb2.StatusResponse = admin_pb2_grpc.AdminServiceStub(channel).Status(
            admin_pb2.StatusRequest(),
            timeout=_TIMEOUT_S,
            metadata=((semconv.METADATA_TOKEN, f"Bearer {token}"),),
        )
        return response


def _refused(error: grpc.RpcError, pid: int | None) -> Check:
    code, details = error.code(), error.details()
    if code == grpc.StatusCode.UNAUTHENTICATED:
        advice = "the token file changed after the daemon started; restart the daemon"
        return Check("token", Verdict.FAIL, str(details), advice)
    return Check(
        "daemon",
        Verdict.FAIL,
        f"pid {pid} does not answer ({code.name}: {details})",
        f"look at its log, or end it (kill {pid}) and start it again",
    )


def _contract(theirs: int) -> Check:
    if theirs == semconv.CONTRACT_VERSION:
        return Check("contract", Verdict.OK, f"version {theirs}")
    return Check(
        "contract",
        Verdict.FAIL,
        f"the running daemon speaks {theirs}, this installation {semconv.CONTRACT_VERSION}",
        "restart the daemon",
    )


def _behind(status: admin_pb2.StatusResponse) -> Check:
    behind = status.log_end - status.log_applied
    found = f"{behind} bytes of the log are not in the database yet"
    if behind > 64 * 2**20:
        return Check("applier", Verdict.WARN, found, "wait; if it grows, look at the daemon's log")
    return Check("applier", Verdict.OK, found)


def _version(package: str, least: tuple[int, ...], version_of: Callable[[str], str]) -> Check:
    wanted = ".".join(map(str, least))
    try:
        version = version_of(package)
    except metadata.PackageNotFoundError:
        return Check(package, Verdict.FAIL, "not installed", "run: pip install 'agentgym[daemon]'")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".") if part.isdecimal())
    if numbers < least:
        return Check(package, Verdict.FAIL, version, f"run: pip install -U '{package}>={wanted}'")
    return Check(package, Verdict.OK, version)
