"""Settings that a running daemon takes up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentgym_daemon.config import RELOADABLE, SETTINGS, changed, reloaded, resolve
from agentgym_daemon.errors import ConfigError


def test_what_can_be_reloaded_are_settings() -> None:
    assert {setting.name for setting in SETTINGS} >= RELOADABLE


def test_only_what_may_change_does(tmp_path: Any) -> None:
    old = resolve({"home": tmp_path}, {})
    new = replace(old, top_k=9, listen="127.0.0.1:1")

    assert changed(old, new) == ["listen", "top_k"]
    assert reloaded(old, new) == replace(old, top_k=9)


async def test_agents_hear_of_new_settings_at_once(desk: Any) -> None:
    stream = desk.client.subscribe()
    before = await stream.read()

    desk.daemon.reload(replace(desk.daemon.config, control_share=0.5, top_k=2))
    after = await stream.read()
    stream.cancel()

    assert before.steering.control_share == pytest.approx(0.1)
    assert (after.steering.control_share, after.steering.top_k) == (0.5, 2)
    assert after.feature_key == before.feature_key
    assert desk.daemon.config.top_k == 2


async def test_a_new_limit_holds_from_the_next_call(desk: Any) -> None:
    desk.daemon.reload(replace(desk.daemon.config, min_free_bytes=2**62))
    full = await desk.client.status()
    desk.daemon.reload(replace(desk.daemon.config, min_free_bytes=0))

    assert not full.ready
    assert (await desk.client.status()).ready


async def test_settings_that_cannot_be_used_change_nothing(desk: Any) -> None:
    before = desk.daemon.config

    with pytest.raises(ConfigError):
        desk.daemon.reload(replace(before, learning="nonsense=1", top_k=2))

    assert desk.daemon.config == before


async def test_what_needs_a_restart_is_named(desk: Any, caplog: pytest.LogCaptureFixture) -> None:
    desk.daemon.reload(replace(desk.daemon.config, segment_bytes=8192))

    assert "settings that wait for a restart: segment_bytes" in caplog.text
    assert desk.daemon.config.segment_bytes == 64 * 2**20
