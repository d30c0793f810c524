"""Row A5: agents that fork, in every way that servers do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

CELLS = [
    *((method, support) for method in ("os", "fork") for support in ("", "0", "1")),
    ("own", ""),
    ("spawn", ""),
    ("forkserver", ""),
]
"""How children come to be, and GRPC_ENABLE_FORK_SUPPORT, which matters if gRPC was used before."""
CHILDREN = 3
RUNS, WHOLE = 5, 3
HUNG_S = 60
"""A child that has not ended by then hangs."""


@pytest.mark.parametrize(("method", "support"), CELLS, ids=lambda value: value or "unset")
def test_children_end_and_everybodys_spans_are_stored_once(
    load: Callable[..., int], report: Any, full: bool, shared_daemon: Any, run_agent: Any,
    method: str, support: str,
) -> None:  # fmt: skip
    """No child hangs, no span is lost or doubled, and the parent still sends."""
    environ = {"AGENTGYM_HOME": str(shared_daemon.home)}
    if support:
        environ["GRPC_ENABLE_FORK_SUPPORT"] = support
    rounds = -(-load(200) // CHILDREN) // (1 if full else 3)
    for number in range(rounds):
        flags = ("--in-flight",) if number % 2 == 0 else ()
        ids = run_forks(run_agent, method, flags, environ)
        shared_daemon.adopted()
        stored = {one: len(shared_daemon.trajectory(bytes.fromhex(one)).spans) for one in ids}
        assert stored == dict.fromkeys(ids, WHOLE), (method, support, number)

    report.load |= {"forks": rounds * CHILDREN, "method": method, "support": support or "unset"}


def run_forks(run_agent: Any, method: str, flags: tuple[str, ...], environ: Any) -> list[str]:
    """One agent with its children; gives the ids of what they recorded together."""
    agent = run_agent("forks", method, "--children", str(CHILDREN), *flags, **environ)
    ids: list[str] = []
    try:
        assert agent.wait(HUNG_S) == 0, agent.errors
    except subprocess.TimeoutExpired:
        pytest.fail(f"a child hangs: {agent.errors}")
    processes = 0
    while (said := agent.read())["role"] != "end":
        processes += 1
        ids += said["ids"]
        counters = said["counters"]
        assert counters["produced.spans"] == WHOLE * len(said["ids"]), (said, agent.errors)
        assert not [name for name in counters if name.startswith("dropped")], said
    assert said == {"role": "end", "codes": [0] * CHILDREN, "flushed": True, "errors": {}}
    assert processes == CHILDREN + 1
    return ids
