"""The command line's connection: calls with a deadline, and errors that say what to do."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc

from agentgym import semconv
from agentgym.config import Config
from agentgym.connection import credentials, open_channel, read_token, status_name
from agentgym.errors import DaemonError
from agentgym.proto.v1.admin_pb2_grpc import AdminServiceStub
from agentgym.proto.v1.evaluation_pb2_grpc import EvaluationServiceStub
from agentgym.proto.v1.experiment_pb2_grpc import ExperimentServiceStub
from agentgym.proto.v1.policy_pb2_grpc import PolicyServiceStub
from agentgym.proto.v1.registry_pb2_grpc import RegistryServiceStub
from agentgym.proto.v1.reward_pb2_grpc import RewardServiceStub
from agentgym.proto.v1.trajectory_pb2_grpc import TrajectoryServiceStub
from agentgym.proto.v1.watch_pb2_grpc import WatchServiceStub

DEADLINE_S = 10.0
_RETRY_INFO = "google.rpc.retryinfo-bin"  # only a daemon that runs says when to come again


class Client:
    """Stubs of all reading and changing services over one channel."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._metadata = (
            *credentials(read_token(config.token_file)),
            (semconv.METADATA_ACTOR, f"cli:{_user()}"),
        )
        self._channel = open_channel(config.endpoint)
        self.admin = AdminServiceStub(self._channel)
        self.policies = PolicyServiceStub(self._channel)
        self.registry = RegistryServiceStub(self._channel)
        self.evaluation = EvaluationServiceStub(self._channel)
        self.experiments = ExperimentServiceStub(self._channel)
        self.rewards = RewardServiceStub(self._channel)
        self.trajectories = TrajectoryServiceStub(self._channel)
        self.watch = WatchServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: Callable[..., Any], request: Any, deadline_s: float = DEADLINE_S) -> Any:
        """One call; raises DaemonError with the daemon's own words."""
        try:
            return method(request, metadata=self._metadata, timeout=deadline_s)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def stream(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """A server stream without a deadline."""
        try:
            yield from method(request, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.RpcError) -> DaemonError:
        code = status_name(error)
        details = error.details() if hasattr(error, "details") else str(error)
        if code == "UNAVAILABLE" and _RETRY_INFO in dict(_trailing(error)):
            return DaemonError(f"{details}; try again in a moment", code="NOT_READY")
        if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return DaemonError(
                f"no daemon answers at {self.config.endpoint}; start it: agentgym-daemon serve "
                f"({details})",
                code="UNAVAILABLE",
            )
        return DaemonError(f"{details} ({code})", code=code)


def _user() -> str:
    """Who runs this, as far as it can go into a header."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # no such user on this machine
        name = str(os.getuid())
    return name.encode("ascii", "replace").decode().replace("\n", "_")[:64]


def _trailing(error: grpc.RpcError) -> Any:
    return (error.trailing_metadata() if hasattr(error, "trailing_metadata") else None) or ()
