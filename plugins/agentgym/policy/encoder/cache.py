"""The encoder of a feature schema: from the directory shared with the daemon, else downloaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from agentgym.errors import EncoderError
from agentgym.policy.encoder.artefact import parse
from agentgym.policy.encoder.transformer import Encoder

DIRECTORY = "encoders"
"""Below AGENTGYM_HOME; files are named by their hash, so one that is there is the right one."""


def path(home: Path, sha256: str) -> Path:
    """Where the file with this hash is kept."""
    return home / DIRECTORY / f"{sha256}.safetensors"


def load(home: Path, sha256: str, download: Callable[[], bytes]) -> Encoder:
    """The verified encoder; raises EncoderError if neither place has it."""
    place = path(home, sha256)
    with contextlib.suppress(OSError, EncoderError):
        return Encoder(parse(place.read_bytes(), sha256))
    data = download()
    encoder = Encoder(parse(data, sha256))
    # Kept for the next process; one that may not write here downloads again.
    with contextlib.suppress(OSError):
        keep(place, data)
    return encoder


def keep(place: Path, data: bytes) -> None:
    """Writes a file in one piece, readable by its owner only."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    part.replace(place)
