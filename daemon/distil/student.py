"""The student: a small post-layer-norm BERT whose output space is the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-12


@dataclass(frozen=True)
class Shape:
    """Sizes of a student; ``embedding`` < ``width`` factorises the token table."""

    vocabulary: int
    layers: int = 2
    width: int = 256
    heads: int = 8
    embedding: int = 128
    intermediate: int = 512
    output: int = 384
    max_tokens: int = 128


class Layer(nn.Module):
    """Self-attention and a gelu network, each followed by a residual layer norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm1 = nn.LayerNorm(shape.width, EPS)
        self.up = nn.Linear(shape.width, shape.intermediate)
        self.down = nn.Linear(shape.intermediate, shape.width)
        self.norm2 = nn.LayerNorm(shape.width, EPS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(texts, tokens, width) -> the same."""
        texts, tokens, width = x.shape
        parts = self.qkv(x).view(texts, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # Written out: on a CPU torch's fused attention is ten times slower backwards in bfloat16.
        weights = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        if mask is not None:
            weights = weights.masked_fill(~mask, -1e4)
        mixed = weights.softmax(-1).to(value.dtype) @ value
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(texts, tokens, width)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class Student(nn.Module):
    """Token numbers in, one vector per token in the teacher's space out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token = nn.Embedding(shape.vocabulary, shape.embedding)
        self.widen: nn.Module = (
            nn.Identity()
            if shape.embedding == shape.width
            else nn.Linear(shape.embedding, shape.width)
        )
        self.position = nn.Parameter(torch.randn(shape.max_tokens, shape.width) * 0.01)
        self.norm = nn.LayerNorm(shape.width, EPS)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, shape.output)

    @torch.no_grad()
    def start_from(self, table: Tensor) -> None:
        """Begin as the static table whose rows are the teacher's vectors of single tokens.

        Their principal components become the table, the widening and the head; the layers begin
        close to the identity, so that training starts from the static model's quality.
        """
        width, embedding = self.shape.width, self.shape.embedding
        centre = table.mean(0)
        _, _, rotation = torch.linalg.svd(table - centre, full_matrices=False)
        rotation = rotation[:width]  # (width, output)
        rows = (table - centre) @ rotation.T
        spread = rows.std()
        self.token.weight.copy_(rows[:, :embedding] / spread / 4)  # small: the norm undoes it
        if isinstance(self.widen, nn.Linear):
            self.widen.weight.copy_(torch.eye(width, embedding))
            self.widen.bias.zero_()
        self.head.weight.copy_(rotation.T * spread)
        self.head.bias.copy_(centre)
        for layer in self.layers:
            nn.init.normal_(layer.qkv.weight, std=width**-0.5)
            nn.init.normal_(layer.out.weight, std=0.1 * width**-0.5)
            nn.init.normal_(layer.up.weight, std=width**-0.5)
            nn.init.normal_(layer.down.weight, std=0.1 * width**-0.5)
            for part in (layer.qkv, layer.out, layer.up, layer.down):
                part.bias.zero_()

    def forward(self, ids: Tensor, present: Tensor | None) -> Tensor:
        """(texts, tokens) and which tokens are no padding -> (texts, tokens, output)."""
        x = self.norm(self.widen(self.token(ids)) + self.position[: ids.shape[1]])
        mask = None if present is None else present[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x)


def pooled(states: Tensor, present: Tensor | None) -> Tensor:
    """Unit mean of the tokens that are no padding: (texts, tokens, d) -> (texts, d)."""
    if present is not None:
        states = states * present[:, :, None]
    return functional.normalize(states.sum(1), dim=1)
