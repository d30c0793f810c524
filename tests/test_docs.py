"""Nothing public without a line in docs/: settings, commands, names on the wire."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgym import semconv

DOCS = Path(__file__).parents[1] / "docs"
CONFIGS = ("agentgym.config", "agentgym_daemon.config")
PROGRAMS = {
    "agentgym": "agentgym.cli",
    "agentgym-daemon": "agentgym_daemon.cli",
    "agentgym-daemon demo": "agentgym_daemon.demo.cli",
    "agentgym-daemon bench": "agentgym_daemon.bench.cli",
    "agentgym-daemon import": "agentgym_daemon.importing.cli",
}


def page(name: str) -> str:
    return (DOCS / name).read_text()


def shown(default: Any) -> str:
    """A default as the table shows it; None means that the help says what happens."""
    match default:
        case None:
            return ""
        case bool():
            return "`1`" if default else "`0`"
        case () | "":
            return "none"
        case tuple():
            return f"`{','.join(map(str, default))}`"
        case float() if default.is_integer():
            return f"`{int(default)}`"
        case _:
            return f"`{default}`"


def row(setting: Any) -> str:
    """The row of docs/settings.md that describes a setting."""
    text = setting.help.replace("|", "\\|")
    return f"| `{setting.name}` | `{setting.env}` | {shown(setting.default)} | {text} |"


def settings() -> Iterator[Any]:
    for module in CONFIGS:
        for setting in importlib.import_module(module).SETTINGS:
            yield pytest.param(setting, id=f"{module}:{setting.name}")


def wire_names() -> Iterator[Any]:
    for name, value in vars(semconv).items():
        if name.isupper() and isinstance(value, str):
            yield pytest.param(value, id=name)


def argparse_verbs(parser: argparse.ArgumentParser, prefix: str) -> Iterator[tuple[str, set[str]]]:
    """Every verb below a parser with the options that it takes."""
    options: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, child in action.choices.items():
                yield from argparse_verbs(child, f"{prefix} {verb}")
        elif action.help != argparse.SUPPRESS:
            options |= {o for o in action.option_strings if o.startswith("--") and o != "--help"}
    yield prefix, options


def program_verbs(program: str, module: str) -> list[tuple[str, set[str]]]:
    parser = importlib.import_module(module).build_parser()
    return list(argparse_verbs(parser, program))


@pytest.mark.parametrize("setting", list(settings()))
def test_every_setting_has_its_row(setting: Any) -> None:
    assert row(setting) in page("settings.md").splitlines()


@pytest.mark.parametrize("value", list(wire_names()))
def test_every_name_on_the_wire_is_described(value: str) -> None:
    assert f"`{value}`" in page("semconv.md")


@pytest.mark.parametrize(("program", "module"), list(PROGRAMS.items()), ids=list(PROGRAMS))
def test_every_verb_is_described_with_its_options(program: str, module: str) -> None:
    text = page("cli.md")
    missing = []
    for verb, options in program_verbs(program, module):
        if f"`{verb}" not in text:
            missing.append(verb)
        missing += [f"{verb} {option}" for option in sorted(options) if f"`{option}" not in text]

    assert missing == []


def test_every_page_is_reachable_from_the_navigation() -> None:
    """mkdocs warns about it too, but only where it is installed."""
    navigation = (DOCS.parent / "mkdocs.yml").read_text()
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]

    assert [name for name in pages if name not in navigation] == []


def test_every_decision_record_is_listed() -> None:
    index = page("adr/index.md")
    records = [path.name for path in (DOCS / "adr").glob("0*.md")]

    assert [name for name in records if name not in index] == []
