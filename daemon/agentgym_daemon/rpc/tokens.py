"""Bearer tokens and what they may do; extra tokens are kept as hashes in home/tokens.json."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agentgym_daemon.errors import DirectoryError, InvalidRequestError, NotFoundError
from agentgym_daemon.lock import read_token, write_private

FILE_NAME = "tokens.json"


class Scope(StrEnum):
    """What a token may be used for."""

    INGEST = "ingest"
    REWARD = "reward"
    READ = "read"
    ADMIN = "admin"


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Token:
    """A known token: only its hash is kept."""

    name: str
    sha256: str
    scopes: frozenset[Scope]


class Tokens:
    """The tokens of one directory; changes of tokens.json take effect without a restart."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / FILE_NAME
        self._owner = Token("token", _sha256(read_token(home)), ALL_SCOPES)
        self._extra: tuple[Token, ...] = ()
        self._version: tuple[int, int, int] | None = None

    def find(self, presented: str) -> Token | None:
        """The token that was presented, compared in constant time; None if it is unknown."""
        digest = _sha256(presented)
        found = None
        for token in (self._owner, *self._current()):
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def list(self) -> tuple[Token, ...]:
        """The extra tokens, in the order in which they were made."""
        return self._current()

    def add(self, name: str, scopes: Sequence[str]) -> str:
        """Makes a token and returns it; it cannot be shown again."""
        if not name or len(name) > 100:
            raise InvalidRequestError(f"token name: expected 1 to 100 characters, got {name!r}")
        if any(token.name == name for token in self._current()):
            raise InvalidRequestError(f"a token named {name!r} exists; remove it first")
        secret = secrets.token_hex(32)
        self._write((*self._current(), Token(name, _sha256(secret), _scopes(scopes))))
        return secret

    def remove(self, name: str) -> None:
        """Forgets a token; it is refused from now on."""
        kept = tuple(token for token in self._current() if token.name != name)
        if len(kept) == len(self._current()):
            known = [token.name for token in self._current()]
            raise NotFoundError(f"no token is named {name!r}; known: {known}")
        self._write(kept)

    def _current(self) -> tuple[Token, ...]:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return ()
        version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if version != self._version:
            self._extra = self._read()
            self._version = version
        return self._extra

    def _read(self) -> tuple[Token, ...]:
        try:
            return tuple(
                Token(str(entry["name"]), str(entry["sha256"]), _scopes(entry["scopes"]))
                for entry in json.loads(self._path.read_bytes())
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DirectoryError(
                self._home, f"{FILE_NAME} is unreadable ({error}); repair or remove it"
            ) from error

    def _write(self, tokens: Sequence[Token]) -> None:
        entries = [
            {"name": token.name, "sha256": token.sha256, "scopes": sorted(token.scopes)}
            for token in tokens
        ]
        write_private(self._path, json.dumps(entries, indent=1).encode())


def _scopes(names: Sequence[str]) -> frozenset[Scope]:
    unknown = sorted(set(names) - set(Scope))
    if unknown or not names:
        raise InvalidRequestError(
            f"expected one or more of {[str(scope) for scope in Scope]}, got {list(names)}"
        )
    return frozenset(Scope(name) for name in names)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
