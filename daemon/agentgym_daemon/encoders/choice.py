"""Which encoder an installation uses, and the feature schema that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from agentgym.errors import EncoderError
from agentgym.policy.encoder import artefact, cache, minilm
from agentgym.policy.encoder.transformer import Encoder
from agentgym.policy.features import Featuriser, TextHasher
from agentgym.proto.v1 import policy_pb2
from agentgym_daemon.encoders import SCHEMAS
from agentgym_daemon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Choice:
    """A feature schema with its encoder's file; no file for n-grams only."""

    schema: int
    sha256: str = ""
    size: int = 0
    path: Path | None = None

    def message(self) -> policy_pb2.FeatureSchema:
        """As agents are told of it."""
        return policy_pb2.FeatureSchema(
            number=self.schema, encoder_sha256=self.sha256, encoder_size=self.size
        )

    def featuriser(self, hasher: TextHasher) -> Featuriser:
        """Features of this schema, under one installation's key."""
        if self.path is None:
            return Featuriser(hasher, schema=self.schema)
        return featuriser_from(self.path.read_bytes(), hasher, self.schema)


def choose(name: str, home: Path, directory: Path | None = None) -> Choice:
    """The encoder `name`, its file laid into the daemon's directory.

    `directory` holds all-MiniLM-L6-v2 where its package is not installed. Raises ConfigError for an
    unknown name and where the weights cannot be had.
    """
    if name not in SCHEMAS:
        raise ConfigError(f"encoder: expected one of {', '.join(SCHEMAS)}, got {name!r}")
    if name == "none":
        return Choice(SCHEMAS[name])
    data = encoder_file(name, directory)
    sha256 = artefact.digest(data)
    place = cache.path(home, sha256)
    if not _holds(place, sha256):
        cache.keep(place, data)
    return Choice(SCHEMAS[name], sha256, len(data), place)


def _holds(place: Path, sha256: str) -> bool:
    # The disk may have lost a part of what an earlier start wrote.
    return place.exists() and artefact.digest(place.read_bytes()) == sha256


def encoder_file(name: str, directory: Path | None = None) -> bytes:
    """The file of an encoder: the one that comes with this package, or MiniLM's made into one."""
    if name == "minilm":
        try:
            return minilm.as_file(directory)
        except EncoderError as error:
            raise ConfigError(f"encoder: {error}") from error
    return (resources.files(__package__) / f"{name}.safetensors").read_bytes()


def featuriser_from(data: bytes, hasher: TextHasher, schema: int) -> Featuriser:
    """Features with the encoder in a file."""
    encoder = Encoder(artefact.parse(data, artefact.digest(data)))
    return Featuriser.of(hasher, encoder, schema)


def featuriser_of(name: str, hasher: TextHasher, directory: Path | None = None) -> Featuriser:
    """Features with the encoder `name`, without a daemon's directory."""
    if name not in SCHEMAS:
        raise ConfigError(f"encoder: expected one of {', '.join(SCHEMAS)}, got {name!r}")
    if name == "none":
        return Featuriser(hasher)
    return featuriser_from(encoder_file(name, directory), hasher, SCHEMAS[name])
