"""Lets a call through only with a token whose scopes cover it, and with our contract version.

Calls that add facts have to pass `admission` too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc import aio

from agentgym import semconv
from agentgym_daemon.errors import ContractError, DirectoryError
from agentgym_daemon.rpc.admission import Admission
from agentgym_daemon.rpc.parsing import parsing
from agentgym_daemon.rpc.tokens import Scope, Token, Tokens

_log = logging.getLogger(__name__)

SCOPES: dict[str, Scope] = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": Scope.INGEST,
    "/agentgym.v1.DecisionService/Record": Scope.INGEST,
    "/agentgym.v1.CatalogueService/Put": Scope.INGEST,
    "/agentgym.v1.ProducerService/Report": Scope.INGEST,
    "/agentgym.v1.PolicyService/Subscribe": Scope.INGEST,
    "/agentgym.v1.ArtifactService/Get": Scope.INGEST,
    "/agentgym.v1.RewardService/Report": Scope.REWARD,
    "/agentgym.v1.RewardService/Revoke": Scope.REWARD,
    "/agentgym.v1.RewardService/Show": Scope.READ,
    "/agentgym.v1.RewardService/Sources": Scope.READ,
    "/agentgym.v1.PolicyService/Get": Scope.READ,
    "/agentgym.v1.PolicyService/List": Scope.READ,
    "/agentgym.v1.PolicyService/ListStages": Scope.READ,
    "/agentgym.v1.RegistryService/Diff": Scope.READ,
    "/agentgym.v1.RegistryService/LiveAt": Scope.READ,
    "/agentgym.v1.RegistryService/ListAudit": Scope.READ,
    "/agentgym.v1.RegistryService/VerifyAudit": Scope.READ,
    "/agentgym.v1.EvaluationService/Evaluate": Scope.READ,
    "/agentgym.v1.EvaluationService/Lift": Scope.READ,
    "/agentgym.v1.WatchService/Show": Scope.READ,
    "/agentgym.v1.ExperimentService/List": Scope.READ,
    "/agentgym.v1.ExperimentService/Show": Scope.READ,
    "/agentgym.v1.TrajectoryService/Get": Scope.READ,
    "/agentgym.v1.TrajectoryService/List": Scope.READ,
    "/agentgym.v1.TrajectoryService/Tail": Scope.READ,
    "/agentgym.v1.TrajectoryService/Explain": Scope.READ,
    "/agentgym.v1.AdminService/Status": Scope.READ,
    "/agentgym.v1.PolicyService/Promote": Scope.ADMIN,
    "/agentgym.v1.PolicyService/Rollback": Scope.ADMIN,
    "/agentgym.v1.PolicyService/Pin": Scope.ADMIN,
    "/agentgym.v1.RegistryService/Alias": Scope.ADMIN,
    "/agentgym.v1.RegistryService/Note": Scope.ADMIN,
    "/agentgym.v1.RegistryService/Quarantine": Scope.ADMIN,
    "/agentgym.v1.RegistryService/Release": Scope.ADMIN,
    "/agentgym.v1.RegistryService/Export": Scope.ADMIN,
    "/agentgym.v1.RegistryService/Import": Scope.ADMIN,
    "/agentgym.v1.RegistryService/Prune": Scope.ADMIN,
    "/agentgym.v1.ExperimentService/Start": Scope.ADMIN,
    "/agentgym.v1.ExperimentService/Stop": Scope.ADMIN,
    "/agentgym.v1.PolicyService/SetStage": Scope.ADMIN,
    "/agentgym.v1.PolicyService/Kill": Scope.ADMIN,
}
"""What a token must allow for a method; a method that is not here needs admin."""

ADDS_FACTS = frozenset(
    (
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/agentgym.v1.DecisionService/Record",
        "/agentgym.v1.CatalogueService/Put",
        "/agentgym.v1.RewardService/Report",
        "/agentgym.v1.RewardService/Revoke",
    )
)
"""Methods that write to the log on behalf of a sender."""

_caller: ContextVar[Token | None] = ContextVar("caller", default=None)


def caller() -> Token | None:
    """The token of the call that is being handled; None outside of one."""
    return _caller.get()


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Refusal = tuple[grpc.StatusCode, str]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor


class Gate(_Interceptor):
    """Refuses calls without a fitting token or contract version, before any byte is parsed."""

    def __init__(
        self, tokens: Tokens, count: Callable[[str], None], admission: Admission | None = None
    ) -> None:
        self._tokens = tokens
        self._count = count
        self._admission = admission

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """The real handler, or one that refuses."""
        metadata = {key: value for key, value in handler_call_details.invocation_metadata or ()}
        method = handler_call_details.method
        token = self._token(metadata)
        _caller.set(token if isinstance(token, Token) else None)
        refusal = _refusal(method, metadata, token) if isinstance(token, Token) else token
        if refusal is not None:
            code, message = refusal
            self._count(f"refused_{code.name.lower()}")
            _log.warning("refused %s: %s", method, message)
            return _refuse(code, message)
        handler: Handler = parsing(await continuation(handler_call_details))
        if self._admission is None or method not in ADDS_FACTS:
            return handler
        guarded: Handler = self._admission.guarded(handler, _source(metadata, token))
        return guarded

    def _token(self, metadata: dict[str, Any]) -> Token | Refusal:
        presented = str(metadata.get(semconv.METADATA_TOKEN, ""))
        kind, _, secret = presented.partition(" ")
        if kind.lower() != "bearer" or not secret:
            return grpc.StatusCode.UNAUTHENTICATED, (
                "a token is needed: send metadata 'authorization: Bearer TOKEN' with the token of "
                "$AGENTGYM_HOME/token, or set AGENTGYM_TOKEN_FILE"
            )
        try:
            token = self._tokens.find(secret.strip())
        except DirectoryError as error:
            return grpc.StatusCode.UNAVAILABLE, str(error)
        if token is None:
            return grpc.StatusCode.UNAUTHENTICATED, (
                "this daemon does not know the token; use that of its own $AGENTGYM_HOME/token, "
                "or make one: agentgym-daemon token add NAME --scope ingest"
            )
        return token


def _refusal(method: str, metadata: dict[str, Any], token: Token) -> Refusal | None:
    needed = SCOPES.get(method, Scope.ADMIN)
    if needed not in token.scopes:
        return grpc.StatusCode.PERMISSION_DENIED, (
            f"token {token.name!r} has scopes {sorted(map(str, token.scopes))}, this call "
            f"needs {str(needed)!r}; make one: agentgym-daemon token add NAME --scope {needed}"
        )
    return _contract(metadata)


def _source(metadata: dict[str, Any], token: Token | Refusal) -> str:
    """Whose share a call counts against: its plugin's, else its token's."""
    producer = metadata.get(semconv.METADATA_PRODUCER, b"")
    if isinstance(producer, bytes) and producer:
        return f"producer {producer.hex()}"
    return f"token {token.name}" if isinstance(token, Token) else ""


def _contract(metadata: dict[str, Any]) -> tuple[grpc.StatusCode, str] | None:
    theirs = metadata.get(semconv.METADATA_CONTRACT)
    if theirs is None or str(theirs) == str(semconv.CONTRACT_VERSION):
        return None  # foreign exporters send none
    error = ContractError(theirs=str(theirs), ours=semconv.CONTRACT_VERSION)
    return grpc.StatusCode.FAILED_PRECONDITION, str(error)


def _refuse(code: grpc.StatusCode, message: str) -> Handler:
    async def refuse(request: bytes, context: aio.ServicerContext[Any, Any]) -> None:
        await context.abort(code, message)

    return grpc.unary_unary_rpc_method_handler(refuse)
