"""The kill switch of this machine: a file in the shared directory, and a variable.

$AGENTGYM_HOME/kill    exists: every agent of this home falls back; with names in it, one a line,
                       those agents alone
AGENTGYM_KILL=1        this process falls back; the host may set it while it runs
"""

from __future__ import annotations

import os
from pathlib import Path

ENV = "AGENTGYM_KILL"
FILE_NAME = "kill"
LOOK_S = 0.4
"""How often the file is looked at, off the agent's path."""

_OFF = frozenset(("", "0", "false", "no", "off"))


def in_environment() -> bool:
    """Whether the host's environment stops this process; any word but a clear no does."""
    return os.environ.get(ENV, "").strip().lower() not in _OFF


def names_in(text: str) -> frozenset[str]:
    """The agents that a file names; none means all of them."""
    return frozenset(line.strip() for line in text.splitlines() if line.strip())


class KillFile:
    """The file as it concerns one agent; one thread looks."""

    def __init__(self, home: Path, agent: str) -> None:
        self._path = home / FILE_NAME
        self._agent = agent.strip()
        self._seen: tuple[int, int, int] | None = None
        self._kills = False

    def look(self) -> bool:
        """Whether the agent falls back; one `stat`, and a reading where the file has changed."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._seen, self._kills = None, False
            return False
        except OSError:
            return self._kills  # it cannot be told: as before
        seen = found.st_mtime_ns, found.st_size, found.st_ino
        if seen != self._seen:
            self._kills = self._reads()
            self._seen = seen
        return self._kills

    def _reads(self) -> bool:
        try:
            names = names_in(self._path.read_text("utf-8", "replace"))
        except FileNotFoundError:
            return False
        except OSError:
            return True  # it is there: whoever laid it wants agents to stop
        return not names or self._agent in names
