"""Train a student on the teacher's shards until the time is up.

    python train.py --model DIR --shards shards --held-out held.npz --out student.pt --minutes 30

The loss has three terms: cosine distance of the pooled vectors; relative squared error of every
token's vector, which says more per text; and the squared error of the batch's similarities.
"""

# ruff: noqa: T201 -- a maintainer's script prints
from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from student import Shape, Student, pooled
from teacher import MAX_TOKENS, Teacher, held_out, kept_vocabulary
from torch import Tensor

TOKENS_PER_BATCH = 4_096
OPEN_SHARDS = 8
Batch = tuple[Tensor, Tensor | None, Tensor]


def padded(rows: list[np.ndarray], length: int) -> np.ndarray:
    """Rows of different lengths as one array, zeros behind them."""
    out = np.zeros((len(rows), length, *rows[0].shape[1:]), rows[0].dtype)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out


class ShardFile:
    """One shard, read in place, cut into batches of similar lengths."""

    def __init__(self, stem: Path) -> None:
        self.ids, self.lengths, self.states, self.scales = (
            np.load(f"{stem}.{key}.npy", mmap_mode="r")
            for key in ("ids", "lengths", "states", "scales")
        )
        self.starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def spans(self) -> list[tuple[int, int]]:
        """Rows of each batch; at most a seventh of a batch is padding."""
        spans = []
        at = random.randrange(64)
        while at < len(self.lengths):
            longest = int(self.lengths[at] * 1.15) + 1
            end = at
            while (
                end < len(self.lengths)
                and self.lengths[end] <= longest
                and (end + 1 - at) * int(self.lengths[end]) <= TOKENS_PER_BATCH
            ):
                end += 1
            spans.append((at, end))
            at = end
        return spans

    def batch(self, span: tuple[int, int]) -> Batch:
        """Token numbers, which are present (None: all), and the teacher's states."""
        at, end = span
        first, last = self.starts[at], self.starts[end]
        lengths = self.lengths[at:end].astype(int)
        cuts = (self.starts[at + 1 : end] - first).astype(int)
        ids = self.ids[first:last].astype(np.int64)
        states = self.states[first:last].astype(np.float32)
        states *= self.scales[first:last].astype(np.float32)
        longest = int(lengths[-1])
        if lengths[0] == longest:
            shape = (end - at, longest)
            return (
                torch.from_numpy(ids.reshape(shape)),
                None,
                torch.from_numpy(states.reshape(*shape, -1)),
            )
        present = torch.from_numpy(np.arange(longest) < lengths[:, None])
        return (
            torch.from_numpy(padded(np.split(ids, cuts), longest)),
            present,
            torch.from_numpy(padded(np.split(states, cuts), longest)),
        )


def batches(folder: Path) -> Iterator[Batch]:
    """Batches without end, a few shards at a time; the least read shards first."""
    visits: Counter[str] = Counter()
    while True:
        stems = [p.with_suffix("") for p in sorted(folder.glob("*.done"))]
        kinds = {"reference": [], "requests": []}
        for stem in stems:
            kinds["requests" if stem.name.startswith("requests") else "reference"].append(stem)
        chosen = []
        for group in kinds.values():
            random.shuffle(group)
            chosen += sorted(group, key=lambda s: visits[s.name])[: OPEN_SHARDS // 2]
        visits.update(s.name for s in chosen)
        print("visits", sorted(Counter(visits[s.name] for s in stems).items()), flush=True)
        files = [ShardFile(s) for s in chosen]
        plan = [(file, span) for file in files for span in file.spans()]
        random.shuffle(plan)
        for file, span in plan:
            yield file.batch(span)


def losses(student: Student, batch: Batch) -> dict[str, Tensor]:
    """The three terms of the loss."""
    ids, present, target = batch
    with torch.autocast("cpu", torch.bfloat16):
        states = student(ids, present)
    states = states.float()
    if present is not None:
        keep = present[:, :, None]
        wrong = ((states - target).square() * keep).sum() / (target.square() * keep).sum()
    else:
        wrong = (states - target).square().sum() / target.square().sum()
    ours, theirs = pooled(states, present), pooled(target, present)
    alike = (ours @ ours.T - theirs @ theirs.T).square().mean()
    return {"cosine": 1 - (ours * theirs).sum(1).mean(), "token": wrong, "alike": alike}


def single_tokens(teacher: Teacher, number: np.ndarray) -> Tensor:
    """The teacher's mean state of ``[CLS] token [SEP]`` for every token kept."""
    kept = torch.from_numpy(np.flatnonzero(number >= 0))
    first, last = (teacher.tokenizer.token_to_id(x) for x in ("[CLS]", "[SEP]"))
    ids = torch.stack([torch.full_like(kept, first), kept, torch.full_like(kept, last)], 1)
    return torch.cat([teacher.states(part).mean(1) for part in ids.split(2048)])


def evaluation(
    teacher: Teacher, number: np.ndarray, files: list[Path], cache: Path, most: int = 250
) -> dict[str, np.ndarray]:
    """Held-out texts by source: student's token numbers, and the teacher's unit vectors."""
    if not cache.exists():
        texts: dict[str, list[str]] = {}
        for path in files:
            for line in path.read_text("utf-8").splitlines():
                source, text = line.split("\t", 1)
                if held_out(text) and len(texts.setdefault(source, [])) < most:
                    texts[source].append(text)
        rows = [(s, x) for s, group in texts.items() for x in group]
        ids = np.zeros((len(rows), MAX_TOKENS), np.int32)
        lengths, vectors = [], []
        for at, encoded in enumerate(teacher.tokenizer.encode_batch([x for _, x in rows])):
            state = teacher.states(torch.tensor([encoded.ids]))
            vectors.append(pooled(state, None)[0].numpy())
            lengths.append(len(encoded.ids))
            ids[at, : len(encoded.ids)] = np.maximum(number[encoded.ids], 0)
        np.savez(
            cache,
            ids=ids,
            lengths=np.array(lengths),
            vectors=np.stack(vectors),
            sources=np.array([s for s, _ in rows]),
            texts=np.array([x for _, x in rows]),
        )
    return dict(np.load(cache))


@torch.no_grad()
def agreement(student: Student, held: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean cosine to the teacher by source, and over all texts."""
    student.eval()
    cosines = np.zeros(len(held["ids"]))
    order = np.argsort(held["lengths"])
    for part in np.array_split(order, max(1, len(order) // 64)):
        longest = held["lengths"][part].max()
        present = torch.from_numpy(np.arange(longest) < held["lengths"][part][:, None])
        ids = torch.from_numpy(held["ids"][part, :longest].astype(np.int64))
        ours = pooled(student(ids, present), present).numpy()
        cosines[part] = (ours * held["vectors"][part]).sum(1)
    student.train()
    found = {str(s): float(cosines[held["sources"] == s].mean()) for s in set(held["sources"])}
    return {"all": float(np.mean(list(found.values()))), **dict(sorted(found.items()))}


def main() -> None:
    """Train, report every two minutes, and save at each report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights of an earlier run to go on from")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=3)
    for name in ("layers", "width", "heads", "embedding", "intermediate"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Shape, name))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    teacher = Teacher(options.model)
    vocabulary, number = kept_vocabulary(options.model)
    names = ("layers", "width", "heads", "embedding", "intermediate")
    shape = Shape(len(vocabulary), **{name: getattr(options, name) for name in names})
    student = Student(shape)
    student.start_from(single_tokens(teacher, number))
    if options.start:
        student.load_state_dict(torch.load(options.start)["weights"])
    held = evaluation(teacher, number, options.texts, options.held_out)
    del teacher
    optimiser = torch.optim.AdamW(
        student.parameters(), options.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    print(asdict(shape), sum(p.numel() for p in student.parameters()), "parameters")
    print("start", agreement(student, held), flush=True)
    started = last = time.monotonic()
    texts = steps = 0
    running: Counter[str] = Counter()
    for batch in batches(options.shards):
        done = (time.monotonic() - started) / (options.minutes * 60)
        if done >= 1:
            break
        # The pace is set by the clock: a shared machine does not give a known number of steps.
        pace = min(1.0, done / 0.03 + 0.02) * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = options.rate * pace
        terms = losses(student, batch)
        loss = terms["cosine"] + 0.5 * terms["token"] + 10 * terms["alike"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        texts += len(batch[0])
        steps += 1
        running.update({k: float(v.detach()) for k, v in terms.items()})
        if time.monotonic() - last > 120:
            means = (
                {k: round(v / running["n"], 4) for k, v in running.items() if k != "n"}
                if (running["n"])
                else dict(running)
            )
            print(f"{done:.2f} steps {steps} texts {texts} {means}", flush=True)
            print({k: round(v, 3) for k, v in agreement(student, held).items()}, flush=True)
            torch.save({"shape": asdict(shape), "weights": student.state_dict()}, options.out)
            last = time.monotonic()
            running.clear()
        running["n"] += 1
    print(f"end: steps {steps} texts {texts}", agreement(student, held))
    torch.save({"shape": asdict(shape), "weights": student.state_dict()}, options.out)


if __name__ == "__main__":
    main()
