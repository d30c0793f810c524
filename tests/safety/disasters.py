"""What goes wrong in production, one at a time, after an agent has learned for a while.

Each takes a `Life` and harms it: its world, its rewards, its daemon, or its files.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agentgym.cli import main
from agentgym.proto.v1 import policy_pb2
from agentgym.trajectory import Tool
from tests.safety.life import Life
from tests.safety.world import Slot, World

Rewards = list[tuple[float, dict[str, Any]]]
Disaster = Callable[[Life], None]
SOURCES = 20


# ---- rewards


def _one_in_twenty(life: Life, success: bool, flood: int) -> Rewards:
    """Twenty sources judge every run between them; one of them lies, and floods."""
    number = life.runs % SOURCES
    said = [(float(success), {"source": f"user-{number}", "name": f"thumb-{number}"})]
    if number == 0:
        lie = float(not success)
        said = [(lie, {"source": "user-0", "name": f"thumb-0-{i}"}) for i in range(max(1, flood))]
    return said


def poisoned(life: Life) -> None:
    """One of twenty sources says the opposite, a hundred times over."""
    life.judge = lambda life, success: _one_in_twenty(life, success, 100)


def flipped(life: Life) -> None:
    """Every reward means its opposite."""
    life.judge = lambda _life, success: [(float(not success), {})]


def all_good(life: Life) -> None:
    """The grader is stuck: everything is a success."""
    life.judge = lambda _life, _success: [(1.0, {})]


def all_bad(life: Life) -> None:
    """The grader is stuck: everything is a failure."""
    life.judge = lambda _life, _success: [(0.0, {})]


def noisy(life: Life) -> None:
    """Three rewards in ten say the opposite."""
    rng = random.Random(life.seed)
    life.judge = lambda _life, success: [(float(success is not (rng.random() < 0.3)), {})]


def missing(life: Life) -> None:
    """Nine of ten runs are never judged."""
    rng = random.Random(life.seed)
    life.judge = lambda _life, success: [(float(success), {})] if rng.random() < 0.1 else []


def missing_failures(life: Life) -> None:
    """Of the failures, nine of ten are never judged: who is disappointed says nothing."""
    rng = random.Random(life.seed)
    life.judge = lambda _life, success: (
        [(float(success), {})] if success or rng.random() < 0.1 else []
    )


def late(life: Life) -> None:
    """Every reward is late by the traffic of a day."""
    life.late = 400


def repeated(life: Life) -> None:
    """Every reward comes five times."""
    life.judge = lambda _life, success: [(float(success), {})] * 5


# ---- the world


def _best(world: World) -> int:
    """The tool that most requests need."""
    needed = [max(range(len(s.right)), key=s.right.__getitem__) for s in world.slots]
    return max(set(needed), key=needed.count)


def breaks_silently(life: Life) -> None:
    """The tool that is needed most gives wrong results; another one could do."""
    broken = _best(life.world)

    def change(slot: Slot, tool: int, right: float) -> float:
        needed = max(range(len(slot.right)), key=slot.right.__getitem__) == broken
        if tool == broken:
            return 0.02
        return 0.95 if needed and tool == (broken + 1) % len(slot.right) else right

    life.rights(change)


def renamed(life: Life) -> None:
    """The tool that is needed most has another name."""
    number, tools = _best(life.world), list(life.world.tools)
    tools[number] = replace(tools[number], name=f"{tools[number].name}_v2")
    life.move(life.world.requests, tools)


def reshaped(life: Life) -> None:
    """Every tool has another schema, so every fingerprint is new."""
    shape = {"type": "object", "properties": {"reference": {"type": "string"}}}
    tools = [replace(tool, parameters=shape) for tool in life.world.tools]
    life.move(life.world.requests, tools)


def added(life: Life) -> None:
    """Six tools come, two of which do better than the best so far."""
    world, rng = life.world, random.Random(life.seed)
    tools = [*world.tools, *(Tool(f"new_{i}", f"a new tool number {i}") for i in range(6))]

    def more(slot: Slot) -> Slot:
        right = [0.99 if i in (1, 4) and rng.random() < 0.5 else 0.03 for i in range(6)]
        return replace(slot, right=(*slot.right, *right), alone=(*slot.alone, *[0.0] * 6))

    life.move([tuple(more(s) for s in request) for request in world.requests], tools)


def removed(life: Life) -> None:
    """The tool that is needed most is gone; the next one does what it did."""
    world = life.world
    gone = _best(world)
    stay = (gone + 1) % len(world.tools)

    def without(slot: Slot) -> Slot:
        right, alone = list(slot.right), list(slot.alone)
        right[stay] = max(right[stay], right[gone])
        alone[stay] += alone[gone]
        del right[gone], alone[gone]
        return replace(slot, right=tuple(right), alone=tuple(alone))

    tools = [tool for i, tool in enumerate(world.tools) if i != gone]
    life.move([tuple(without(s) for s in request) for request in world.requests], tools)


def other_requests(life: Life) -> None:
    """Nothing that was asked is asked any more: all that was learned is stale."""
    other = World(seed=life.seed + 1_000, requests=len(life.world.requests))
    life.move(other.requests)


def swapped(life: Life) -> None:
    """Two tools change their trades, and say nothing of it."""
    first = _best(life.world)
    second = (first + 1) % len(life.world.tools)

    def change(slot: Slot, tool: int, right: float) -> float:
        if tool in (first, second):
            return slot.right[second if tool == first else first]
        return right

    life.rights(change)


def one_customer(life: Life) -> None:
    """One kind of request is four fifths of the traffic."""
    requests = life.world.requests
    life.move([*requests, *[requests[-1]] * (4 * len(requests))])


# ---- the daemon, its files, its people


def corrupt_candidates(life: Life) -> None:
    """Every policy file on the disk has a flipped bit, and the daemon starts again."""
    life.daemon.stop()
    for path in (life.home / "policies").glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    life.daemon.start()


def killed(life: Life) -> None:
    """The daemon is killed while it works, and started again."""
    life.daemon.kill()
    life.daemon.start()


def lost_database(life: Life) -> None:
    """The database is gone; the log is there."""
    life.daemon.stop()
    for path in life.home.glob("agentgym.duckdb*"):
        path.unlink()
    life.daemon.start()


def old_promoted(life: Life) -> None:
    """Somebody makes the first version live again, for no reason."""
    first = min(
        v.version
        for v in life.daemon.call("policies", "List", policy_pb2.ListPoliciesRequest()).policies
    )
    main(["--home", str(life.home), "policy", "promote", first, "--reason", "a slip", "--json"])


DISASTERS: dict[str, Disaster] = {
    made.__name__: made
    for made in (
        flipped,
        poisoned,
        breaks_silently,
        renamed,
        added,
        other_requests,
        corrupt_candidates,
        late,
        missing,
        swapped,
        removed,
        reshaped,
        all_good,
        all_bad,
        noisy,
        missing_failures,
        repeated,
        one_customer,
        killed,
        lost_database,
        old_promoted,
    )
}
"""By name; the first ones are run in every `make test`."""
