"""How the metrics of a comparison are shown, and which value of a column is best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from genlm.records.compare import METRICS, Estimate, StrategyComparison, StrategyRow


@dataclass(frozen=True)
class Column:
    """A metric as it is shown: its heading, decimal places, and which values are better, if any.

    `better` is a direction, or "one": near 1 is better. If there is human text and the metric is `against_human`, near
    the human value is better instead.
    """

    heading: str
    places: int
    meaning: str
    better: Literal["low", "high", "one"] | None = None
    against_human: bool = True


COLUMNS = {
    "perplexity": Column("perplexity", 1, "exp of the mean surprise of a token, under the model itself", "low"),
    "judge_perplexity": Column("judge ppl", 1, "the same under the judge, in its own tokens", "low"),
    "mean_logprob": Column("log-prob", 2, "mean log-probability of a token, in nats", "high"),
    "entropy": Column("entropy", 2, "mean entropy of the distributions that tokens came from, in nats"),
    "self_bleu_4": Column("Self-BLEU-4", 2, "similarity of each text to the others, in runs of up to 4 tokens", "low"),
    "self_bleu_5": Column("Self-BLEU-5", 2, "the same with runs of up to 5 tokens", "low"),
    "distinct_1": Column("distinct-1", 2, "different tokens over all tokens", "high"),
    "distinct_2": Column("distinct-2", 2, "different pairs of tokens over all pairs", "high"),
    "distinct_3": Column("distinct-3", 2, "different runs of 3 tokens over all such runs", "high"),
    "zipf": Column("Zipf", 2, "how fast frequency falls with rank; in natural language about 1", "one"),
    "repetition": Column("repetition %", 1, "texts that end in a loop, in %", "low"),
    "seq_rep_4": Column(
        "seq-rep-4", 2, "runs of 4 tokens that occurred earlier in the text, over all such runs", "low"
    ),
    "length": Column("length", 1, "tokens in a text, without the one that ends it"),
    "ended": Column("ended %", 1, "texts that ended by themselves, in %"),
    "tokens_per_s": Column("tokens/s", 0, "new tokens per second, without the prompt", "high", against_human=False),
}


def shown_metrics(comparison: StrategyComparison) -> list[str]:
    """Return the metrics that are defined for at least one row."""
    return [name for name in METRICS if any(row.metrics[name] is not None for row in comparison.rows)]


def best_rows(comparison: StrategyComparison, name: str) -> set[int]:
    """Return the indexes of the strategies that are best by a metric: nearest to human text, if there is any.

    Empty if no value is better than another, or if all look the same.
    """
    values = {
        place: estimate.mean
        for place, row in enumerate(comparison.strategies)
        if (estimate := row.metrics[name]) is not None
    }
    human = comparison.reference.metrics[name] if comparison.reference is not None else None
    badness = _badness(COLUMNS[name], None if human is None else human.mean)
    if badness is None or len({_spelled(name, value) for value in values.values()}) < 2:
        return set()
    best = min(values.values(), key=badness)
    return {place for place, value in values.items() if _spelled(name, value) == _spelled(name, best)}


def _badness(column: Column, human: float | None) -> Callable[[float], float] | None:
    """Return a function from a value to its distance from the best, or None if no value is better than another."""
    if human is not None and column.against_human:
        return lambda value: abs(value - human)
    if column.better == "one":
        return lambda value: abs(value - 1)
    if column.better is None:
        return None
    sign = -1 if column.better == "high" else 1
    return lambda value: sign * value


def value_of(name: str, estimate: Estimate | None) -> str:
    """Return the value as it is shown: a dash if there is none."""
    return "–" if estimate is None else _spelled(name, estimate.mean)


def interval_of(name: str, estimate: Estimate | None) -> str:
    """Return the interval as it is shown: empty if there is none, or if its ends look the same."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    low, high = _spelled(name, estimate.low), _spelled(name, estimate.high)
    return "" if low == high else f"[{low}, {high}]"


def distance_of(name: str, row: StrategyRow) -> str:
    """Return the distance to human text as it is shown."""
    distance = (row.distances or {}).get(name)
    return "–" if distance is None else _spelled(name, distance)


def _spelled(name: str, value: float) -> str:
    """Return the value in the column's decimal places; zero has no sign."""
    places = COLUMNS[name].places
    return f"{round(value, places) + 0.0:,.{places}f}"


def best_note(comparison: StrategyComparison) -> str:
    """Return what the mark and the interval of a value mean."""
    best = "nearest to the human text" if comparison.reference is not None else "the best of its column"
    estimates = [estimate for row in comparison.rows for estimate in row.metrics.values() if estimate is not None]
    has_intervals = any(estimate.low is not None for estimate in estimates)
    return f"* {best}" + ("; in brackets: the 95 % bootstrap interval" if has_intervals else "")
