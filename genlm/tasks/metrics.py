"""The metrics of a comparison, as the literature defines them; docs/compare.md has each with its source.

Most metrics are averages over texts or tokens: a ratio of two sums, to which each text adds its part. Their intervals
come from a bootstrap. Self-BLEU, distinct-n and Zipf's coefficient also depend on how much text they see, so they are
computed on equal amounts of text from every row; their intervals come from subsamples, because a text that a bootstrap
draws twice would look like a repetition.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from genlm.records.compare import METRICS, Amount, Cell, Estimate

if TYPE_CHECKING:
    from numpy import ndarray

    Array: TypeAlias = ndarray

Text: TypeAlias = Sequence[int]
Metrics: TypeAlias = dict[str, Estimate | None]

INTERVAL = (2.5, 97.5)
BOOTSTRAPS = 1000
# A row is the best if it beats every other row in this share of the resamples. With a lower share, many of the metrics
# would have a best row by chance.
CLEARLY = 0.99
# Self-BLEU takes milliseconds per thousand tokens, so large comparisons have fewer and smaller subsamples.
SUBSAMPLES = (50, 200)
SUBSAMPLE_TOKENS, MOST_TOKENS = 8_000, 400_000
# Texts are dealt up to this often if not all of them can be used at once.
MOST_DEALS = 20
# Holtzman et al. 2020: the tokens that are examined, the shortest phrase, and how often it must occur at the end.
LOOPS_WITHIN, SHORTEST_LOOP, LEAST_ROUNDS = 200, 2, 3
# The ranks in their fit of Zipf's law.
ZIPF_RANKS = 5000
# Counted for an order without a common n-gram: method 1 of Chen and Cherry 2014, as in Holtzman et al.
BLEU_FLOOR = 0.1


@dataclass(frozen=True)
class Measurement:
    """The metrics of every row, the human text last, and the names of those in which it is best.

    `amounts` has the amount of text that a metric was computed on, if the metric depends on it.
    """

    metrics: list[Metrics]
    best: list[tuple[str, ...]]
    amounts: dict[str, Amount]


@dataclass(frozen=True)
class Resampled:
    """A metric and its values in resamples, NaN where it is undefined. `spread`: (resamples,), empty for one text."""

    value: float
    spread: Array

    @property
    def estimate(self) -> Estimate | None:
        """The value with its 95 % interval; None if it is undefined."""
        import numpy as np

        if not math.isfinite(self.value):
            return None
        spread = self.spread[np.isfinite(self.spread)]
        if not len(spread):
            return Estimate(self.value, None, None)
        low, high = np.percentile(spread, INTERVAL)
        return Estimate(self.value, float(low), float(high))


def measure(
    rows: Sequence[Sequence[Cell]], human: Sequence[Cell] | None, seed: int, names: Iterable[str] = METRICS
) -> Measurement:
    """Return the metrics called `names` of the cells of every row, with their intervals, and which rows are best."""
    chosen = set(names)
    cells = [*rows, *([] if human is None else [human])]
    found = [_averages(row, seed) for row in cells]
    amounts: dict[str, Amount] = {}
    for family in FAMILIES:
        if chosen & set(family.names):
            amount, values = _on_equal_amounts(rows, human, family, seed)
            amounts |= {name: amount for name in family.names if name in chosen and amount.texts}
            found = [row | more for row, more in zip(found, values, strict=True)]
    best = [set[str]() for _ in cells]
    for name in chosen:
        place = _best_row(name, rows, human, found)
        if place is not None:
            best[place].add(name)
    ordered = [name for name in METRICS if name in chosen]
    return Measurement(
        [{name: row[name].estimate for name in ordered} for row in found],
        [tuple(name for name in ordered if name in each) for each in best],
        {name: amounts[name] for name in ordered if name in amounts},
    )


def distances(metrics: Metrics, reference: Metrics) -> dict[str, float | None]:
    """Return the absolute difference of each metric from that of the human text."""
    pairs = {name: (metrics[name], reference[name]) for name in metrics}
    return {
        name: None if one is None or other is None else abs(one.mean - other.mean)
        for name, (one, other) in pairs.items()
    }


# Which row is best.


def _best_row(
    name: str, rows: Sequence[Sequence[Cell]], human: Sequence[Cell] | None, found: Sequence[Mapping[str, Resampled]]
) -> int | None:
    """Return the row that is clearly the best in a metric: nearest to the human text, or the fastest.

    None if the comparison is not fair, or if another row is as good in too many of the resamples.
    """
    import numpy as np

    reference = found[len(rows)][name] if human is not None else None
    places = [place for place in range(len(rows)) if math.isfinite(found[place][name].value)]
    if len(places) < 2 or not _is_fair(name, [rows[place] for place in places], human):
        return None
    if name == "tokens_per_s":
        losses = {place: Resampled(-found[place][name].value, -found[place][name].spread) for place in places}
    elif reference is None or not math.isfinite(reference.value) or not len(reference.spread):
        return None
    else:
        losses = {place: _distance(found[place][name], reference) for place in places}
    best = min(places, key=lambda place: losses[place].value)
    for place in places:
        pair = losses[place].spread, losses[best].spread
        if place != best and (not len(pair[0]) or not len(pair[1]) or np.mean(pair[0] > pair[1]) < CLEARLY):
            return None
    return best


def _distance(one: Resampled, other: Resampled) -> Resampled:
    spread = abs(one.spread - other.spread) if len(one.spread) else one.spread
    return Resampled(abs(one.value - other.value), spread)


def _is_fair(name: str, rows: Sequence[Sequence[Cell]], human: Sequence[Cell] | None) -> bool:
    """Return whether the rows have texts for the same prompts, of the same number or length if the metric needs it."""
    counts = [{cell.prompt: len(cell.samples) for cell in row if cell.samples} for row in rows]
    if len({frozenset(each) for each in counts}) > 1:
        return False
    if name == "tokens_per_s":
        # More completions are decoded together at little extra cost.
        return all(each == counts[0] for each in counts)
    if name in ("repetition", "seq_rep_4"):
        # A longer text has more room to repeat itself.
        lengths = [_mean_length(row) for row in [*rows, *([] if human is None else [human])]]
        return max(lengths) - min(lengths) < 0.5
    return True


def _mean_length(cells: Sequence[Cell]) -> float:
    lengths = [len(sample.words) for cell in cells for sample in cell.samples]
    return sum(lengths) / max(1, len(lengths))


# Averages.


@dataclass(frozen=True)
class Ratio:
    """A ratio of two sums over the texts, and a function of that ratio."""

    above: Sequence[float]
    below: Sequence[float]
    then: Callable[[Array], Array] | None = None

    def __call__(self, weights: Array) -> Array:
        """Return the ratio for each row of `weights`, (rows, texts); NaN if it is undefined. Shape: (rows,)."""
        import numpy as np

        above, below = (weights @ np.asarray(part, dtype=float) for part in (self.above, self.below))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value = np.where(below > 0, above / below, np.nan)
            return value if self.then is None else self.then(value)

    def resampled(self, weights: Array) -> Resampled:
        """Return the ratio of all texts, and that of each bootstrap resample in `weights`."""
        import numpy as np

        texts = weights.shape[1]
        spread = self(weights) if texts > 1 else np.empty(0)
        return Resampled(float(self(np.ones((1, texts)))[0]), spread)


def bootstrap(sizes: Sequence[int], seed: int) -> Array:
    """Return how often each sample is drawn in each of BOOTSTRAPS resamples; `sizes` are the samples of each prompt.

    Prompts are drawn with replacement, then as many samples of each drawn prompt as it has (Davison and Hinkley 1997,
    section 3.8), because samples of the same prompt are alike. Rows with the same number of prompts draw the same
    prompts. Shape: (BOOTSTRAPS, samples).
    """
    import numpy as np

    random = np.random.default_rng(abs(seed))
    if not sizes:
        return np.zeros((BOOTSTRAPS, 0))
    drawn = random.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=BOOTSTRAPS)
    columns = [random.multinomial(drawn[:, at] * size, [1 / size] * size) for at, size in enumerate(sizes)]
    return np.concatenate(columns, axis=1).astype(float)


def _averages(cells: Sequence[Cell], seed: int) -> dict[str, Resampled]:
    filled = [cell for cell in cells if cell.samples]
    samples = [sample for cell in filled for sample in cell.samples]
    texts = [sample.words for sample in samples]
    judged = [sample.judgement for sample in samples]
    ratios = {
        # Pooled over the tokens of all texts, as in Holtzman et al.; exp of the mean surprise: Jelinek et al. 1977.
        "perplexity": token_mean([sample.logprobs for sample in samples], _exp_of_minus),
        "judge_perplexity": Ratio(
            [each.logprob if each else 0.0 for each in judged],
            [float(each.tokens) if each else 0.0 for each in judged],
            _exp_of_minus,
        ),
        "mean_logprob": token_mean([sample.logprobs for sample in samples]),
        "entropy": token_mean([sample.entropies for sample in samples]),
        "repetition": text_mean([100.0 * ends_in_loop(text) for text in texts]),
        "seq_rep_4": text_mean([repeated_share(text, 4) for text in texts]),
        "length": text_mean([float(len(text)) for text in texts]),
        "ended": text_mean(
            [None if sample.finish_reason is None else 100.0 * (sample.finish_reason == "eos") for sample in samples]
        ),
    }
    weights = bootstrap([len(cell.samples) for cell in filled], seed)
    # The samples of a cell share its time.
    cell_weights = bootstrap([1] * len(filled), seed)
    return {name: ratio.resampled(weights) for name, ratio in ratios.items()} | {
        "tokens_per_s": speed(filled).resampled(cell_weights)
    }


def text_mean(values: Sequence[float | None]) -> Ratio:
    """Return the mean of the texts' values; a text without one does not count."""
    return Ratio([value or 0.0 for value in values], [float(value is not None) for value in values])


def token_mean(numbers: Sequence[Sequence[float | None]], then: Callable[[Array], Array] | None = None) -> Ratio:
    """Return the mean over the tokens of all texts; a token without a number does not count."""
    known = [[number for number in text if number is not None] for text in numbers]
    return Ratio([math.fsum(text) for text in known], [float(len(text)) for text in known], then)


def _exp_of_minus(values: Array) -> Array:
    import numpy as np

    result: Array = np.exp(-values)
    return result


def speed(cells: Sequence[Cell]) -> Ratio:
    """Return the new tokens per second; human text has none."""
    tokens = [float(sum(len(sample.token_ids) for sample in cell.samples)) for cell in cells]
    return Ratio(tokens, [cell.seconds or 0.0 for cell in cells])


def repeated_share(text: Text, order: int) -> float | None:
    """Return seq-rep-n: the share of n-grams that occurred earlier in the text (Welleck et al. 2020, arXiv:1908.04319).

    None for a text without n-grams.
    """
    runs = list(_ngrams(text, order))
    return 1 - len(set(runs)) / len(runs) if runs else None


def ends_in_loop(text: Text) -> bool:
    """Return whether the text ends in a loop (Holtzman et al. 2020, arXiv:1904.09751, figure 9).

    Its first 200 tokens end with a phrase of two or more tokens that occurs three or more times in a row.
    """
    end = list(text[:LOOPS_WITHIN])
    longest = len(end) // LEAST_ROUNDS
    return any(end[-size:] * LEAST_ROUNDS == end[-size * LEAST_ROUNDS :] for size in range(SHORTEST_LOOP, longest + 1))


def _ngrams(text: Text, order: int) -> Iterable[tuple[int, ...]]:
    return zip(*(text[start:] for start in range(order)), strict=False)


# Metrics that depend on the amount of text.


def distinct(texts: Sequence[Text], order: int) -> float:
    """Return distinct n-grams over all n-grams of the texts together (Li et al. 2016, arXiv:1510.03055).

    NaN for texts without n-grams.
    """
    runs = [run for text in texts for run in _ngrams(text, order)]
    return len(set(runs)) / len(runs) if runs else math.nan


def zipf(texts: Sequence[Text]) -> float:
    """Return Zipf's coefficient s of the texts' tokens: the token of rank r is as frequent as r ** -s (Zipf 1949).

    Fitted as in Holtzman et al.: least squares in the logarithms of both, over the 5,000 most frequent tokens. NaN for
    fewer than two different tokens.
    """
    import numpy as np

    counts = Counter(token for text in texts for token in text)
    frequencies = sorted(counts.values(), reverse=True)[:ZIPF_RANKS]
    if len(frequencies) < 2:
        return math.nan
    slope, _ = np.polyfit(np.log(np.arange(1, len(frequencies) + 1)), np.log(frequencies), 1)
    return -float(slope)


def self_bleu(texts: Sequence[Text], orders: Sequence[int] = (4, 5)) -> list[float]:
    """Return the mean BLEU of each text against all others, 0 to 1, for each order (Zhu et al. 2018, arXiv:1802.01886).

    The score and its smoothing are sacrebleu's. A text shorter than the order is scored with the n-grams that it has.
    Empty texts are left out; NaN for fewer than two others.
    """
    from sacrebleu.metrics.bleu import BLEU

    texts = [text for text in texts if text]
    if len(texts) < 2:
        return [math.nan] * len(orders)
    runs = [[Counter(_ngrams(text, order)) for order in range(1, min(max(orders), len(text)) + 1)] for text in texts]
    most, second = _highest_counts(runs)
    lengths = Counter(map(len, texts))
    sums = [0.0] * len(orders)
    for place, (text, by_order) in enumerate(zip(texts, runs, strict=True)):
        # An n-gram counts at most as often as it occurs in any other text.
        common = [
            sum(min(count, second[run] if most[run][1] == place else most[run][0]) for run, count in counts.items())
            for counts in by_order
        ]
        totals = [sum(counts.values()) for counts in by_order]
        missing = [0] * (max(orders) - len(totals))
        others = lengths - Counter([len(text)])
        closest = min(others, key=lambda other: (abs(other - len(text)), other))
        for at, order in enumerate(orders):
            score = BLEU.compute_bleu(
                [*common, *missing][:order],
                [*totals, *missing][:order],
                len(text),
                closest,
                smooth_method="floor",
                smooth_value=BLEU_FLOOR,
                effective_order=True,
                max_ngram_order=order,
            )
            sums[at] += score.score / 100
    return [each / len(texts) for each in sums]


NGram: TypeAlias = tuple[int, ...]


def _highest_counts(
    texts: Sequence[Sequence[Counter[NGram]]],
) -> tuple[dict[NGram, tuple[int, int]], dict[NGram, int]]:
    """Return for each n-gram its highest count in a text, with that text's place, and its second-highest count."""
    most: dict[NGram, tuple[int, int]] = {}
    second: dict[NGram, int] = {}
    for place, by_order in enumerate(texts):
        for counts in by_order:
            for run, count in counts.items():
                best, _ = most.get(run, (0, -1))
                if count > best:
                    most[run], second[run] = (count, place), best
                elif count > second[run]:
                    second[run] = count
    return most, second


@dataclass(frozen=True)
class Family:
    """Metrics that are computed together, on equal amounts of text; they need at least `least` texts."""

    names: tuple[str, ...]
    least: int
    compute: Callable[[Sequence[Text]], Sequence[float]]
    highest: tuple[float, ...]


FAMILIES = (
    Family(("self_bleu_4", "self_bleu_5"), 2, self_bleu, (1.0, 1.0)),
    Family(
        ("distinct_1", "distinct_2", "distinct_3", "zipf"),
        1,
        lambda texts: [*(distinct(texts, order) for order in (1, 2, 3)), zipf(texts)],
        (1.0, 1.0, 1.0, math.inf),
    ),
)


@dataclass(frozen=True)
class Pool:
    """The texts of a row in groups, one for each prompt. A hand has `counts` texts of each group.

    Human texts that do not follow the prompts are one group.
    """

    groups: Sequence[Sequence[Text]]
    counts: Sequence[int]

    @property
    def num_units(self) -> int:
        """The number of prompts to subsample, or of texts if there is only one group."""
        return len(self.groups) if len(self.groups) > 1 else len(self.groups[0])

    @property
    def num_tokens(self) -> int:
        """The number of tokens in all texts."""
        return sum(len(text) for group in self.groups for text in group)

    def tokens_of(self, texts: int) -> float:
        """Return the mean number of tokens in a hand of `texts` texts."""
        means = [
            count * sum(map(len, group)) / len(group) for group, count in zip(self.groups, self.counts, strict=True)
        ]
        return sum(means) * texts / sum(self.counts)

    def deal(self, texts: int, random: Random) -> list[list[Text]]:
        """Deal the texts at random into as many hands of `texts` texts as possible."""
        shuffled = [random.sample(group, len(group)) for group in self.groups]
        num_hands = min(len(group) // count for group, count in zip(self.groups, self.counts, strict=True))
        hands = [
            [
                text
                for group, count in zip(shuffled, self.counts, strict=True)
                for text in group[hand * count : (hand + 1) * count]
            ]
            for hand in range(num_hands)
        ]
        return [random.sample(hand, texts) if len(hand) > texts else hand for hand in hands]

    def subsample(self, size: int, prompts: Random, texts: Random) -> Pool:
        """Return a pool of `size` of the units: prompts chosen by one random stream, or texts by the other."""
        if len(self.groups) > 1:
            chosen = prompts.sample(range(len(self.groups)), size)
            return Pool([self.groups[at] for at in chosen], [self.counts[at] for at in chosen])
        return Pool([texts.sample(self.groups[0], size)], [min(self.counts[0], size)])


def cut(texts: Sequence[Text], tokens: int) -> list[Text]:
    """Cut the longest texts so that all together have at most `tokens` tokens."""
    kept: list[Text] = []
    for text in sorted(texts, key=len):
        share = tokens // (len(texts) - len(kept))
        kept.append(text[:share])
        tokens -= len(kept[-1])
    return kept


def _on_equal_amounts(
    rows: Sequence[Sequence[Cell]], human: Sequence[Cell] | None, family: Family, seed: int
) -> tuple[Amount, list[dict[str, Resampled]]]:
    """Return the metrics of a family for every row, computed on equal amounts of text, and that amount.

    The row with the fewest texts of a prompt sets the number of texts for that prompt, and human texts limit the total.
    The selection with the fewest tokens, on average, sets the number of tokens. The texts of each row are dealt at
    random into hands of that amount, and the metric is the mean over the hands. A row with too few texts has no metric
    and does not limit the others.

    The interval comes from subsamples of half of the prompts (or of the texts, if there is one prompt or none), without
    replacement, scaled to the size of the whole: the delete-d jackknife of Shao and Wu 1989.
    """
    import numpy as np

    pools, texts = _pools(rows, human, family.least)
    known = [pool for pool in pools if pool is not None]
    undefined = {name: Resampled(math.nan, np.empty(0)) for name in family.names}
    if not known or texts < family.least:
        return Amount(0, 0), [undefined for _ in pools]
    tokens = int(min(pool.tokens_of(texts) for pool in known))
    largest = max(pool.num_tokens for pool in known)
    share = min(0.5, SUBSAMPLE_TOKENS / largest)
    num_subsamples = int(min(SUBSAMPLES[1], max(SUBSAMPLES[0], MOST_TOKENS / (share * largest))))

    def mean(pool: Pool, texts: int, tokens: int, random: Random) -> list[float]:
        hands = pool.deal(texts, random)
        return np.mean([family.compute(cut(hand, tokens)) for hand in hands], axis=0).tolist()  # type: ignore[no-any-return]

    def spread(place: int, pool: Pool) -> Array:
        units = pool.num_units
        size = min(units - 1, max(1, math.ceil(units * share)))
        if size < 1:
            return np.empty((0, len(family.names)))
        values = []
        for number in range(num_subsamples):
            # All rows subsample the same prompts, so that only their texts differ.
            prompts, own = Random(f"{seed}/{number}"), Random(f"{seed}/{number}/{place}")
            part = pool.subsample(size, prompts, own)
            few = max(1, min(texts, round(texts * sum(part.counts) / sum(pool.counts))))
            values.append(mean(part, few, max(1, tokens * few // texts), own))
        return np.asarray(values) * math.sqrt(size / (units - size))

    found = []
    for place, pool in enumerate(pools):
        if pool is None:
            found.append(undefined)
            continue
        is_whole = all(len(group) == count for group, count in zip(pool.groups, pool.counts, strict=True))
        deals = 1 if is_whole and sum(pool.counts) == texts else min(MOST_DEALS, max(1, MOST_TOKENS // pool.num_tokens))
        random = Random(f"{seed}/{place}")
        value = np.mean([mean(pool, texts, tokens, random) for _ in range(deals)], axis=0)
        around = spread(place, pool)
        if len(around):
            # Less text biases the metrics of all subsamples alike, so only deviations from their mean count.
            centre = np.nansum(around, axis=0) / np.maximum(1, np.isfinite(around).sum(axis=0))
            around = np.clip(value + around - centre, 0.0, family.highest)
        found.append({name: Resampled(float(value[at]), around[:, at]) for at, name in enumerate(family.names)})
    return Amount(texts, tokens), found


def _pools(rows: Sequence[Sequence[Cell]], human: Sequence[Cell] | None, least: int) -> tuple[list[Pool | None], int]:
    """Return the texts of each row that can be compared, the human text last, and the number to compare from each."""
    grouped = [_texts_by_prompt(row) for row in rows]
    enough = [sum(map(len, groups.values())) >= least for groups in grouped]
    compared = [groups for groups, is_enough in zip(grouped, enough, strict=True) if is_enough]
    prompts = [prompt for prompt in (compared[0] if compared else {}) if all(prompt in groups for groups in compared)]
    people = _texts_by_prompt(human or ())
    everything = [text for group in people.values() for text in group]
    are_paired = bool(prompts) and all(prompt in people for prompt in prompts) and None not in people
    if are_paired and len(everything) >= least:
        compared.append(people)
    counts = [min(len(groups[prompt]) for groups in compared) for prompt in prompts]
    pools = [
        Pool([groups[prompt] for prompt in prompts], counts) if is_enough and prompts else None
        for groups, is_enough in zip(grouped, enough, strict=True)
    ]
    texts = sum(counts)
    if human is None:
        return pools, texts
    if len(everything) < least:
        return [*pools, None], texts
    if are_paired:
        return [*pools, Pool([people[prompt] for prompt in prompts], counts)], texts
    texts = min(texts, len(everything)) if texts else len(everything)
    return [*pools, Pool([everything], [texts])], texts


def _texts_by_prompt(cells: Sequence[Cell]) -> dict[int | None, list[Text]]:
    """Return the texts that are not empty, by prompt."""
    groups: dict[int | None, list[Text]] = {}
    for cell in cells:
        for sample in cell.samples:
            if sample.words:
                groups.setdefault(cell.prompt, []).append(sample.words)
    return groups
