"""The referee's `--learner agentgym_daemon.bench.learn.learner:learner`, for measuring only.

It is `agentgym_daemon.learning.arena.Learner` with two hooks that the product does not have:
vectors of texts come from a file that all runs of a set share (`embedding`; what encoding costs,
`bench decision` measures), and settings may be overridden, for ablations.
"""

from __future__ import annotations

import os

from agentgym.policy.features import Featuriser, TextHasher
from agentgym_daemon.bench.learn import embedding
from agentgym_daemon.bench.learn.overrides import SETTINGS_ENV, overrides
from agentgym_daemon.encoders import SCHEMAS
from agentgym_daemon.learning.arena import ENCODER_ENV, Learner

KEY = b"arena"
"""Of the n-grams; the same in every run, as one installation has one."""


def features() -> Featuriser:
    """What a text is to the policy, under the environment's encoder."""
    name = os.environ.get(ENCODER_ENV, "none")
    hasher = TextHasher(KEY)
    if name == "none":
        return Featuriser(hasher)
    encode = embedding.vectors()
    return Featuriser(hasher, encode, schema=SCHEMAS[name], dim=len(encode("")))


def learner(seed: int) -> Learner:
    """The learner with the environment's encoder and settings."""
    settings, gate = overrides(os.environ.get(SETTINGS_ENV, ""))
    return Learner(seed, features(), settings=settings, gate=gate)
