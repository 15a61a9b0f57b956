"""The declaration of a kind of strategy: its fields, its logits processors, and how it chooses.

Everything that genlm knows about a kind is in its declaration; parsing, help, documentation and decoding derive from
it. Nothing here needs torch.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar, cast
from urllib.parse import quote, unquote

from genlm.errors import UsageError, show

# A value that JSON can hold.
Plain: TypeAlias = bool | int | float | str
# The value of a field. Words and biases are tuples: ("king", "queen") and ((262, -5.0),).
Value: TypeAlias = Plain | tuple[str, ...] | tuple[tuple[int, float], ...]
# What a field accepts: words and biases may also be one text, or a list of texts.
Given: TypeAlias = Value | Sequence[str]

T = TypeVar("T")
N = TypeVar("N", int, float)

# Characters that have a meaning in a spec or between the items of a list.
RESERVED = frozenset(",=|;%")
LARGEST_BIAS = 1e6
# Python does not write integers of more than 4,300 digits.
LARGEST_INT = 10**4000
BIAS = re.compile(r"\s*([0-9]+)\s*:(.*)", re.DOTALL)


class ValueType(Generic[T]):
    """The type and range of a field's values. `parse` and `check` raise ValueError for anything else.

    `separator` is the text between the items of a list; it is empty if the value is not a list.
    """

    separator = ""

    @property
    def range(self) -> str:
        """The accepted values, in words."""
        raise NotImplementedError

    def parse(self, text: str) -> T:
        """Return the value that a spec writes as `text`; it may still be out of range."""
        raise NotImplementedError

    def check(self, value: object) -> T:
        """Return `value` in the field's own type."""
        raise NotImplementedError

    def to_json(self, value: T) -> Plain:
        """Return the value as JSON holds it."""
        return cast(Plain, value)


@dataclass(frozen=True)
class Number(ValueType[N]):
    """Numbers from `low` to `high`, without the bound itself if its end is open; `or_zero` admits 0 as well."""

    type: type[N]
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    or_zero: bool = False

    def parse(self, text: str) -> N:
        """See ValueType."""
        return self.type(text)

    def check(self, value: object) -> N:
        """See ValueType."""
        accepted = (int,) if self.type is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise ValueError("another type")
        # An integer beyond every float could not be converted to one.
        largest = LARGEST_INT if self.type is int else sys.float_info.max
        if not (-largest <= value <= largest and self._in_range(value)):
            raise ValueError("out of range")
        return self.type(value)

    def _in_range(self, value: float) -> bool:
        if self.or_zero and value == 0:
            return True
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    @property
    def range(self) -> str:
        """See ValueType."""
        noun = "a whole number" if self.type is int else "a number"
        closes_low = self.or_zero and self.low == 0
        bounds = []
        if self.low > -math.inf:
            bounds.append(f"{'greater than' if self.low_open and not closes_low else 'at least'} {self.low:g}")
        if self.high < math.inf:
            bounds.append(f"{'less than' if self.high_open else 'at most'} {self.high:g}")
        words = f"{noun} {' and '.join(bounds)}".strip()
        return f"{words}, or 0" if self.or_zero and not closes_low else words


@dataclass(frozen=True)
class Choice(ValueType[T]):
    """One of a few values, each written as its key."""

    choices: Mapping[str, T]

    def parse(self, text: str) -> T:
        """See ValueType."""
        if text.lower() not in self.choices:
            raise ValueError("not a choice")
        return self.choices[text.lower()]

    def check(self, value: object) -> T:
        """See ValueType; 0 and 1 are not false and true."""
        for choice in self.choices.values():
            if value is choice or (isinstance(value, str) and value == choice):
                return choice
        raise ValueError("not a choice")

    @property
    def range(self) -> str:
        """See ValueType."""
        return "one of " + ", ".join(self.choices)


class Words(ValueType[tuple[str, ...]]):
    """Words separated by |. In a spec %XX is a byte, as in a URL, so a word may hold any character."""

    range = "words separated by |"
    separator = "|"

    def parse(self, text: str) -> tuple[str, ...]:
        """See ValueType; white space around a word does not belong to it."""
        if not text:
            return ()
        return self.check([unquote(part.strip(), errors="strict") for part in text.split(self.separator)])

    def check(self, value: object) -> tuple[str, ...]:
        """See ValueType; a list holds plain words. Each word is kept once."""
        if isinstance(value, str):
            return self.parse(value)
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
            raise ValueError("not a list of texts")
        words = tuple(dict.fromkeys(value))
        "".join(words).encode()
        if not all(words):
            raise ValueError("an empty word")
        return words

    def to_json(self, value: tuple[str, ...]) -> str:
        """See ValueType."""
        return self.separator.join(map(_quote_word, value))


class Biases(ValueType[tuple[tuple[int, float], ...]]):
    """Biases of tokens as ID:BIAS pairs separated by ;, in order of their ids."""

    range = "ID:BIAS pairs separated by ;, each ID once"
    separator = ";"

    def parse(self, text: str) -> tuple[tuple[int, float], ...]:
        """See ValueType."""
        return self.check([text]) if text else ()

    def check(self, value: object) -> tuple[tuple[int, float], ...]:
        """See ValueType; a list holds pairs, or texts of pairs."""
        if isinstance(value, str):
            return self.parse(value)
        if not isinstance(value, (list, tuple)):
            raise ValueError("not a list")
        biases = sorted(bias for item in value for bias in _biases_of(item))
        if len({token for token, _ in biases}) < len(biases):
            raise ValueError("an id twice")
        return tuple(biases)

    def to_json(self, value: tuple[tuple[int, float], ...]) -> str:
        """See ValueType."""
        return self.separator.join(f"{token}:{bias!r}" for token, bias in value)


def _quote_word(word: str) -> str:
    inner = word.strip(" ")
    before = len(word) - len(word.lstrip(" "))
    after = len(word) - before - len(inner)
    quoted = [each if each.isprintable() and each not in RESERVED else quote(each, safe="") for each in inner]
    return "".join(["%20" * before, *quoted, "%20" * after])


def _biases_of(item: object) -> list[tuple[int, float]]:
    """Return the biases that an item of a list holds: a pair, or a text of pairs."""
    if isinstance(item, str):
        return [_check_bias(*_split_bias(text)) for text in item.split(";")]
    if isinstance(item, tuple) and len(item) == 2:
        return [_check_bias(*item)]
    raise ValueError("not a pair")


def _split_bias(text: str) -> tuple[int, float]:
    match = BIAS.fullmatch(text)
    if match is None:
        raise ValueError("not a pair")
    return int(match[1]), float(match[2])


def _check_bias(token: object, bias: object) -> tuple[int, float]:
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= LARGEST_INT:
        raise ValueError("not an id")
    if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -LARGEST_BIAS <= bias <= LARGEST_BIAS:
        raise ValueError("not a bias, or out of range")
    return token, float(bias)


@dataclass(frozen=True)
class Field(Generic[T]):
    """A field of a strategy.

    `meaning` is a description in one line. At the `neutral` value, if there is one, the field changes nothing. `flag`
    is its plain option, such as "--top-k K". A field `in_transformers` is an argument of `generate` with the same name,
    unless `to_transformers` translates it.
    """

    name: str
    default: T
    values: ValueType[T]
    meaning: str
    neutral: T | None = None
    flag: str = ""
    in_transformers: bool = False
    to_transformers: Callable[[T], dict[str, object]] | None = None

    def parse(self, text: str) -> T:
        """Return the value that a spec writes as `text`. Raise UsageError if it is out of range."""
        try:
            value = self.values.parse(text)
        except ValueError:
            raise self._out_of_range(text) from None
        return self.check(value)

    def check(self, value: object) -> T:
        """Return `value` in the field's own type. Raise UsageError if it is out of range."""
        try:
            return self.values.check(value)
        except ValueError:
            raise self._out_of_range(value) from None

    @property
    def is_list(self) -> bool:
        """Whether a value is a list of items."""
        return bool(self.values.separator)

    def join(self, first: Given, second: Given) -> Given:
        """Return two lists as one text, or only the invalid one, so that `check` refuses it."""
        texts = []
        for given in (first, second):
            try:
                texts.append(str(self.values.to_json(self.values.check(given))))
            except ValueError:
                return given
        return self.values.separator.join(filter(None, texts))

    def of(self, values: Mapping[str, Value]) -> T:
        """Return the field's value among those of a strategy."""
        return cast(T, values[self.name])

    def format(self, value: T) -> str:
        """Return the value as a spec writes it."""
        plain = self.values.to_json(value)
        return str(plain).lower() if isinstance(plain, bool) else str(plain)

    def transformers_arguments(self, value: T) -> dict[str, object]:
        """Return the arguments of transformers' `generate` for a value; none if it has no such field."""
        if not self.in_transformers:
            return {}
        return {self.name: value} if self.to_transformers is None else self.to_transformers(value)

    @property
    def description(self) -> str:
        """The meaning, and the value that turns the field off if that is in its range."""
        if self.neutral is None:
            return self.meaning
        try:
            off = self.format(self.values.check(self.neutral))
        except ValueError:
            return self.meaning
        return f"{self.meaning}; {off.removesuffix('.0') or 'empty'} turns it off"

    def _out_of_range(self, value: object) -> UsageError:
        return UsageError(f"{self.name} must be {self.values.range}, not {show(value)}")


@dataclass(frozen=True)
class Processor:
    """A logits processor: its fields, and the "module:function" that implements it, imported on first use.

    Processors apply in rising `order`. One that `has_state` is a class instead: it follows each sequence, and applies
    after all others. Either has a parameter for each field; see genlm/decoding/processors.py.
    """

    implementation: str
    order: int
    fields: tuple[Field[Any], ...]
    has_state: bool = False

    def is_off(self, values: Mapping[str, Value]) -> bool:
        """Return whether the processor changes nothing: all fields that have a neutral value are at it."""
        switches = [field for field in self.fields if field.neutral is not None]
        return bool(switches) and all(values[field.name] == field.neutral for field in switches)

    def with_default(self, default: object, **bounds: Any) -> Processor:
        """Return the same processor with another default, and other bounds, for its only field."""
        (field,) = self.fields
        values: Any = field.values
        return replace(self, fields=(replace(field, default=default, values=replace(values, **bounds)),))


# A check that involves several fields: returns an error message, or None.
Rule: TypeAlias = Callable[[Mapping[str, Value]], str | None]


@dataclass(frozen=True)
class Kind:
    """A kind of strategy.

    `parameters` are its fields and logits processors in the order in which a spec writes them; `main` names the field
    that a spec always shows. `samples` is whether tokens are drawn at random.
    """

    name: str
    summary: str
    formula: str
    parameters: tuple[Field[Any] | Processor, ...]
    samples: bool
    paper: str = ""
    main: str = ""
    # The kind that this one becomes at a temperature of 0.
    zero_temperature_kind: str = "greedy"
    rules: tuple[Rule, ...] = ()
    # The "module:function" that yields the events of a search; empty for kinds that the scheduler decodes.
    loop: str = ""
    # Whether processors get log-probabilities instead of logits, as beams do, whose scores are sums of them.
    on_logprobs: bool = False
    # Whether the loop looks at hidden states, which a plain prefill does not keep.
    reads_hidden_states: bool = False
    # What the choice depends on beyond the next token's distribution, in words.
    also_depends_on: str = ""
    in_transformers: bool = False
    # The fields whose plain flags select this kind if no spec is given; of several kinds, the lowest rank wins.
    selected_by: tuple[str, ...] = ()
    selection_rank: int = 0

    @cached_property
    def fields(self) -> dict[str, Field[Any]]:
        """Every field by name, in the order in which a spec writes them."""
        parts = (part.fields if isinstance(part, Processor) else (part,) for part in self.parameters)
        return {field.name: field for fields in parts for field in fields}

    @cached_property
    def processors(self) -> tuple[Processor, ...]:
        """The logits processors in the order in which they apply."""
        processors = [part for part in self.parameters if isinstance(part, Processor)]
        return tuple(sorted(processors, key=lambda each: each.order))
