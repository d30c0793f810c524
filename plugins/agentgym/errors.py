"""Errors of the plugin.

AgentGymError
├── ConfigError          a setting has a value that cannot be used
├── MissingExtraError    a framework's extra is not installed
├── UnsupportedError     an object that no integration knows was handed to AgentGym
├── SnapshotError        a policy file failed verification
├── EncoderError         an encoder's file failed verification, or cannot be found
├── UntrustedError       an update of the policies is not taken: `reason` says why in one word
└── DaemonError          the daemon cannot be reached, or refused a call

Only explicit calls of the user (constructor, `wrap`, `attach`, the command line) raise them;
nothing raises into a running agent (see `guard`).
"""

from __future__ import annotations


class AgentGymError(Exception):
    """Base of all errors that AgentGym raises on purpose."""


class ConfigError(AgentGymError, ValueError):
    """A setting has a value that cannot be used."""


class MissingExtraError(AgentGymError, ImportError):
    """A framework is needed whose extra is not installed."""

    def __init__(self, framework: str, extra: str) -> None:
        super().__init__(
            f"{framework} is needed for this and is not installed; "
            f"run: pip install 'agentgym[{extra}]'"
        )


class UnsupportedError(AgentGymError, TypeError):
    """An object of a kind that no integration knows."""


class SnapshotError(AgentGymError, ValueError):
    """A policy snapshot failed verification and was not loaded."""


class EncoderError(AgentGymError, ValueError):
    """An encoder's file failed verification, or cannot be found, and was not loaded."""


class UntrustedError(AgentGymError, ValueError):
    """An update of the policies is not taken; `reason` is one word, for counting."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DaemonError(AgentGymError):
    """The daemon is absent or refused a call; `code` is the gRPC status name."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
