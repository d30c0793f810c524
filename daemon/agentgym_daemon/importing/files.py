"""Files of past traces: read whole, told apart, and refused whole if they cannot be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgym_daemon.importing import langfuse, lightning, otlp, phoenix
from agentgym_daemon.importing.model import ImportFileError, Loaded

AUTO = "auto"
_READERS: Mapping[str, tuple[Callable[[Any], bool], Callable[[Sequence[Any], str], Loaded]]] = {
    "otlp": (otlp.recognises, otlp.load),
    "agentlightning": (lightning.recognises, lightning.load),
    "langfuse": (langfuse.recognises, langfuse.load),
    "phoenix": (phoenix.recognises, phoenix.load),
}
FORMATS = tuple(_READERS)
_EXPECTED = (
    "expected OTLP JSON (resourceSpans), a Langfuse export (traces, observations, scores), Phoenix "
    "spans (context.trace_id) or annotations, or Agent Lightning spans (rollout_id), as JSON or "
    "JSON lines"
)


@dataclass(frozen=True, slots=True)
class Read:
    """One file that was understood."""

    path: Path
    format: str
    sha256: str
    loaded: Loaded

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "path": str(self.path),
            "format": self.format,
            "sha256": self.sha256,
            "spans": len(self.loaded.spans),
            "scores": len(self.loaded.scores),
        }


def read(path: Path, wanted: str = AUTO) -> Read:
    """A file as neutral spans and scores; raises ImportFileError, naming file and place."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImportFileError(
            f"{path}: cannot be read ({error.strerror}); check path and permissions"
        ) from error
    records = _records(path, data)
    if b"\\ud" in data.lower():
        records = _whole(records)
    found = _format(path, records) if wanted == AUTO else wanted
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        loaded = _READERS[found][1](records, f"{found}:{sha256}")
    except ImportFileError as error:
        raise ImportFileError(f"{path}: {error}") from error
    return Read(path, found, sha256, loaded)


def _records(path: Path, data: bytes) -> list[Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "gunzip it first" if data[:2] == b"\x1f\x8b" else "export it as JSON"
        raise ImportFileError(
            f"{path}: expected UTF-8 text, got byte {data[error.start]:#04x} at {error.start}; "
            f"{hint}"
        ) from error
    if not text.strip():
        raise ImportFileError(f"{path}: the file is empty; {_EXPECTED}")
    try:
        return [json.loads(text)]
    except RecursionError as error:
        raise ImportFileError(f"{path}: nested too deeply to be read; {_EXPECTED}") from error
    except ValueError as whole:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
        if len(lines) < 2 or not lines[0][1].rstrip().endswith(("}", "]")):
            raise ImportFileError(f"{path}: expected JSON or JSON lines; {whole}") from whole
    return [_line(path, number, line) for number, line in lines]


def _whole(value: Any) -> Any:
    """The value with its lone surrogates, which JSON may spell but nothing can encode, as '?'."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return value


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ImportFileError(
            f"{path}: line {number}: expected one JSON value, got {line[:40]!r} ({error}); "
            "repair or remove the line: a part of a run must not pass for the whole"
        ) from error


def _format(path: Path, records: Sequence[Any]) -> str:
    for name, (recognises, _) in _READERS.items():
        if recognises(records[0]):
            return name
    raise ImportFileError(f"{path}: {_EXPECTED}; got {described(records[0])}")


def described(value: Any) -> str:
    """What a JSON value is, in a few words."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(repr, list(value)[:8])) or 'nothing in it'}"
    if isinstance(value, list):
        return f"a list of {len(value)}, first {described(value[0])}" if value else "an empty list"
    return f"{type(value).__name__} {str(value)[:40]!r}"
