"""The results of tasks: plain data, ready to be shown or written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

from genlm.decoding.completion import Completion, FinishReason, TracedToken
from genlm.decoding.kinds import Value
from genlm.decoding.strategy import Strategy
from genlm.model.engine import Engine as Engine
from genlm.model.info import ModelInfo as ModelInfo
from genlm.model.pieces import Token as Token

Overflow: TypeAlias = Literal["error", "truncate-left"]


@dataclass(frozen=True)
class Timing:
    """Seconds. `tokens_per_s` is the new tokens of all samples over `prefill_s + decode_s`."""

    load_s: float
    prefill_s: float
    decode_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class BenchRow:
    """How fast a model ran with `rows` sequences at once.

    `step_bytes` is what a decode step reads at least (weights once, the keys and values so far), `bandwidth` what the
    device was seen to read in a second, `roofline_share` the step's time at that speed over the time it took.
    """

    model: ModelInfo
    rows: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ms_per_step: float
    peak_bytes: int
    step_bytes: int
    bandwidth: float
    roofline_share: float


@dataclass(frozen=True)
class Generation:
    """A prompt and its completions, with everything that made them.

    `prompt_token_ids` are the tokens that were run: a start token for an empty prompt, fewer than the prompt's
    where it was truncated.
    """

    model: ModelInfo
    strategy: Strategy
    seed: int
    max_new_tokens: int
    prompt: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    timing: Timing
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    overflow: Overflow = "error"
    deterministic: bool = False
    engine: Engine = "genlm"


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a scored text: `rank` 1 is the likeliest, log-probability and entropy are in nats.

    All three are None for a first token that nothing stands before. `bytes` is there for a token that holds only
    part of a character, which `text` cannot show.
    """

    id: int
    text: str
    logprob: float | None
    rank: int | None
    entropy: float | None
    bytes: bytes | None = None


# The buckets of ranks in GLTR (Gehrmann et al. 2019): up to each of these, and beyond.
RANK_BOUNDS = (10, 100, 1000)


@dataclass(frozen=True)
class Tally:
    """Sums over scored texts.

    `logprob` is the sum over the scored tokens, in nats: all of them, or all but the first of each text where no
    start token stands before it. `ranks` counts scored tokens by bucket.
    """

    num_texts: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    num_scored_tokens: int = 0
    num_scored_bytes: int = 0
    logprob: float = 0.0
    ranks: tuple[int, ...] = (0,) * (len(RANK_BOUNDS) + 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.num_texts + other.num_texts,
            self.num_tokens + other.num_tokens,
            self.num_bytes + other.num_bytes,
            self.num_scored_tokens + other.num_scored_tokens,
            self.num_scored_bytes + other.num_scored_bytes,
            self.logprob + other.logprob,
            tuple(mine + others for mine, others in zip(self.ranks, other.ranks, strict=True)),
        )

    @property
    def perplexity(self) -> float | None:
        """exp of the mean surprise of a scored token; None where there is none, or it is beyond a float."""
        if not self.num_scored_tokens:
            return None
        try:
            return math.exp(-self.logprob / self.num_scored_tokens)
        except OverflowError:
            return None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of surprise over the bytes that were scored; None where there are none."""
        return -self.logprob / math.log(2) / self.num_scored_bytes if self.num_scored_bytes else None


class ScoreSettings(TypedDict):
    """What a score depends on beside the model: a start token or none, the window and its stride in tokens."""

    bos: bool
    window: int
    stride: int


@dataclass(frozen=True)
class ScoredText:
    """A text with its score. `source` and `line` (from 1) say where it came from; `tokens` is None if not kept."""

    text: str
    source: str | None
    line: int | None
    tokens: tuple[TokenScore, ...] | None
    tally: Tally


@dataclass(frozen=True)
class Candidate:
    """A token that may come next, by rank from 1. `filtered` is its probability under a strategy, 0 if cut."""

    rank: int
    id: int
    text: str
    probability: float
    logprob: float
    filtered: float | None = None
    bytes: bytes | None = None


@dataclass(frozen=True)
class Filtered:
    """What a strategy makes of the next token's distribution.

    `kept` tokens are left of `kept + cut`; the `cut` ones held `cut_probability`, the likeliest of them first in
    `likeliest_cut`. `entropy` is of what is left, in nats.
    """

    strategy: Strategy
    entropy: float
    kept: int
    cut: int
    cut_probability: float
    likeliest_cut: tuple[Candidate, ...]


@dataclass(frozen=True)
class NextToken:
    """The distribution of the next token: its entropy (nats) and its likeliest `candidates`."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    vocab_size: int
    entropy: float
    candidates: tuple[Candidate, ...]
    filtered: Filtered | None = None


@dataclass(frozen=True)
class ContinuationToken:
    """A token of a given continuation, with its log-probability after those before it (nats).

    `filtered` is the same under a strategy: minus infinity where it cuts the token.
    """

    id: int
    text: str
    logprob: float
    filtered: float | None = None


@dataclass(frozen=True)
class Continuation:
    """A given continuation of a prompt; `share` is its part of the probability of all that were given."""

    rank: int
    text: str
    tokens: tuple[ContinuationToken, ...]
    share: float

    @property
    def logprob(self) -> float:
        """log p(continuation | prompt), nats."""
        return sum(token.logprob for token in self.tokens)

    @property
    def filtered(self) -> float | None:
        """The same under a strategy."""
        parts = [token.filtered for token in self.tokens if token.filtered is not None]
        return sum(parts) if parts else None


@dataclass(frozen=True)
class Comparison:
    """Given continuations of a prompt, the likeliest first; `entropy` is the next token's, in nats."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    entropy: float
    strategy: Strategy | None
    continuations: tuple[Continuation, ...]


@dataclass(frozen=True)
class Branch:
    """A token on the way from a prompt: `logprob` after those before it, `path_logprob` with theirs, in nats."""

    id: int
    text: str
    logprob: float
    path_logprob: float
    ends: bool
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Tree:
    """The likeliest ways on from a prompt, `steps` tokens far."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    strategy: Strategy | None
    steps: int
    entropy: float
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class TokenizedText:
    """A text and its tokens. `source` and `line` (from 1) say where it came from."""

    text: str
    source: str | None
    line: int | None
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class AttentionCheck:
    """How far the weights are from what they must be.

    `largest_difference` is to softmax(QK^T * scale), made anew in double precision from the queries and keys that
    the model's usual kernel is given.
    """

    largest_difference: float
    largest_row_error: float
    largest_above_diagonal: float


@dataclass(frozen=True)
class Head:
    """The attention weights of one head. `weights[i][j]` is how much token i attends to token j, 0 for j > i."""

    layer: int
    head: int
    weights: list[list[float]]


@dataclass(frozen=True)
class AttentionMaps:
    """The attention of a prompt's tokens, head by head."""

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]
    num_layers: int
    num_heads: int
    heads: tuple[Head, ...]
    check: AttentionCheck | None = None


@dataclass(frozen=True)
class Difference:
    """Where a result that was run again first differs from the saved one, in sample `index`.

    At token `position`, both from 0, it had the token `saved` and now has `now`: id and text, None where it has ended.
    Where the tokens are the same, `position` is None, and the text or the finish reason differs.
    """

    index: int
    position: int | None
    saved: tuple[int, str] | None
    now: tuple[int, str] | None


@dataclass(frozen=True)
class Replay:
    """A saved result that was run again, and where it first differs, if anywhere."""

    generation: Generation
    difference: Difference | None


class RowError(TypedDict):
    """What is wrong with a row of a file. `row` counts its rows from 1; `line` is None in a file without lines."""

    message: str
    file: str
    row: int
    line: int | None


class BatchModel(TypedDict):
    """The model that made a record; `fingerprint` tells what a model that is not of the Hub holds."""

    name: str
    revision: str | None
    fingerprint: str | None
    dtype: str | None


class BatchRecord(TypedDict):
    """What became of a row of a batch: its completions, or an error. Plain data, as it is written.

    `completions` are as in the JSON of a generation, `strategy` is a spec; `columns` are the row's other columns.
    """

    id: str | int
    prompt: str | None
    completions: list[dict[str, Any]]
    model: BatchModel
    strategy: str
    seed: int
    max_new_tokens: int
    num_return_sequences: int
    stop: list[str]
    overflow: str
    deterministic: bool
    columns: dict[str, Any]
    error: RowError | None


class BatchCounts(NamedTuple):
    """How many rows a batch has, how many of them have a record, and how many of these an error."""

    rows: int
    done: int
    failed: int


@dataclass(frozen=True)
class TrainFacts:
    """What a training run is about. Bytes are of UTF-8; `per` is what a document is.

    `entropy` is the least mean loss, nats a token, that the texts allow, where they are few enough to tell.
    """

    base: str | None
    architecture: str
    parameters: int
    layers: int
    width: int
    heads: int
    context: int
    tokenizer: str
    vocab_size: int
    num_files: int
    num_documents: int
    num_bytes: int
    num_tokens: int
    per: str
    held_documents: int
    held_bytes: int
    entropy: float | None
    recipe: dict[str, Any]
    save_dtype: str
    device: str


@dataclass(frozen=True)
class TrainReport:
    """How a training run stands after a step.

    Losses are mean nats a token: `loss` over the steps since the report before, `valid_loss` over held-out text, only
    where an evaluation was made. `progress` is from 0 to 1; `seconds` counts what earlier sessions took, too.
    """

    step: int
    epoch: int
    tokens: int
    seconds: float
    progress: float
    loss: float
    bits_per_byte: float
    learning_rate: float
    tokens_per_s: float
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None
    sample: str | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to. The losses are of the weights in the folder, on all the held-out text."""

    step: int
    tokens: int
    seconds: float
    best_step: int
    stopped_early: bool
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None


# The metrics of a comparison of strategies, in the order in which they are shown.
METRICS = (
    "perplexity",
    "judge_perplexity",
    "mean_logprob",
    "entropy",
    "self_bleu_4",
    "self_bleu_5",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "zipf",
    "repetition",
    "seq_rep_4",
    "length",
    "ended",
    "tokens_per_s",
)


@dataclass(frozen=True)
class Judgement:
    """What another model makes of a text, in its own tokens: their number, and the sum of their log-probabilities."""

    logprob: float
    tokens: int


@dataclass(frozen=True)
class Sample:
    """A text in a comparison: completion `index` of prompt `prompt`, or a human text, after that prompt or after none.

    `logprobs` and `entropies` have an entry for each of `token_ids`, under the model's own distribution (nats); None
    for a first token that nothing stands before. `finish_reason` is None for human text, whose writer ended it.
    `trace` is there for the first texts only: a page shows no more.
    """

    prompt: int | None
    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[float | None, ...]
    entropies: tuple[float | None, ...]
    judgement: Judgement | None = None
    trace: tuple[TracedToken, ...] | None = None

    @property
    def words(self) -> tuple[int, ...]:
        """Its tokens, without the one that ended it."""
        return self.token_ids[:-1] if self.finish_reason == "eos" else self.token_ids


@dataclass(frozen=True)
class Cell:
    """A strategy on a prompt: its samples, and the seconds that decoding them took; or why there are none.

    The cells of human text have no seconds, and `prompt` None where the text follows none.
    """

    prompt: int | None
    samples: tuple[Sample, ...] = ()
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % bootstrap interval; both ends are None for a single text."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StrategyRow:
    """A strategy in a comparison, or human text, which has no `spec`.

    `swept` are the fields that a grid gave it. A metric is None where the texts do not define it. `distances` are those
    of the metrics to the human text's.
    """

    name: str
    spec: str | None
    swept: dict[str, Value]
    cells: tuple[Cell, ...]
    metrics: dict[str, Estimate | None]
    distances: dict[str, float | None] | None = None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples of all its cells."""
        return tuple(sample for cell in self.cells for sample in cell.samples)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells without samples."""
        return tuple(cell for cell in self.cells if cell.error is not None)


@dataclass(frozen=True)
class StrategyComparison:
    """Strategies side by side on the same prompts; the row of human text, where there is one, is the last."""

    model: ModelInfo
    judge: ModelInfo | None
    seed: int
    max_new_tokens: int
    num_return_sequences: int
    prompts: tuple[str, ...]
    rows: tuple[StrategyRow, ...]

    @property
    def strategies(self) -> tuple[StrategyRow, ...]:
        """The rows of strategies."""
        return tuple(row for row in self.rows if row.spec is not None)

    @property
    def reference(self) -> StrategyRow | None:
        """The row of human text."""
        return next((row for row in self.rows if row.spec is None), None)


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
