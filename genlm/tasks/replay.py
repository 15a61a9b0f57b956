"""Run a saved result again, and find where it differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.decoding.completion import Completion
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError
from genlm.formats.saved import read_json
from genlm.model.info import ENGINES, Engine
from genlm.model.pieces import Pieces
from genlm.records.generation import Generation
from genlm.records.replay import Difference, Replay
from genlm.tasks.generate import Limits, check_count, continue_prompt, result_of

if TYPE_CHECKING:
    from genlm.model.load import DeviceChoice, DtypeChoice, Model

DTYPES = ("float32", "bfloat16", "float16", "int8")
DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class SavedSequence:
    """A completion as far as it is compared."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str

    @classmethod
    def of(cls, completion: Completion) -> SavedSequence:
        """That of a completion."""
        return cls(completion.token_ids, completion.text, completion.finish_reason)


@dataclass(frozen=True)
class SavedResult:
    """A result as it was saved, with everything that it takes to run it again."""

    model: str
    revision: str | None
    dtype: DtypeChoice
    device: DeviceChoice
    strategy: Strategy
    seed: int
    limits: Limits
    deterministic: bool
    prompt: str
    prompt_ids: tuple[int, ...]
    sequences: tuple[SavedSequence, ...]
    engine: Engine

    def run(self, model: Model) -> Generation:
        """Run the same generation with a model. Raise InputError if the prompt does not fit the model."""
        network = model.network
        length = len(self.prompt_ids) + self.limits.max_new_tokens
        if max(self.prompt_ids) >= network.vocab_size or (network.context is not None and length > network.context):
            raise InputError(
                f"the prompt of the result does not fit {self.model}",
                hint="the result was made with another model of that name",
            )
        events = continue_prompt(
            model,
            self.prompt,
            self.strategy,
            self.limits,
            self.seed,
            deterministic=self.deterministic,
            prompt_ids=self.prompt_ids,
        )
        return result_of(events)

    def compare(self, generation: Generation, model: Model) -> Replay:
        """Whether the new generation is the same, and if not where it first differs."""
        made = map(SavedSequence.of, generation.completions)
        for index, (saved, now) in enumerate(zip(self.sequences, made, strict=True)):
            if saved != now:
                return Replay(generation, _difference(index, saved, now, Pieces(model.tokenizer)))
        return Replay(generation, None)


def read_result(path: Path) -> SavedResult:
    """The result that `genlm generate --format json` has written.

    Raises:
        InputError: a file that cannot be read, or holds no such result.
    """
    record = _Record(path, _read_object(path))
    model, strategy = record.part("model"), record.part("strategy")
    completions = [record.within(each, "completions") for each in record.items("completions", dict)]
    stop = tuple(record.items("stop", str))
    try:
        chosen = Strategy.of(strategy.take("kind", str), strategy.take("fields", dict), name=strategy.take("name", str))
        limits = Limits(
            record.take("max_new_tokens", int),
            record.take("num_return_sequences", int),
            stop,
            record.take("overflow", str),
        )
        check_count(chosen, limits)
    except UsageError as error:
        raise record.wrong(str(error)) from error
    prompt_ids = tuple(record.items("prompt_token_ids", int))
    if not prompt_ids or min(prompt_ids) < 0:
        raise record.wrong("'prompt_token_ids' are no token ids")
    if len(completions) != limits.num_return_sequences:
        raise record.wrong(f"{len(completions)} completions, where num_return_sequences={limits.num_return_sequences}")
    return SavedResult(
        model.take("name", str),
        model.take("revision", str, type(None)),
        model.one_of("dtype", DTYPES),
        model.one_of("device", DEVICES),
        chosen,
        record.take("seed", int),
        limits,
        record.take("deterministic", bool),
        record.take("prompt", str),
        prompt_ids,
        tuple(
            SavedSequence(tuple(each.items("token_ids", int)), each.take("text", str), each.take("finish_reason", str))
            for each in completions
        ),
        # Results before there was a choice do not say it.
        record.one_of("engine", ENGINES) if "engine" in record.values else "genlm",
    )


def _read_object(path: Path) -> dict[str, Any]:
    contents = read_json(path)
    if not isinstance(contents, dict):
        raise InputError(f"{path}: not a result of genlm generate: not a JSON object")
    return contents


class _Record:
    """An object in a result, whose values are of the types that they are taken as."""

    def __init__(self, path: Path, values: dict[str, Any], place: str = "") -> None:
        self.path = path
        self.values = values
        self.place = place

    def wrong(self, what: str) -> InputError:
        """The error that says what is wrong."""
        return InputError(
            f"{self.path}: not a result that can be run again: {what}", hint="genlm generate --format json writes one"
        )

    def take(self, key: str, *types: type) -> Any:
        """The value of a key. Raises InputError where it is lacking or of another type."""
        if key not in self.values:
            raise self.wrong(f"it has no {self.place + key!r}")
        value = self.values[key]
        if type(value) not in types:
            raise self.wrong(f"{self.place + key!r} is a {type(value).__name__}")
        return value

    def one_of(self, key: str, choices: Sequence[str]) -> Any:
        """The value of a key that is one of a few words."""
        value = self.take(key, str)
        if value not in choices:
            raise self.wrong(f"{self.place + key!r} is {value!r}, not one of {', '.join(choices)}")
        return value

    def items(self, key: str, kind: type) -> list[Any]:
        """The values of a list, all of one type."""
        values: list[Any] = self.take(key, list)
        if any(type(value) is not kind for value in values):
            raise self.wrong(f"{self.place + key!r} is not a list of {kind.__name__}")
        return values

    def part(self, key: str) -> _Record:
        """An object within."""
        return self.within(self.take(key, dict), key)

    def within(self, values: dict[str, Any], key: str) -> _Record:
        """An object that the key has led to."""
        return _Record(self.path, values, f"{self.place}{key}.")


def _difference(index: int, saved: SavedSequence, now: SavedSequence, pieces: Pieces) -> Difference:
    pairs = list(zip_longest(saved.token_ids, now.token_ids))
    position = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    if position is None:
        return Difference(index, None, None, None)
    was, is_now = (None if id is None else (id, pieces.text_of(id)) for id in pairs[position])
    return Difference(index, position, was, is_now)
