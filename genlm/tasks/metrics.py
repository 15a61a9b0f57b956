"""The metrics of a comparison, as the literature defines them; docs/compare.md has each with its source.

A metric of several texts is a quotient of sums over them: what each text adds above and below the line is worked out
once, whatever the others are weighted with. So a bootstrap need not compute anything anew, and a text that it takes
twice does not count as one that repeats another. Zipf's coefficient alone is no such quotient.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from genlm.records.compare import METRICS, Cell, Estimate, Sample

if TYPE_CHECKING:
    from numpy import ndarray

    Array: TypeAlias = ndarray

Metrics: TypeAlias = dict[str, Estimate | None]

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
# Holtzman et al. 2020: how long a text is looked at, the shortest phrase, how often it must stand at the end.
LOOPS_WITHIN, SHORTEST_LOOP, LEAST_ROUNDS = 200, 2, 3
# Of the ranks in their fit of Zipf's law.
ZIPF_RANKS = 5000
# Added to a count of no common n-gram: method 1 of Chen and Cherry 2014, as they smooth it.
BLEU_FLOOR = 0.1


class Measure(Protocol):
    """A metric of some texts, each of which may be taken any number of times."""

    def __call__(self, weights: Array) -> Array:
        """The metric for each row of `weights`, (rows, texts); NaN where it is not defined. Shape: (rows,)."""
        ...


@dataclass(frozen=True)
class Quotient:
    """What each text adds above and below the line, and what is made of the quotient."""

    above: Sequence[float]
    below: Sequence[float]
    then: Callable[[Array], Array] | None = None

    def __call__(self, weights: Array) -> Array:
        """See Measure."""
        import numpy as np

        above, below = (weights @ np.asarray(part, dtype=float) for part in (self.above, self.below))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value = np.where(below > 0, above / below, np.nan)
            return value if self.then is None else self.then(value)


@dataclass(frozen=True)
class ZipfFit:
    """Zipf's coefficient of the texts' tokens together."""

    texts: Sequence[Sequence[int]]

    def __call__(self, weights: Array) -> Array:
        """See Measure."""
        import numpy as np

        tokens = np.array([token for text in self.texts for token in text], dtype=np.int64)
        owners = np.repeat(np.arange(len(self.texts)), [len(text) for text in self.texts])
        _, types = np.unique(tokens, return_inverse=True)
        return np.array([zipf(np.bincount(types, weights=row[owners])) for row in weights])


def estimate(measure: Measure, resampled: Array) -> Estimate | None:
    """The metric of all texts, and the interval that holds 95 % of what it is for the rows of `resampled`."""
    import numpy as np

    texts = resampled.shape[1]
    if not texts:
        return None
    mean = float(measure(np.ones((1, texts)))[0])
    if not math.isfinite(mean):
        return None
    if texts == 1:
        return Estimate(mean, None, None)
    spread = measure(resampled)
    spread = spread[np.isfinite(spread)]
    if not len(spread):
        return Estimate(mean, None, None)
    if isinstance(measure, ZipfFit):
        # Fewer different texts have fewer rare tokens, which bends the curve of every resample alike.
        spread = spread + (mean - spread.mean())
    low, high = np.percentile(spread, INTERVAL)
    return Estimate(mean, float(low), float(high))


def resample(sizes: Sequence[int], seed: int) -> Array:
    """How often each sample is taken in each of RESAMPLES bootstrap resamples; `sizes` counts those of each prompt.

    Prompts are drawn with replacement, then as many samples of each drawn prompt as it has (Davison and Hinkley 1997,
    section 3.8): samples of one prompt are more alike than those of two. Shape: (RESAMPLES, samples).
    """
    import numpy as np

    random = np.random.default_rng(seed)
    if not sizes:
        return np.zeros((RESAMPLES, 0))
    drawn = random.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=RESAMPLES)
    columns = [random.multinomial(drawn[:, at] * size, [1 / size] * size) for at, size in enumerate(sizes)]
    return np.concatenate(columns, axis=1).astype(float)


def measure_all(cells: Sequence[Cell], seed: int) -> Metrics:
    """Every metric of the cells' samples together, with its interval."""
    there = [cell for cell in cells if cell.samples]
    samples = [sample for cell in there for sample in cell.samples]
    resampled = resample([len(cell.samples) for cell in there], seed)
    found = {name: estimate(measure, resampled) for name, measure in _measures(samples).items()}
    # The samples of a cell share its time.
    found["tokens_per_s"] = estimate(speed(there), resample([1] * len(there), seed))
    return {name: found[name] for name in METRICS}


def distances(metrics: Metrics, reference: Metrics) -> dict[str, float | None]:
    """How far each metric is from that of the human text."""
    pairs = {name: (metrics[name], reference[name]) for name in metrics}
    return {
        name: None if one is None or other is None else abs(one.mean - other.mean)
        for name, (one, other) in pairs.items()
    }


def _measures(samples: Sequence[Sample]) -> dict[str, Measure]:
    texts = [sample.words for sample in samples]
    common = overlaps(texts, 5)
    return {
        "perplexity": perplexity(sample.logprobs for sample in samples),
        "judge_perplexity": judge_perplexity(samples),
        "mean_logprob": mean_of(sample.logprobs for sample in samples),
        "entropy": mean_of(sample.entropies for sample in samples),
        "self_bleu_4": average(self_bleu(common, 4)),
        "self_bleu_5": average(self_bleu(common, 5)),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "distinct_3": distinct(texts, 3),
        "zipf": ZipfFit(texts),
        "repetition": average([100.0 * is_stuck(text) for text in texts]),
        "seq_rep_4": average([repeated_part(text, 4) for text in texts]),
        "length": average([float(len(text)) for text in texts]),
        "ended": average([_ended(sample) for sample in samples]),
    }


def average(values: Sequence[float | None]) -> Quotient:
    """The mean of the texts' values; a text that has none does not count."""
    return Quotient([value or 0.0 for value in values], [float(value is not None) for value in values])


def mean_of(numbers: Iterable[Sequence[float | None]]) -> Quotient:
    """The mean over the tokens of all texts."""
    there = [[number for number in text if number is not None] for text in numbers]
    return Quotient([math.fsum(text) for text in there], [float(len(text)) for text in there])


def perplexity(logprobs: Iterable[Sequence[float | None]]) -> Quotient:
    """exp of the mean surprise of a token (Jelinek et al. 1977), over the tokens of all texts as in Holtzman et al."""
    return replace(mean_of(logprobs), then=_exp_of_minus)


def judge_perplexity(samples: Sequence[Sample]) -> Quotient:
    """The same under another model, in its own tokens."""
    judged = [sample.judgement for sample in samples]
    return Quotient(
        [each.logprob if each else 0.0 for each in judged],
        [float(each.tokens) if each else 0.0 for each in judged],
        _exp_of_minus,
    )


def _exp_of_minus(values: Array) -> Array:
    import numpy as np

    result: Array = np.exp(-values)
    return result


def ngrams(text: Sequence[int], order: int) -> list[tuple[int, ...]]:
    """Every run of `order` tokens."""
    return [tuple(text[at : at + order]) for at in range(len(text) - order + 1)]


def distinct(texts: Sequence[Sequence[int]], order: int) -> Quotient:
    """Different n-grams over all n-grams of the texts together (Li et al. 2016, arXiv:1510.03055).

    An n-gram that stands in the texts k times adds 1/k each time, so that it counts once.
    """
    runs = [ngrams(text, order) for text in texts]
    counts = Counter(run for text in runs for run in text)
    return Quotient([math.fsum(1 / counts[run] for run in text) for text in runs], [float(len(text)) for text in runs])


def repeated_part(text: Sequence[int], order: int) -> float | None:
    """seq-rep-n: the part of the n-grams that stood in the text before (Welleck et al. 2020, arXiv:1908.04319)."""
    runs = ngrams(text, order)
    return 1 - len(set(runs)) / len(runs) if runs else None


def is_stuck(text: Sequence[int]) -> bool:
    """Whether the text ends in a loop (Holtzman et al. 2020, arXiv:1904.09751, figure 9).

    Within its first 200 tokens, the last two or more tokens stand there three times in a row, or more often.
    """
    end = list(text[:LOOPS_WITHIN])
    longest = len(end) // LEAST_ROUNDS
    return any(end[-size:] * LEAST_ROUNDS == end[-size * LEAST_ROUNDS :] for size in range(SHORTEST_LOOP, longest + 1))


def zipf(counts: Array) -> float:
    """Zipf's coefficient s, where the token of rank r is as frequent as r ** -s (Zipf 1949).

    As Holtzman et al. fit it: least squares in the logarithms of both, over the 5,000 most frequent tokens. NaN for
    fewer than two.
    """
    import numpy as np

    frequencies = np.sort(counts[counts > 0])[::-1][:ZIPF_RANKS]
    if len(frequencies) < 2:
        return math.nan
    slope, _ = np.polyfit(np.log(np.arange(1, len(frequencies) + 1)), np.log(frequencies), 1)
    return -float(slope)


@dataclass(frozen=True)
class Overlap:
    """What BLEU goes by, of a text and all others: by order from 1, how many n-grams are common, and how many it has.

    `closest` is the length of the other text that is nearest to its `length`.
    """

    common: list[int]
    total: list[int]
    length: int
    closest: int


def overlaps(texts: Sequence[Sequence[int]], order: int) -> list[Overlap | None]:
    """Each text's n-grams up to an order, and those that one of the others has as often.

    None for an empty text, and where there is no other.
    """
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    there = [at for at, text in enumerate(texts) if text]
    found: list[Overlap | None] = [None] * len(texts)
    if len(there) < 2:
        return found
    runs = [extract_all_word_ngrams(" ".join(map(str, texts[at])), 1, order)[0] for at in there]
    most, second = _most_often(runs)
    lengths = Counter(len(texts[at]) for at in there)
    for place, at in enumerate(there):
        common, total = [0] * order, [0] * order
        for run, count in runs[place].items():
            best, owner = most[run]
            common[len(run) - 1] += min(count, second[run] if owner == place else best)
            total[len(run) - 1] += count
        length = len(texts[at])
        found[at] = Overlap(common, total, length, _closest(length, lengths - Counter([length])))
    return found


def self_bleu(found: Sequence[Overlap | None], order: int) -> list[float | None]:
    """The BLEU of each text with all others as its references, from 0 to 1 (Zhu et al. 2018, arXiv:1802.01886).

    The score and its smoothing are sacrebleu's. Of a text that is shorter than the order, the n-grams that it has
    count.
    """
    from sacrebleu.metrics.bleu import BLEU

    def score(each: Overlap) -> float:
        bleu = BLEU.compute_bleu(
            each.common[:order],
            each.total[:order],
            each.length,
            each.closest,
            smooth_method="floor",
            smooth_value=BLEU_FLOOR,
            effective_order=True,
            max_ngram_order=order,
        )
        return bleu.score / 100

    return [None if each is None else score(each) for each in found]


NGram: TypeAlias = tuple[str, ...]


def _most_often(texts: Sequence[Counter[NGram]]) -> tuple[dict[NGram, tuple[int, int]], dict[NGram, int]]:
    """Of each n-gram: how often the text that has it most often has it, with its place; and how often the next one."""
    most: dict[NGram, tuple[int, int]] = {}
    second: dict[NGram, int] = {}
    for place, counts in enumerate(texts):
        for run, count in counts.items():
            best, _ = most.get(run, (0, -1))
            if count > best:
                most[run], second[run] = (count, place), best
            elif count > second[run]:
                second[run] = count
    return most, second


def _closest(length: int, others: Iterable[int]) -> int:
    """The length that is nearest, the shorter of two as near: that of the reference that BLEU goes by."""
    return min(others, key=lambda other: (abs(other - length), other))


def _ended(sample: Sample) -> float | None:
    """100 for a text that ended by itself, 0 for one that was cut; for a mean in %."""
    return None if sample.finish_reason is None else 100.0 * (sample.finish_reason == "eos")


def speed(cells: Sequence[Cell]) -> Quotient:
    """New tokens a second; of human text there is none."""
    timed = [cell.seconds or 0.0 for cell in cells]
    tokens = [float(sum(len(sample.token_ids) for sample in cell.samples)) for cell in cells]
    return Quotient(tokens, timed)
