"""Lets a call through only with a token whose scopes cover it, and with our contract version."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc import aio

from agentgym import semconv
from agentgym_daemon.errors import ContractError, DirectoryError
from agentgym_daemon.rpc.parsing import parsing
from agentgym_daemon.rpc.tokens import Scope, Tokens

_log = logging.getLogger(__name__)

SCOPES: dict[str, Scope] = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": Scope.INGEST,
    "/agentgym.v1.DecisionService/Record": Scope.INGEST,
    "/agentgym.v1.CatalogueService/Put": Scope.INGEST,
    "/agentgym.v1.PolicyService/Subscribe": Scope.INGEST,
    "/agentgym.v1.ArtifactService/Get": Scope.INGEST,
    "/agentgym.v1.RewardService/Report": Scope.REWARD,
    "/agentgym.v1.RewardService/Revoke": Scope.REWARD,
    "/agentgym.v1.PolicyService/Get": Scope.READ,
    "/agentgym.v1.PolicyService/List": Scope.READ,
    "/agentgym.v1.TrajectoryService/Get": Scope.READ,
    "/agentgym.v1.TrajectoryService/List": Scope.READ,
    "/agentgym.v1.TrajectoryService/Tail": Scope.READ,
    "/agentgym.v1.TrajectoryService/Explain": Scope.READ,
    "/agentgym.v1.AdminService/Status": Scope.READ,
    "/agentgym.v1.PolicyService/Promote": Scope.ADMIN,
    "/agentgym.v1.PolicyService/Rollback": Scope.ADMIN,
    "/agentgym.v1.PolicyService/Pin": Scope.ADMIN,
}
"""What a token must allow for a method; a method that is not here needs admin."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor


class Gate(_Interceptor):
    """Refuses calls without a fitting token or contract version, before any byte is parsed."""

    def __init__(self, tokens: Tokens, count: Callable[[str], None]) -> None:
        self._tokens = tokens
        self._count = count

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """The real handler, or one that refuses."""
        metadata = {key: value for key, value in handler_call_details.invocation_metadata or ()}
        refusal = self._refusal(handler_call_details.method, metadata)
        if refusal is None:
            handler: Handler = parsing(await continuation(handler_call_details))
            return handler
        code, message = refusal
        self._count(f"refused_{code.name.lower()}")
        _log.warning("refused %s: %s", handler_call_details.method, message)
        return _refuse(code, message)

    def _refusal(self, method: str, metadata: dict[str, Any]) -> tuple[grpc.StatusCode, str] | None:
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
        needed = SCOPES.get(method, Scope.ADMIN)
        if needed not in token.scopes:
            return grpc.StatusCode.PERMISSION_DENIED, (
                f"token {token.name!r} has scopes {sorted(map(str, token.scopes))}, this call "
                f"needs {str(needed)!r}; make one: agentgym-daemon token add NAME --scope {needed}"
            )
        return _contract(metadata)


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
