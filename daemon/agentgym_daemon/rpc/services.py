"""Every service of the daemon, put on one server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentgym.proto.v1 import (
    admin_pb2_grpc,
    artifact_pb2_grpc,
    catalogue_pb2_grpc,
    decision_pb2_grpc,
    evaluation_pb2_grpc,
    experiment_pb2_grpc,
    policy_pb2_grpc,
    producer_pb2_grpc,
    registry_pb2_grpc,
    reward_pb2_grpc,
    trajectory_pb2_grpc,
    watch_pb2_grpc,
)
from agentgym_daemon.rpc.admin import AdminService
from agentgym_daemon.rpc.artifacts import ArtifactService
from agentgym_daemon.rpc.evaluation import EvaluationService
from agentgym_daemon.rpc.experiments import ExperimentService
from agentgym_daemon.rpc.ingest import CatalogueService, DecisionService, TraceService
from agentgym_daemon.rpc.policies import PolicyService
from agentgym_daemon.rpc.producers import ProducerService
from agentgym_daemon.rpc.registry import RegistryService
from agentgym_daemon.rpc.rewards import RewardService
from agentgym_daemon.rpc.trajectories import TrajectoryService
from agentgym_daemon.rpc.watch import WatchService


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One of each."""

    traces: TraceService
    decisions: DecisionService
    catalogue: CatalogueService
    producers: ProducerService
    rewards: RewardService
    policies: PolicyService
    registry: RegistryService
    evaluation: EvaluationService
    watch: WatchService
    experiments: ExperimentService
    artifacts: ArtifactService
    trajectories: TrajectoryService
    admin: AdminService

    def register(self, server: Any) -> None:
        """Puts all of them on a gRPC server that has not started."""
        server.add_generic_rpc_handlers((self.traces.handler(),))
        decision_pb2_grpc.add_DecisionServiceServicer_to_server(self.decisions, server)
        catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(self.catalogue, server)
        producer_pb2_grpc.add_ProducerServiceServicer_to_server(self.producers, server)
        reward_pb2_grpc.add_RewardServiceServicer_to_server(self.rewards, server)
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(self.policies, server)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(self.registry, server)
        evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(self.evaluation, server)
        watch_pb2_grpc.add_WatchServiceServicer_to_server(self.watch, server)
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(self.experiments, server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(self.artifacts, server)
        trajectory_pb2_grpc.add_TrajectoryServiceServicer_to_server(self.trajectories, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self.admin, server)
