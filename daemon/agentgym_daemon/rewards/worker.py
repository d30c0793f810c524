"""The process in which the user's function runs, or the judge is asked: a line in, a line out.

Nothing here can hurt the daemon: it waits for an answer for a set time and ends the process then.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TextIO

from agentgym_daemon.rewards import judge_call

GROUP = "agentgym.rewards"
"""Entry points that can be named as the reward function."""
FUNCTION, JUDGE = "function", "judge"
_NICE = 10
_MEMORY_BYTES = 8 * 2**30
Answer = dict[str, Any]
Work = Callable[[Any], Answer]


def load(spec: str) -> Callable[[Any], Any]:
    """The function that MODULE:NAME, PATH.py:NAME or an entry point's name means."""
    place, colon, name = spec.rpartition(":")
    if not colon:
        found = [point for point in entry_points(group=GROUP) if point.name == spec]
        if not found:
            raise LookupError(f"no entry point of group {GROUP!r} is named {spec!r}")
        function = found[0].load()
    else:
        function = getattr(_module(place), name)
    if not callable(function):
        raise TypeError(f"expected a function, got {function!r}")
    return function  # type: ignore[no-any-return]  # its answers are checked one by one


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def answer_of(value: Any) -> Answer:
    """What a function returned, as numbers by name; "" is the name of a bare number."""
    if value is None:
        return {"values": {}}
    if isinstance(value, dict):
        return {"values": {str(name): float(v) for name, v in value.items() if v is not None}}
    return {"values": {"": float(value)}}


def serve(lines: TextIO, out: TextIO, work: Work) -> None:
    """Answers until the lines end; an exception is an answer, too."""
    for line in lines:
        try:
            answer = work(json.loads(line))
        except Exception as error:  # noqa: BLE001 - the boundary of the process: reported
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        _say(out, answer)


def _say(out: TextIO, answer: Answer) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()


def main(arguments: list[str]) -> None:
    """Runs the worker on this process's pipes."""
    # What the function prints must not land between the answers.
    out, sys.stdout = sys.stdout, sys.stderr
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        if arguments[0] == JUDGE:
            work: Work = judge_call.call
        else:
            function = load(arguments[1])

            def work(run: Any) -> Answer:
                return answer_of(function(run))
    except BaseException as error:  # noqa: BLE001 - the user's module may do anything
        _say(out, {"error": f"{type(error).__name__}: {error}"[:500]})
        return
    _say(out, {"ready": True})
    serve(sys.stdin, out, work)


if __name__ == "__main__":
    main(sys.argv[1:])
