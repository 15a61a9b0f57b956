"""How a batch on a cluster stands."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.records.batch import RowError


@dataclass(frozen=True)
class ClusterState:
    """How far a batch on a cluster is.

    `rows` is None until they are counted; `done` of them have a record, `made` of these in this run, with so many
    `tokens` in `seconds` from the first to the last. `busy` of the `workers` that live have something to do. `errors`
    are those since the last look.
    """

    rows: int | None
    done: int
    made: int
    tokens: int
    seconds: float
    workers: int
    busy: int
    errors: list[RowError]
