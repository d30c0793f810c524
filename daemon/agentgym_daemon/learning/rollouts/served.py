"""A policy version as a resource of Agent Lightning: there plain values, here it decides.

The only place of this package that knows how the policy computes.
"""

from __future__ import annotations

import base64
import json
import random
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentgym.policy import snapshot
from agentgym.policy.arms import Exploration
from agentgym.policy.evaluate import CatalogueCache
from agentgym.policy.features import TextHasher, TextVector
from agentgym.policy.policy_set import PolicySet
from agentgym.trajectory import ArmKind, Decision, PastCall, Tool
from agentgym_daemon.encoders.choice import featuriser_of

RESOURCE = "tool_policy"
"""Name of the resource."""
MODEL = "agentgym-tool-policy"
_SNAPSHOT = "snapshot"
_MAX_OPEN = 4


@dataclass(frozen=True)
class Serving:
    """A version (or none yet) and how to run it, as values that survive JSON."""

    agent: str
    agent_name: str = ""
    version: str = ""
    sha256: str = ""
    feature_key: bytes = b""
    encoder: str = "none"
    control_share: float = 0.1
    seed: int = 0
    exploration: Exploration = field(default_factory=Exploration)
    data: bytes = b""  # the snapshot file; empty: no policy yet

    @property
    def endpoint(self) -> str:
        """How the version is called in Agent Lightning's own logs."""
        return f"agentgym://policy/{self.version or 'none'}"

    def values(self) -> dict[str, Any]:
        """What a resource carries (`LLM.sampling_parameters`)."""
        return {
            "agent": self.agent,
            "agent_name": self.agent_name,
            "version": self.version,
            "sha256": self.sha256,
            "feature_key": _text(self.feature_key),
            "encoder": self.encoder,
            "control_share": self.control_share,
            "seed": self.seed,
            "exploration": asdict(self.exploration),
            _SNAPSHOT: _text(self.data),
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Serving:
        """The reverse of `values`."""
        return cls(
            agent=values["agent"],
            agent_name=values["agent_name"],
            version=values["version"],
            sha256=values["sha256"],
            feature_key=base64.b64decode(values["feature_key"]),
            encoder=values["encoder"],
            control_share=values["control_share"],
            seed=values["seed"],
            exploration=Exploration(**values["exploration"]),
            data=base64.b64decode(values[_SNAPSHOT]),
        )


class Served:
    """A version that decides; any thread may ask it."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._lock = threading.Lock()
        features = featuriser_of(serving.encoder, TextHasher(serving.feature_key))
        policies = {}
        if serving.data:
            policies[serving.agent_name] = snapshot.parse(serving.data, serving.sha256)
        self._policies = PolicySet(
            features=features,
            catalogues=CatalogueCache(features),
            exploration=serving.exploration,
            control_share=serving.control_share,
            stale_after_s=float("inf"),
            policies=policies,
        )

    @property
    def version(self) -> str:
        """The version; '' while there is none."""
        return self.serving.version if self.serving.data else ""

    @property
    def feature_schema(self) -> int:
        """Number of the features that it decides by."""
        return self._policies.features.schema

    def features(self, text: str) -> TextVector:
        """The features of a task."""
        with self._lock:
            return self._policies.features(text)

    def decide(
        self,
        task: TextVector,
        offered: Sequence[Tool],
        history: Sequence[PastCall],
        rng: random.Random | None,
    ) -> Decision | None:
        """Draws an arm, or takes the best without `rng`; None if no tool may be forced."""
        with self._lock:
            catalogue = self._policies.catalogue(offered, None)
            assert catalogue is not None  # without a limit of time it waits
            return self._policies.decide(
                self.serving.agent_name,
                task,
                catalogue,
                history,
                allowed=[not tool.protected for tool in offered],
                kind=ArmKind.FORCE,
                rng=rng,
            )


_open: OrderedDict[str, Served] = OrderedDict()
_open_lock = threading.Lock()


def open_policy(values: Mapping[str, Any]) -> Served:
    """The policy of a resource; the last few stay open, for every rollout asks anew."""
    key = json.dumps({name: v for name, v in values.items() if name != _SNAPSHOT}, sort_keys=True)
    with _open_lock:
        known = _open.get(key)
        if known is None:
            known = _open[key] = Served(Serving.of(values))
            while len(_open) > _MAX_OPEN:
                _open.popitem(last=False)
        return known


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
