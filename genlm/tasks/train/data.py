"""The rows of ids that a model is trained on, in an order that the seed alone decides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor

# What cross_entropy leaves out: the places after the end of a short row.
NO_TARGET = -100


class Rows(Protocol):
    """Rows of ids; an epoch is a list of them, in an order of its own."""

    def epoch(self, number: int) -> list[Tensor]: ...  # noqa: D102


class Windows:
    """Windows of `context + 1` ids over one long row. An epoch cuts it at a new offset."""

    def __init__(self, ids: Tensor, context: int, seed: int) -> None:
        self._ids, self._context, self._seed = ids, context, seed

    def epoch(self, number: int) -> list[Tensor]:
        """Every window once. The list is never empty, and its windows of equal length where the ids suffice."""
        import torch

        generator = _generator(self._seed, number)
        room = max(0, len(self._ids) - self._context - 1)
        offset = int(torch.randint(min(self._context, room + 1), (1,), generator=generator))
        starts = torch.arange(offset, offset + max(1, room - offset + 1), self._context)
        shuffled = starts[torch.randperm(len(starts), generator=generator)].tolist()
        return [self._ids[start : start + self._context + 1] for start in shuffled]


class Documents:
    """Each document by itself, from an end of text on and without it, so that a prompt may do without it, too.

    No document tells of another, so what can be learned of them is their own entropy. Longer ones than the context are
    cut.
    """

    def __init__(self, documents: Sequence[Sequence[int]], end: int, context: int, seed: int) -> None:
        import torch

        whole = [torch.tensor([*start, *ids, end]) for ids in documents for start in ([end], [])]
        self._rows = [row[at : at + context + 1] for row in whole for at in range(0, len(row) - 1, context)]
        self._seed = seed

    def entropy(self) -> float:
        """The least mean loss (nats a token) that any model can have: how open it is what follows each beginning."""
        followers: dict[tuple[int, ...], Counter[int]] = {}
        for row in (row.tolist() for row in self._rows):
            for at in range(1, len(row)):
                followers.setdefault(tuple(row[:at]), Counter())[row[at]] += 1
        counts = [(count, found.total()) for found in followers.values() for count in found.values()]
        return sum(-count * math.log(count / total) for count, total in counts) / sum(count for count, _ in counts)

    def epoch(self, number: int) -> list[Tensor]:
        """Every row once."""
        import torch

        order = torch.randperm(len(self._rows), generator=_generator(self._seed, number))
        return [self._rows[at] for at in order.tolist()]


class Batches:
    """Batches of rows, for ever. `epoch` and `at` are its place: from there it goes on."""

    def __init__(self, rows: Rows, batch_size: int, epoch: int = 0, at: int = 0) -> None:
        self.epoch, self.at = epoch, at
        self._rows = rows
        self._now = rows.epoch(epoch)
        # Rows that are fewer than a batch are each in it once.
        self._size = min(batch_size, len(self._now)) if isinstance(rows, Documents) else batch_size

    def take(self) -> tuple[Tensor, Tensor]:
        """The next rows as inputs and targets. Shape of each: (rows, longest row - 1)."""
        import torch

        rows = [self._next() for _ in range(self._size)]
        pad = torch.nn.utils.rnn.pad_sequence
        inputs = pad([row[:-1] for row in rows], batch_first=True)
        return inputs, pad([row[1:] for row in rows], batch_first=True, padding_value=NO_TARGET)

    def _next(self) -> Tensor:
        if self.at == len(self._now):
            self.epoch, self.at = self.epoch + 1, 0
            self._now = self._rows.epoch(self.epoch)
        self.at += 1
        return self._now[self.at - 1]


def _generator(seed: int, epoch: int) -> Generator:
    import torch

    return torch.Generator().manual_seed((seed << 20) + epoch)
