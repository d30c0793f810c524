"""What the daemon's settings become when it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgym_daemon.config import resolve
from agentgym_daemon.errors import ConfigError
from agentgym_daemon.retraining import settings_of


def test_the_learner_gets_the_steering_and_what_else_is_set(tmp_path: Path) -> None:
    config = resolve({"home": tmp_path, "top_k": 7, "learning": "half_life=100,rounds=5"}, {})

    settings = settings_of(config)

    assert (settings.top_k, settings.half_life, settings.rounds) == (7, 100.0, 5)
    assert settings.exploration.top_k == 7


@pytest.mark.parametrize(
    ("text", "said"), [("nonsense=1", "nonsense"), ("top_k=3", "top_k has a setting of its own")]
)
def test_a_setting_that_cannot_be_is_a_config_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"learning: .*{said}"):
        settings_of(resolve({"home": tmp_path, "learning": text}, {}))
