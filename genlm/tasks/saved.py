"""Read results that were saved as JSON, and run them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from genlm.decoding.completion import Completion
from genlm.errors import InputError, UsageError
from genlm.model.info import DeviceChoice, DtypeChoice
from genlm.model.pieces import Pieces
from genlm.records.compare import StrategyComparison
from genlm.records.generation import Difference, Generation, Replay
from genlm.records.serialize import parse
from genlm.tasks.generate import Limits, check_count, continue_prompt, result_of

if TYPE_CHECKING:
    from genlm.model.load import Model

T = TypeVar("T")

# A result names the device and dtype that ran, never "auto".
DEVICES = get_args(DeviceChoice)[1:]
DTYPES = get_args(DtypeChoice)[1:]
# Tokenizers store ids in 32 bits.
MOST_IDS = 1 << 32


def read_comparison(path: Path) -> StrategyComparison:
    """Return the comparison that `genlm compare --format json` wrote. Raise InputError if the file holds none."""
    return _read(path, StrategyComparison.from_dict, "comparison")


def read_result(path: Path) -> Generation:
    """Return the result that `genlm generate --format json` wrote.

    Raises:
        InputError: a file that cannot be read, or does not hold a result that can be run again.
    """
    saved = _read(path, Generation.from_dict, "result")
    problem = next(_problems(saved), None)
    if problem is not None:
        raise InputError(f"{path}: cannot be run again: {problem}", code="not-a-result")
    return saved


def _problems(saved: Generation) -> Iterator[str]:
    """Yield why a saved result cannot be run again."""
    try:
        check_count(saved.strategy, limits_of(saved))
    except UsageError as error:
        yield str(error)
    for name, value, choices in (("dtype", saved.model.dtype, DTYPES), ("device", saved.model.device, DEVICES)):
        if value not in choices:
            yield f"model.{name}: {value!r} is not one of {', '.join(choices)}"
    if not saved.prompt_token_ids:
        yield "prompt_token_ids: no token ids"
    completions = {f"completions[{at}].token_ids": each.token_ids for at, each in enumerate(saved.completions)}
    for name, ids in ({"prompt_token_ids": saved.prompt_token_ids} | completions).items():
        yield from (f"{name}: {id} is not a token id" for id in ids if not 0 <= id < MOST_IDS)
    if len(saved.completions) != saved.num_return_sequences:
        yield f"completions: {len(saved.completions)}, but num_return_sequences is {saved.num_return_sequences}"


def run_again(saved: Generation, model: Model) -> Replay:
    """Run a saved generation with `model`, and return the new one with the first difference, if any.

    Raises:
        InputError: a prompt that does not fit the model.
    """
    network = model.network
    length = len(saved.prompt_token_ids) + saved.max_new_tokens
    if max(saved.prompt_token_ids) >= network.vocab_size or (network.context is not None and length > network.context):
        raise InputError(
            f"the saved prompt does not fit {saved.model.name}",
            hint="another model of that name made the saved result",
        )
    events = continue_prompt(
        model,
        saved.prompt,
        saved.strategy,
        limits_of(saved),
        saved.seed,
        deterministic=saved.deterministic,
        prompt_ids=saved.prompt_token_ids,
    )
    now = result_of(events)
    for before, after in zip(saved.completions, now.completions, strict=True):
        difference = _difference(before, after, Pieces(model.tokenizer))
        if difference is not None:
            return Replay(now, difference)
    return Replay(now, None)


def limits_of(saved: Generation) -> Limits:
    """Return the limits of a saved generation. Raise UsageError if they make no sense."""
    return Limits(saved.max_new_tokens, saved.num_return_sequences, saved.stop, saved.overflow)


def _read(path: Path, restore: Callable[[Any], T], what: str) -> T:
    try:
        values = parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    try:
        return restore(values)
    except (ValueError, UsageError) as error:
        raise InputError(f"{path}: not a saved {what}: {error}", code=f"not-a-{what}") from error


def _difference(saved: Completion, now: Completion, pieces: Pieces) -> Difference | None:
    pairs = list(zip_longest(saved.token_ids, now.token_ids))
    position = next((at for at, (before, after) in enumerate(pairs) if before != after), None)
    if position is not None:
        before, after = (None if id is None else (id, pieces.text_of(id)) for id in pairs[position])
        return Difference(now.index, position, before, after)
    if (saved.text, saved.finish_reason) != (now.text, now.finish_reason):
        return Difference(now.index, None, None, None)
    return None
