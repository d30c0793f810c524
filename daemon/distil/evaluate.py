"""Measure an encoder file through the plugin's own runtime.

    python evaluate.py --encoder default.safetensors --held-out held.npz --student student.pt \
        --tools NAME=queries.jsonl,catalogue.jsonl

Prints the mean cosine to the teacher on held-out texts by source, the agreement with the student
in float32, milliseconds per text, and, for each set of tools, how often the tool whose "name
description" is nearest to a query is a right one. Queries: {"query", "gold": [names]} lines, those
without a right tool left out; catalogue: {"name", "description"} lines. Nothing is trained on them.
"""

# ruff: noqa: T201 -- a maintainer's script prints
from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np
import torch
from export import load
from student import pooled

from agentgym.policy.encoder import artefact
from agentgym.policy.encoder.transformer import Encoder

QUICK = "could you move my meeting with Anna to half past three tomorrow"


def words(name: str) -> str:
    """A tool's name as words: `sendEmail_now` -> `send Email now`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_-]", " ", name)


def tools(encoder: Encoder, queries: Path, catalogue: Path) -> float:
    """Share of queries whose nearest tool is theirs."""
    listed = [json.loads(x) for x in catalogue.read_text("utf-8").splitlines()]
    names = [x["name"] for x in listed]
    texts = [f"{words(x['name'])} {x.get('description') or ''}" for x in listed]
    rows = [json.loads(x) for x in queries.read_text("utf-8").splitlines()]
    rows = [x for x in rows if x["gold"]]
    nearest = (encoder.encode_many(x["query"] for x in rows) @ encoder.encode_many(texts).T).argmax(
        1
    )
    return float(np.mean([names[at] in x["gold"] for at, x in zip(nearest, rows, strict=True)]))


def milliseconds(encoder: Encoder, text: str, times: int = 500) -> tuple[float, float]:
    """Least and median time of one text."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        encoder(text)
        taken.append(time.perf_counter() - started)
    return min(taken) * 1e3, float(np.median(taken)) * 1e3


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--tools", action="append", default=[])
    options = parser.parse_args()
    data = options.encoder.read_bytes()
    encoder = Encoder(artefact.parse(data, artefact.digest(data)))
    print(f"{len(data)} bytes, sha256 {encoder.sha256}")
    for count in (1, 2, 6):
        least, median = milliseconds(encoder, " ".join([QUICK] * count))
        print(f"{12 * count} words: least {least:.2f} ms, median {median:.2f} ms")
    if options.held_out:
        held = np.load(options.held_out)
        ours = encoder.encode_many(held["texts"].tolist())
        cosines = (ours * held["vectors"]).sum(1)
        for source in sorted(set(held["sources"])):
            print(f"{source:18} {cosines[held['sources'] == source].mean():.3f}")
        if options.student:
            torch.set_num_threads(1)
            student = load(options.student)
            some = slice(None, None, 10)
            with torch.no_grad():
                exact = [
                    pooled(student(torch.from_numpy(row[None, :size].astype(np.int64)), None), None)
                    for row, size in zip(held["ids"][some], held["lengths"][some], strict=True)
                ]
            same = (torch.cat(exact).numpy() * ours[some]).sum(1)
            print(f"file and student in float32: mean {same.mean():.5f}, least {same.min():.5f}")
    for spec in options.tools:
        name, paths = spec.split("=", 1)
        queries, catalogue = map(Path, paths.split(",", 1))
        print(f"{name}: nearest tool is right {tools(encoder, queries, catalogue):.3f}")


if __name__ == "__main__":
    main()
