"""A child process behind a line protocol; used on the event loop, one request at a time.

A child that takes too long, ends or says what is no JSON is killed; the next request starts a new
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODULE = "agentgym_daemon.rewards.worker"
_START_TIMEOUT_S = 60.0
_LINE_BYTES = 2**20
_KEPT_OUT = ("PYTHONSTARTUP",)


class ChildError(Exception):
    """The child gave no answer; says why."""


class ChildTimeoutError(ChildError):
    """The child took too long and was ended."""


class ChildStartError(ChildError):
    """The child could not begin: what it was to run cannot be loaded."""


class Child:
    """Starts when it is first asked; close it when done."""

    def __init__(self, arguments: Sequence[str], log_path: Path) -> None:
        self._command = (sys.executable, "-m", MODULE, *arguments)
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, request: Any, *, timeout_s: float) -> dict[str, Any]:
        """The child's answer; raises ChildError with what went wrong, also within the child."""
        try:
            if self._process is None:
                await self._start()
            answer = await asyncio.wait_for(self._exchange(request), timeout_s)
        except TimeoutError:
            await self.close()
            raise ChildTimeoutError(f"no answer within {timeout_s:g} s; it was ended") from None
        except (OSError, ValueError, EOFError) as error:
            await self.close()
            raise ChildError(f"the process ended or is not understood: {error}") from error
        except asyncio.CancelledError:
            await self.close()
            raise
        if "error" in answer:
            raise ChildError(str(answer["error"]))
        return answer

    async def close(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if name not in _KEPT_OUT}
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environ,
                limit=_LINE_BYTES,
            )
        ready = await asyncio.wait_for(self._hear(), _START_TIMEOUT_S)
        if "error" in ready:
            await self.close()
            raise ChildStartError(str(ready["error"]))

    async def _exchange(self, request: Any) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._hear()

    async def _hear(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError("it ended")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError(f"expected an object, got {answer!r}")
        return answer
