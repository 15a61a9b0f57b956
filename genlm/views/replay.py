"""The result of a replay: the same, or the first difference."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from genlm.records.generation import Difference, Replay
from genlm.records.serialize import as_object
from genlm.views.terminal import visible
from genlm.views.tokens import counted


def replay_text(replay: Replay) -> str:
    """Return one line, or the difference in three."""
    difference = replay.difference
    if difference is None:
        completions = replay.generation.completions
        tokens = sum(len(completion.token_ids) for completion in completions)
        return f"the same: {counted(len(completions), 'completion')}, {counted(tokens, 'token')}\n"
    if difference.position is None:
        return f"differs: sample {difference.index + 1} has the same tokens, and another text or end\n"
    return (
        f"differs: sample {difference.index + 1} at new token {difference.position + 1}\n"
        f"saved: {_token(difference.saved)}\n"
        f"now:   {_token(difference.now)}\n"
    )


def replay_json(replay: Replay) -> str:
    """Return one object with `same`, and `difference`, which is null if there is none."""
    difference = replay.difference
    return as_object({"same": difference is None, "difference": None if difference is None else _record(difference)})


def _token(token: tuple[int, str] | None) -> str:
    return "no more tokens" if token is None else f"{visible(repr(token[1]))} (id {token[0]})"


def _record(difference: Difference) -> dict[str, Any]:
    record = asdict(difference)
    for key in ("saved", "now"):
        token = record[key]
        record[key] = None if token is None else {"id": token[0], "text": token[1]}
    return record
