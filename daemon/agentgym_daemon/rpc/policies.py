"""PolicyService: pushes live versions to agents; lists and changes them for the command line."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from agentgym import semconv
from agentgym.proto.v1 import policy_pb2
from agentgym_daemon.errors import ContractError, InvalidRequestError
from agentgym_daemon.policies.book import Change
from agentgym_daemon.policies.hub import Hub
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.policies.updates import Updates
from agentgym_daemon.rpc.actor import actor_of
from agentgym_daemon.rpc.stages import Stages, StageVerbs
from agentgym_daemon.rpc.status import Context, stream, unary

_log = logging.getLogger(__name__)

HEARTBEAT_S = 60.0
"""A subscriber hears from the daemon at least this often, so that its policy stays fresh."""


class PolicyService(StageVerbs):
    """The registry as agents and people see it."""

    def __init__(
        self,
        registry: Registry,
        hub: Hub,
        *,
        updates: Updates,
        stages: Stages,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._registry = registry
        self._hub = hub
        self._updates = updates
        self._stages = stages
        self._heartbeat_s = heartbeat_s
        self._stopping = False

    def stop(self) -> None:
        """Ends all subscriptions; agents come back when the daemon does."""
        self._stopping = True
        self._hub.ring_all()

    @stream
    async def Subscribe(
        self, request: policy_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[policy_pb2.SignedUpdate]:
        """The handshake, then the agent's live versions and broken tools at every change."""
        if request.contract_version != semconv.CONTRACT_VERSION:
            raise ContractError(theirs=str(request.contract_version), ours=semconv.CONTRACT_VERSION)
        if not request.signed:
            raise ContractError(theirs=f"{request.contract_version} without signatures", ours=1)
        if not request.agent:
            raise InvalidRequestError(
                "agent: expected the name given to AgentGym(agent=...), got ''"
            )
        with self._hub.subscribe(request.agent) as subscriber:
            _log.info("subscribed: agent %s, plugin %s", request.agent, request.plugin_version)
            while not self._stopping:
                yield self._updates.signed(self._updates.of(request.agent))
                await subscriber.wait(self._heartbeat_s)

    @unary
    async def Get(
        self, request: policy_pb2.GetPolicyRequest, context: Context
    ) -> policy_pb2.PolicyVersion:
        """One version with its receipt."""
        return self._registry.book.get(request.version)

    @unary
    async def List(
        self, request: policy_pb2.ListPoliciesRequest, context: Context
    ) -> policy_pb2.ListPoliciesResponse:
        """All versions, oldest first."""
        return policy_pb2.ListPoliciesResponse(policies=self._registry.book.versions(request.agent))

    @unary
    async def Promote(
        self, request: policy_pb2.PromoteRequest, context: Context
    ) -> policy_pb2.ChangeResponse:
        """Makes a version live."""
        return _response(
            await self._registry.promote(
                request.version, actor=actor_of(context), reason=request.reason
            )
        )

    @unary
    async def Rollback(
        self, request: policy_pb2.RollbackRequest, context: Context
    ) -> policy_pb2.ChangeResponse:
        """Goes back to the version that was live before, or to none."""
        return _response(
            await self._registry.rollback(
                request.scope, actor=actor_of(context), reason=request.reason
            )
        )

    @unary
    async def Pin(
        self, request: policy_pb2.PinRequest, context: Context
    ) -> policy_pb2.ChangeResponse:
        """Keeps a version live whatever training finds, or ends that."""
        if request.unpin:
            change = await self._registry.unpin(
                request.scope, actor=actor_of(context), reason=request.reason
            )
        else:
            change = await self._registry.pin(
                request.version, actor=actor_of(context), reason=request.reason
            )
        return _response(change)


def _response(change: Change) -> policy_pb2.ChangeResponse:
    return policy_pb2.ChangeResponse(version=change.version, previous=change.previous)
