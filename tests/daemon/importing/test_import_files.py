"""Files that are not what they should be: refused whole, with what was expected and what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentgym_daemon.importing import cli, files
from agentgym_daemon.importing.judging import parse
from agentgym_daemon.importing.model import ImportFileError
from agentgym_daemon.importing.times import unix_ns


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty; expected OTLP JSON"),
        (b"hello", "expected JSON or JSON lines"),
        (b'{"resourceSpans": [', "expected JSON or JSON lines"),
        (b'{"a": 1}\n{"b": 2}', "got an object with 'a'"),
        (b"[1, 2]", "got a list of 2, first int '1'"),
        (b"[]", "got an empty list"),
        (b'{"resourceSpans": []}\n{"resource', "line 2: expected one JSON value"),
        (b'{"resourceSpans": []}\n{"resourceMetrics": []}', "export traces apart from metrics"),
        # One time for all: workers must collect the same names.
        (gzip.compress(b"{}", mtime=0), "gunzip it first"),
        (b"PAR1\xff\xff", "export it as JSON"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_bytes(content)

    with pytest.raises(ImportFileError) as caught:
        files.read(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", files.FORMATS)
@pytest.mark.parametrize("value", [None, 7, "x", [None, 1], {"data": [3, {}]}, [[[]]]])
def test_a_named_format_survives_whatever_is_in_the_file(
    tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "traces.json"
    path.write_text(json.dumps(value))

    with suppress(ImportFileError):
        assert files.read(path, name).loaded.spans == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match=r"No such file.*check path and permissions"):
        files.read(tmp_path / "none.json")


def test_one_bad_file_and_nothing_is_imported(
    tmp_path: Path, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(shapes.both())
    bad.write_text(shapes.both()[:-9])

    code = cli.main([str(good), str(bad), "--home", str(tmp_path)])

    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert f"{bad}: line 2: expected one JSON value" in err
    assert err.endswith("Nothing was imported.\n")


def test_without_a_daemon_it_says_so(
    tmp_path: Path, home: Path, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text(shapes.both())

    code = cli.main([str(path), "--home", str(home)])

    assert code == 69
    assert "agentgym-daemon serve" in capsys.readouterr().err


def test_a_dry_run_needs_no_daemon_and_says_what_would_happen(
    tmp_path: Path, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text(shapes.both())

    assert cli.main([str(path), "--dry-run", "--json", "--home", str(tmp_path / "no")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert cli.main([str(path), "--dry-run", "--home", str(tmp_path / "no")]) == 0
    text = capsys.readouterr().out

    assert figures["agents"] == [
        {
            "agent": "desk",
            "names": ["clerk"],
            "runs": 2,
            "steps": 4,
            "rewarded": 2,
            "calls": 2,
            "inferred_steps": 0,
            "unclear_turns": 0,
        }
    ]
    assert figures["files"][0]["format"] == "otlp"
    assert set(figures["sent"].values()) == {0}
    assert "agent 'desk' (clerk): 2 runs, 2 rewarded, 4 steps" in text
    assert text.endswith("dry run: nothing was sent\n")


def test_definitions_from_a_file_make_tools_of_names(
    tmp_path: Path, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    traces, tools = tmp_path / "traces.jsonl", tmp_path / "tools.json"
    named = shapes.span(
        shapes.good, 1, "x", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "refund"}
    )
    traces.write_text(shapes.line([named]))
    tools.write_text(json.dumps({"tools": shapes.tools}))
    arguments = [str(traces), "--dry-run", "--json"]

    cli.main(arguments)
    without = json.loads(capsys.readouterr().out)
    cli.main([*arguments, "--tools", str(tools)])
    with_file = json.loads(capsys.readouterr().out)
    tools.write_text("{}")
    code = cli.main([*arguments, "--tools", str(tools)])

    assert without["undefined_tools"] == ["refund"]
    assert with_file["undefined_tools"] == []
    assert code == 1
    assert "expected a list of tool definitions" in capsys.readouterr().err


def test_a_run_of_nobody_asks_for_the_agent(make: Callable[..., Any], shapes: Any) -> None:
    (_, *parts) = shapes.run(shapes.good, task="Where?", tool="look_up")

    with pytest.raises(ImportFileError, match="say --agent NAME"):
        make(shapes.line(parts, service=""))


@pytest.mark.parametrize(
    "text", ["", "=1:2", "a=", "a=1", "a=1:1", "a=1:x", "a=good:2", "a=good:1,bad", "a=0:inf"]
)
def test_a_mapping_that_cannot_be_meant_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="expected NAME"):
        parse(text)
    assert cli.main(["x.json", "--reward", text]) == 2
    assert "expected NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-05-29T13:46:19.963Z", 1_716_990_379_963_000_000),
        ("2024-05-29 13:46:19.963000", 1_716_990_379_963_000_000),
        ("2024-05-29T15:46:19.963+02:00", 1_716_990_379_963_000_000),
        ("1716990379963000321", 1_716_990_379_963_000_321),
        (1_716_990_379_963_000_321, 1_716_990_379_963_000_321),
        (1_716_990_379_963_000, 1_716_990_379_963_000_000),
        (1_716_990_379_963, 1_716_990_379_963_000_000),
        (1_716_990_379, 1_716_990_379_000_000_000),
        (1_716_990_379.5, 1_716_990_379_500_000_000),
        ("yesterday", 0),
        (None, 0),
        (True, 0),
        (-1, 0),
        (float("nan"), 0),
        (1e300, 0),
        ("9999-12-31", 0),
    ],
)
def test_times_in_every_form(value: Any, expected: int) -> None:
    assert unix_ns(value) == expected
