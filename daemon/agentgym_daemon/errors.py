"""Errors of the daemon: they carry data and know nothing of gRPC.

DaemonError
├── ConfigError           a setting has a value that cannot be used
├── DirectoryError        the directory cannot be used
│   └── DirectoryHeldError    another daemon holds it
├── ListenError           an address cannot be listened on
├── StorageError          the log or the database failed
│   └── StorageFullError      the disk takes no more for now (also a RefusedForNowError)
├── RefusedForNowError    the same call may pass a little later
│   ├── NotReadyError         facts cannot be kept, or come faster than they are kept
│   └── QuotaError            one sender sends more than its share
├── NotFoundError         nothing has this id or key
├── AmbiguousKeyError     several unrewarded trajectories have this key
├── InvalidRewardError    a reward is not a number in [0, 1], or names nothing
├── InvalidRequestError   a request cannot be understood
├── BundleError           a bundle of a policy cannot be trusted or used
├── PolicyStateError      a policy version cannot be changed in this way now
└── ContractError         the other side speaks another contract version
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DaemonError(Exception):
    """Base of all errors that the daemon raises on purpose."""


class ConfigError(DaemonError, ValueError):
    """A setting has a value that cannot be used."""


class DirectoryError(DaemonError, OSError):
    """The daemon's directory cannot be used."""

    def __init__(self, home: Path, reason: str) -> None:
        super().__init__(f"directory {home}: {reason}; set AGENTGYM_HOME or --home to another one")
        self.home = home


class DirectoryHeldError(DirectoryError):
    """Another daemon holds the directory."""

    def __init__(self, home: Path, pid: int | None) -> None:
        super().__init__(home, f"another daemon holds it (pid {pid or 'unknown'}); stop it first")
        self.pid = pid


class ListenError(DaemonError, OSError):
    """An address cannot be listened on."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


class StorageError(DaemonError):
    """The log or the database failed; nothing that it did not confirm may be taken as stored."""


class RefusedForNowError(DaemonError):
    """The same call may pass after `retry_after_s`."""

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class StorageFullError(StorageError, RefusedForNowError):
    """The disk takes no more for now; nothing of this call was stored."""


class NotReadyError(RefusedForNowError):
    """Facts cannot be kept now, or come faster than they are kept."""


class QuotaError(RefusedForNowError):
    """One sender sends more than its share."""


class NotFoundError(DaemonError, LookupError):
    """Nothing has this id or key."""


class AmbiguousKeyError(DaemonError):
    """Several unrewarded trajectories have this key."""

    def __init__(self, key: str, ids: Sequence[bytes]) -> None:
        super().__init__(
            f"{len(ids)} unrewarded trajectories have key {key!r}: "
            f"{', '.join(i.hex() for i in ids[:20])}; name one by its id, or reward all of them"
        )
        self.ids = tuple(ids)


class InvalidRewardError(DaemonError, ValueError):
    """A reward cannot be taken as it is."""


class InvalidRequestError(DaemonError, ValueError):
    """A request cannot be understood."""


class BundleError(DaemonError, ValueError):
    """A bundle of a policy cannot be trusted or used; nothing of it was kept."""


class PolicyStateError(DaemonError):
    """A policy version cannot be changed in this way now."""


class ContractError(DaemonError):
    """The other side speaks another contract version."""

    def __init__(self, *, theirs: str, ours: int) -> None:
        newer = theirs.isdecimal() and int(theirs) > ours
        what = "the daemon: pip install -U 'agentgym[daemon]'" if newer else "agentgym in the agent"
        super().__init__(
            f"plugin speaks contract {theirs}, this daemon speaks {ours}; upgrade {what}"
        )
        self.theirs, self.ours = theirs, ours
