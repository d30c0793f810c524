"""The hub rings the subscribers of an agent, and forgets those that leave."""

from __future__ import annotations

from agentgym_daemon.policies.hub import Hub


async def test_a_change_rings_only_the_subscribers_of_the_agent() -> None:
    hub = Hub()
    with hub.subscribe("a") as first, hub.subscribe("b") as second:
        assert len(hub) == 2

        hub.ring("a")
        hub.ring("a")

        assert await first.wait(10.0)
        assert not await first.wait(0.001)
        assert not await second.wait(0.001)
        hub.ring_all()
        assert await second.wait(10.0)
    assert len(hub) == 0
