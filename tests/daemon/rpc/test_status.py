"""What the daemon says of itself fits together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def test_counters_are_as_new_as_the_position_that_is_told_with_them(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who waits for a position would read counters from before it."""
    loop = asyncio.get_running_loop()
    await desk.client.applied()
    read = desk.daemon._admin._read

    def read_and_then_a_run_arrives() -> Any:
        before = read()
        asyncio.run_coroutine_threadsafe(desk.client.send_run(1), loop).result(30)
        assert desk.daemon._applier.wait(desk.daemon._log.end, 30)
        return before

    monkeypatch.setattr(desk.daemon._admin, "_read", read_and_then_a_run_arrives)

    early = await desk.client.status()
    monkeypatch.undo()
    late = await desk.client.status()

    assert early.counters.get("spans", 0) == 0
    assert early.log_applied == early.log_end == desk.began
    assert late.counters["spans"] > 0
    assert late.log_applied == late.log_end > 0
