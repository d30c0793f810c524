"""Row B3: the disk is full, at every place that writes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from agentgym.policy.parameters import initial
from agentgym.policy.snapshot import digest, dump
from agentgym.proto.v1 import common_pb2
from agentgym_daemon.clock import SystemClock
from agentgym_daemon.errors import DirectoryError
from agentgym_daemon.policies.registry import Registry
from tests.manifests import make_manifest

MIB = 2**20
BATCH = 64


class SmallDisk:
    """A file system of its own that can be filled to the last byte, and emptied again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leaves not one block free."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 512):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        """Gives the space back."""
        self._filler.unlink(missing_ok=True)


@pytest.fixture(params=[24, 64], ids=["24 MB", "64 MB"])
def disk(request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    """A tmpfs; mounting one needs the right to do so."""
    path = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}m,mode=700", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        shutil.rmtree(path)
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", str(path)], check=False)
    shutil.rmtree(path, ignore_errors=True)


def refused(otlp: Any, request: Any) -> tuple[grpc.StatusCode, bool]:
    """The code of a refusal, and whether it says when to try again."""
    with pytest.raises(grpc.RpcError) as caught:
        otlp.export(request)
    trailing = dict(caught.value.trailing_metadata() or ())
    info = RetryInfo.FromString(trailing.get("google.rpc.retryinfo-bin", b""))
    return caught.value.code(), info.retry_delay.ToMilliseconds() > 0


@pytest.mark.parametrize("guard", [2 * MIB, 0], ids=["guarded", "to the last byte"])
def test_a_full_disk_refuses_and_loses_nothing(
    report: Any,
    disk: SmallDisk,
    guard: int,
    make_daemon: Callable[..., Any],
    pump: Any,
    otlp: Any,
    traces: Any,
    span: Any,
    until: Any,
) -> None:
    """UNAVAILABLE with a delay, never OK; reading works; with space nothing is lost or doubled."""
    flags = ("--encoder", "none", "--min-free-bytes", str(guard))
    daemon = make_daemon(*flags, home=disk.path).start()
    sender = pump(rate=3000, to=disk.path)
    until(lambda: sender.acked > 2000, "acks")

    disk.fill()
    until(lambda: sender.repeated > 3, "refusals", 120)
    client = otlp(disk.path)
    probe = traces([span(5 * 10**9 + i) for i in range(BATCH)])
    code, delayed = refused(client, probe)
    status = daemon.status()
    acked_when_full = sender.acked
    disk.free()
    until(lambda: sender.acked > acked_when_full + 1000, "acks with space", 120)
    client.export(probe)
    sender.end()
    ready = daemon.status().ready
    stored = daemon.stored_spans()

    report.load |= {"disk": disk.path.name, "guard_bytes": guard}
    report.figures |= {
        "acked": len(sender.ids),
        "acked_when_full": acked_when_full,
        "lost": len(sender.ids - set(stored)),
        "doubled": sum(count - 1 for count in stored.values()),
    }
    assert (code, delayed) == (grpc.StatusCode.UNAVAILABLE, True)
    assert not status.ready
    assert status.not_ready
    assert ready
    assert report.figures["lost"] == report.figures["doubled"] == 0


def test_a_database_that_cannot_be_made_does_not_cost_the_log(
    report: Any, disk: SmallDisk, make_daemon: Callable[..., Any], pump: Any, until: Any
) -> None:
    """A start on a full disk fails or waits, and with space everything is there."""
    flags = ("--encoder", "none", "--min-free-bytes", "0")
    daemon = make_daemon(*flags, home=disk.path).start()
    sender = pump(rate=3000, to=disk.path)
    until(lambda: sender.acked > 2000, "acks")
    sender.end()
    daemon.stop()
    for path in disk.path.glob("agentgym.duckdb*"):
        path.unlink()

    disk.fill()
    started = daemon.start(wait=False)
    with contextlib.suppress(subprocess.TimeoutExpired):
        report.figures["exit_code"] = started.popen.wait(5)
    disk.free()
    if started.popen.poll() is None:
        daemon.kill()
    daemon.popen = None
    daemon.start()
    stored = daemon.stored_spans()

    report.figures |= {"lost": len(sender.ids - set(stored))}
    assert report.figures["lost"] == 0
    assert report.figures.get("exit_code") != 0


async def test_a_policy_that_cannot_be_written_leaves_the_registry_as_it_was(
    disk: SmallDisk,
) -> None:
    """No half-written version, no fact of it; with space the same version is kept."""
    facts = []

    async def append(record: Any) -> int:
        facts.append(record)
        return len(facts)

    registry = Registry(
        disk.path / "policies", append=append, clock=SystemClock(), changed=lambda _agent: None
    )
    registry.load((), ())
    scope = common_pb2.Scope(agent="desk", agent_name="clerk", feature_schema=1)
    data = candidate()

    async def register() -> Any:
        return await registry.register(
            data, sha256=digest(data), scope=scope, status="candidate", receipt={}
        )

    disk.fill()
    with pytest.raises(DirectoryError, match=os.strerror(errno.ENOSPC)):
        await register()
    left, known = list((disk.path / "policies").iterdir()), list(facts)
    disk.free()
    kept = await register()

    assert (left, known) == ([], [])
    assert kept.version == "p-000001"
    assert registry.read(kept.sha256) == data


def candidate() -> bytes:
    """The snapshot of a first version."""
    scope = {"agent": "desk", "agent_name": "clerk", "feature_schema": 1}
    manifest = make_manifest(scope=scope, lineage={"seed": 0})
    return dump(initial(("a" * 16,), ("find_order",)), manifest)
