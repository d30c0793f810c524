"""The demo's command line refuses early what cannot work."""

from __future__ import annotations

import pytest

from agentgym_daemon.demo import cli
from agentgym_daemon.demo.cli import main, missing_packages


def test_an_unknown_framework_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--frameworks", "langchain,semantic"]) == 2

    assert "unknown framework 'semantic'" in capsys.readouterr().err


def test_only_the_packages_of_the_chosen_frameworks_are_needed() -> None:
    absent = {"crewai", "openai"}

    def find(name: str) -> object:
        return None if name in absent else object()

    assert missing_packages(("langchain",), find=find) == []
    assert missing_packages(("autogen", "crewai"), find=find) == ["openai", "crewai"]


def test_missing_packages_are_named_with_the_way_to_get_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli._PACKAGES, "crewai", ("a_package_that_nobody_has",))

    assert main(["--frameworks", "crewai"]) == 2

    message = capsys.readouterr().err
    assert "not installed: a_package_that_nobody_has" in message
    assert "agentgym[demo]" in message
