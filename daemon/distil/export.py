"""Write a trained student as the encoder file that the plugin reads: int8 rows, float16 vectors.

python export.py --model DIR --student student.pt --out default.safetensors --made-from "..."
"""

# ruff: noqa: T201 -- a maintainer's script prints
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from student import EPS, Shape, Student
from teacher import kept_vocabulary

from agentgym.policy.encoder import artefact

NAMES = {"token.weight": "embed.token", "position": "embed.position"}
PREFIXES = {"widen.": "embed.up.", "norm.": "embed.norm.", "layers.": "layer."}


def load(path: Path) -> Student:
    """A student as `train.py` saved it."""
    saved = torch.load(path)
    student = Student(Shape(**saved["shape"]))
    student.load_state_dict(saved["weights"])
    return student.eval()


def tensors(student: Student) -> dict[str, np.ndarray]:
    """The file's tensors: matrices as int8 with a scale per row, all else as float16."""
    found: dict[str, np.ndarray] = {}
    for key, value in student.state_dict().items():
        name = NAMES.get(key, key)
        for old, new in PREFIXES.items():
            if key.startswith(old):
                name = new + key.removeprefix(old)
        array = value.float().numpy()
        if array.ndim == 2 and name != "embed.position":
            found[name], found[f"{name}.scale"] = artefact.quantise_rows(array)
        else:
            found[name] = array.astype(np.float16)
    return found


def main() -> None:
    """Write the file and its sha256 beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="default")
    parser.add_argument("--made-from", required=True)
    options = parser.parse_args()
    student = load(options.student)
    shape = student.shape
    config = artefact.EncoderConfig(
        name=options.name,
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        embedding=shape.embedding,
        intermediate=shape.intermediate,
        output=shape.output,
        max_tokens=shape.max_tokens,
        layer_norm_eps=EPS,
        made_from=options.made_from,
    )
    vocabulary, _ = kept_vocabulary(options.model)
    data = artefact.dump(config, vocabulary, tensors(student))
    sha256 = artefact.digest(data)
    options.out.write_bytes(data)
    options.out.with_suffix(".sha256").write_text(f"{sha256}\n", "utf-8")
    print(options.out, len(data), "bytes", sha256)


if __name__ == "__main__":
    main()
