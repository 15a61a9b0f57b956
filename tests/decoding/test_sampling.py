"""Sampling: the distribution of draws, and that a sample does not depend on the others beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.gpt2 import save_gpt2
from support.networks import count_rows
from support.reference import stock_generate, stock_logprob

import genlm
from genlm.api import LanguageModel
from genlm.decoding import sampling, scheduler
from genlm.decoding.completion import Completion
from genlm.decoding.dispatch import decode
from genlm.decoding.distribution import check_logits
from genlm.decoding.kinds import KINDS
from genlm.decoding.request import Request, random_streams
from genlm.decoding.sampling import draw
from genlm.decoding.strategy import Strategy, transformers_settings
from genlm.errors import ModelError

PROMPT = "Once upon a time"
OUT = -math.inf
BELOW_ONE = math.nextafter(1.0, 0.0)
SAMPLING = [
    *(kind.name for kind in KINDS.values() if kind.samples and "num_beams" not in kind.fields),
    "sample:xtc_probability=0.5,xtc_threshold=0.05,presence_penalty=0.5,frequency_penalty=0.3",
    "sample:dry_multiplier=1,dry_allowed_length=1,min_new_tokens=9",
]


@pytest.fixture(scope="module")
def lm(tiny: Path) -> LanguageModel:
    return genlm.load(str(tiny), device="cpu")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 in which some tokens are a hundred times as likely as others, and texts end at many lengths."""
    folder = save_gpt2(tmp_path_factory.mktemp("uneven") / "uneven", eos_token_id=list(range(0, 300, 7)))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"] *= 4
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


# The inverse of the cumulative distribution, worked out by hand.


@pytest.mark.parametrize(
    ("weights", "uniform", "token"),
    [
        ([1, 2, 1], 0.0, 0),
        ([1, 2, 1], 0.24, 0),
        ([1, 2, 1], 0.26, 1),
        ([1, 2, 1], 0.74, 1),
        ([1, 2, 1], 0.76, 2),
        ([1, 2, 1], BELOW_ONE, 2),
        ([0, 1, 0], 0.0, 1),
        ([0, 1, 0], BELOW_ONE, 1),
        ([0, 0, 1, 0, 1, 0], 0.0, 2),
        ([0, 0, 1, 0, 1, 0], 0.5, 4),
        ([0, 0, 1, 0, 1, 0], BELOW_ONE, 4),
        ([1], 0.5, 0),
        ([10**9, 1], 1 - 2e-9, 0),
        ([10**9, 1], 1 - 5e-10, 1),
    ],
)
def test_a_uniform_number_picks_the_token_that_it_falls_into(weights: list[int], uniform: float, token: int) -> None:
    assert draw(torch.tensor([weights]).float().log(), [uniform]).tolist() == [token]


def test_every_row_has_its_own_draw() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, OUT], [OUT, 7.0]])
    assert draw(logits, [0.6, 0.6, 0.0]).tolist() == [1, 0, 1]


LOGIT = st.sampled_from([OUT, OUT, -700.0, -90.0, 0.0, 30.0]) | st.floats(-50, 50)
ROW = st.lists(LOGIT, min_size=1, max_size=30).filter(lambda row: max(row) > OUT)


@given(ROW, st.sampled_from([0.0, 5e-324, BELOW_ONE]) | st.floats(0, 1, exclude_max=True))
def test_a_ruled_out_token_is_never_drawn(row: list[float], uniform: float) -> None:
    logits = torch.tensor([row])
    (token,) = draw(logits, [uniform]).tolist()
    assert logits.double().softmax(-1)[0, token] > 0


def test_both_ends_of_a_large_vocabulary_can_be_drawn() -> None:
    logits = torch.zeros(1, 50_257)
    assert draw(logits, [0.0]).tolist() == [0]
    assert draw(logits, [0.37]).tolist() == [int(0.37 * 50_257)]
    assert draw(logits, [BELOW_ONE]).tolist() == [50_256]


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [3, 1, 0]])
def test_a_number_that_rounds_to_one_picks_the_last_token(weights: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "precision", lambda _: torch.float32)
    last = max(token for token, weight in enumerate(weights) if weight)
    assert draw(torch.tensor([weights]).float().log(), [BELOW_ONE]).tolist() == [last]


# The distribution end to end, against the scores that stock `generate` samples from.

STOCK_SPECS = [
    "sample",
    "sample:temperature=0.6",
    "sample:temperature=1.7,repetition_penalty=1.4",
    "top-k:top_k=7",
    "top-k:top_k=40,temperature=1.3,top_p=0.8",
    "top-p:top_p=0.7",
    "top-p:top_p=0.9,top_k=20,no_repeat_ngram_size=1",
    "min-p:min_p=0.03",
    "min-p:min_p=0.02,temperature=1.5,top_p=0.9,top_k=60",
    "typical:typical_p=0.7",
    "epsilon:epsilon_cutoff=0.01",
    "eta:eta_cutoff=0.01,temperature=1.5",
    "top-h:top_h=0.6",
    "top-h:top_h=0.9,top_k=60,top_p=0.95,min_p=0.01,typical_p=0.9,epsilon_cutoff=0.001,eta_cutoff=0.001",
]
DRAWS = 4000


def stock_probabilities(folder: Path, prompt_ids: Sequence[int], strategy: Strategy) -> torch.Tensor:
    """Return the distribution of the next token that stock `generate` samples from."""
    made = stock_generate(
        folder,
        prompt_ids,
        (),
        max_new_tokens=1,
        output_scores=True,
        return_dict_in_generate=True,
        **transformers_settings(strategy),
    )
    return made.scores[0][0].double().softmax(-1)  # type: ignore[no-any-return]


def drawn(lm: LanguageModel, strategy: Strategy) -> Counter[int]:
    made = lm.generate(PROMPT, strategy=strategy, max_new_tokens=1, num_return_sequences=DRAWS, seed=11)
    return Counter(completion.token_ids[0] for completion in made.completions)


def chi_square(counts: Counter[int], probabilities: torch.Tensor) -> tuple[float, int]:
    """Return Pearson's statistic and its degrees of freedom. Tokens expected less than five times count as one."""
    expected = probabilities * sum(counts.values())
    observed = torch.tensor([counts[token] for token in range(len(expected))]).double()
    common = expected >= 5
    cells = torch.cat([expected[common], expected[~common].sum()[None]])
    seen = torch.cat([observed[common], observed[~common].sum()[None]])
    cells, seen = cells[cells > 0], seen[cells > 0]
    return float(((seen - cells) ** 2 / cells).sum()), len(cells) - 1


def highest_likely_statistic(freedom: int) -> float:
    """Return what Pearson's statistic exceeds once in a thousand times (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.09 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize("spec", STOCK_SPECS)
def test_samples_have_stock_support_and_distribution(uneven: Path, spec: str) -> None:
    strategy = Strategy.parse(spec)
    lm = genlm.load(str(uneven), device="cpu")
    prompt_ids = lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids
    probabilities = stock_probabilities(uneven, prompt_ids, strategy)
    counts = drawn(lm, strategy)
    assert all(probabilities[token] > 0 for token in counts)
    # 4,000 draws miss such a token once in e^10 times.
    likely = (probabilities > 10 / DRAWS).nonzero().flatten().tolist()
    assert set(likely) <= counts.keys()
    statistic, freedom = chi_square(counts, probabilities)
    assert freedom >= 4
    assert statistic < highest_likely_statistic(freedom)


@pytest.mark.parametrize(
    "spec",
    ["top-n-sigma:top_n_sigma=1.5", "top-n-sigma:top_n_sigma=1.6,temperature=2,top_k=30", "top-k:top_n_sigma=1.8"],
)
def test_samples_of_top_n_sigma_have_the_distribution_of_its_definition(uneven: Path, spec: str) -> None:
    strategy = Strategy.parse(spec)
    fields: Any = strategy.fields
    lm = genlm.load(str(uneven), device="cpu")
    prompt_ids = lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids
    logits = stock_probabilities(uneven, prompt_ids, Strategy.parse("sample")).log() / fields["temperature"]
    near = logits.max() - logits <= fields["top_n_sigma"] * logits.std(unbiased=False)
    logits = logits.masked_fill(~near, OUT)
    if fields["top_k"]:
        logits = logits.masked_fill(logits < logits.topk(fields["top_k"]).values[-1], OUT)
    counts = drawn(lm, strategy)
    probabilities = logits.softmax(-1)
    assert all(probabilities[token] > 0 for token in counts)
    statistic, freedom = chi_square(counts, probabilities)
    assert freedom >= 4
    assert statistic < highest_likely_statistic(freedom)


def test_presence_and_frequency_penalties_do_not_change_the_first_token(lm: LanguageModel) -> None:
    plain, penalised = (
        samples(lm, 3, f"top-k:top_k=5,{penalty}=50", new=20) for penalty in ("min_new_tokens", "frequency_penalty")
    )
    assert [each.token_ids[0] for each in plain] == [each.token_ids[0] for each in penalised]
    # With such a penalty no token occurs twice.
    assert all(len(set(each.token_ids)) == len(each.token_ids) for each in penalised)
    assert any(len(set(each.token_ids)) < len(each.token_ids) for each in plain)


def test_no_text_ends_before_min_new_tokens(uneven: Path) -> None:
    lm = genlm.load(str(uneven), device="cpu")
    assert min(len(each.token_ids) for each in samples(lm, 20)) < 9
    assert min(len(each.token_ids) for each in samples(lm, 20, "sample:min_new_tokens=9")) == 10


def test_the_statistic_detects_a_wrong_temperature(uneven: Path) -> None:
    lm = genlm.load(str(uneven), device="cpu")
    prompt_ids = lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids
    probabilities = stock_probabilities(uneven, prompt_ids, Strategy.parse("sample:temperature=1.1"))
    statistic, freedom = chi_square(drawn(lm, Strategy.parse("sample")), probabilities)
    assert statistic > highest_likely_statistic(freedom)


def test_stock_generate_draws_no_token_that_genlm_does_not(uneven: Path) -> None:
    lm = genlm.load(str(uneven), device="cpu")
    strategy = Strategy.parse("top-k:top_k=5,temperature=2.0")
    ours = drawn(lm, strategy)
    prompt_ids = lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids
    torch.manual_seed(0)
    rows = stock_generate(
        uneven, prompt_ids, (), max_new_tokens=1, num_return_sequences=400, **transformers_settings(strategy)
    )
    assert set(rows[:, -1].tolist()) == ours.keys()
    assert len(ours) == 5


# Each sample is independent of the others.


def samples(lm: LanguageModel, count: int, spec: str = "sample", new: int = 12, **options: Any) -> list[Completion]:
    options = {"seed": 3} | options
    made = lm.generate(PROMPT, strategy=spec, max_new_tokens=new, num_return_sequences=count, **options)
    return list(made.completions)


def without_rounding(completion: Completion) -> tuple[Any, ...]:
    return completion.index, completion.token_ids, completion.text, completion.finish_reason


def same(some: list[Completion], others: list[Completion]) -> bool:
    close = all(abs(a.logprob - b.logprob) < 1e-3 for a, b in zip(some, others, strict=True))
    return close and list(map(without_rounding, some)) == list(map(without_rounding, others))


@pytest.mark.parametrize("spec", SAMPLING)
def test_the_first_of_five_samples_equals_a_single_sample(uneven: Path, spec: str) -> None:
    lm = genlm.load(str(uneven), device="cpu")
    five = samples(lm, 5, spec)
    assert [completion.index for completion in five] == [0, 1, 2, 3, 4]
    for count in (1, 2, 3):
        assert same(samples(lm, count, spec), five[:count])


def test_it_does_so_in_sixteen_bits_too() -> None:
    lm = genlm.load("fable", device="cpu", dtype="bfloat16")
    alone = samples(lm, 1, new=40)
    assert without_rounding(samples(lm, 5, new=40)[0]) == without_rounding(alone[0])
    assert without_rounding(samples(lm, 20, new=40)[0]) == without_rounding(alone[0])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_number_of_slots_changes_nothing(uneven: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = genlm.load(str(uneven), device="cpu")
    together = samples(lm, 7)
    monkeypatch.setattr(scheduler, "rows_that_fit", lambda *_: size)
    assert same(samples(lm, 7), together)


def test_samples_that_end_early_do_not_change_the_others(uneven: Path) -> None:
    lm = genlm.load(str(uneven), device="cpu")
    together = samples(lm, 16, new=30)
    lengths = {len(completion.token_ids) for completion in together}
    assert len(lengths) > 5
    for completion in together:
        expected = stock_logprob(uneven, lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids, completion.token_ids)
        assert completion.logprob == pytest.approx(expected, abs=1e-3)


def test_index_seed_and_prompt_each_change_the_sample(lm: LanguageModel) -> None:
    several = [completion.text for completion in samples(lm, 20)]
    assert len(set(several)) > 15
    assert several[0] != samples(lm, 1, seed=4)[0].text
    other = lm.generate(PROMPT + " there", strategy="sample", max_new_tokens=12, seed=3)
    assert several[0] != other.completions[0].text


def test_the_seed_that_was_drawn_reproduces_the_sample(lm: LanguageModel) -> None:
    drawn_seed = lm.generate(PROMPT, strategy="sample")
    again = lm.generate(PROMPT, strategy="sample", seed=drawn_seed.seed)
    assert again.completions == drawn_seed.completions
    assert lm.generate(PROMPT).seed != drawn_seed.seed


class Constant:
    """A network whose next token is i with a probability proportional to i + 1."""

    vocab_size = 10
    context = None
    device = torch.device("cpu")

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[torch.Tensor, Any]:
        self.rows = len(prompts)
        return self.step(torch.zeros(self.rows)), self

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.arange(1.0, 11.0).log().expand(len(ids), -1)

    def new_empty(self, rows: int, length: int) -> Constant:
        return self

    def insert(self, slots: torch.Tensor, source: Constant, rows: torch.Tensor, room: int) -> None:
        pass

    def keep_first(self, rows: int) -> None:
        pass

    def row_bytes(self, length: int) -> int:
        return 1


def test_the_nth_token_of_a_sample_uses_the_nth_number_of_its_stream() -> None:
    request = Request((4, 2), Strategy.parse("sample"), 6, 3, 99, frozenset(), (), lambda ids: "x" * len(ids))
    network: Any = Constant()
    made = [event for event in decode(network, request) if isinstance(event, Completion)]
    for completion in made:
        stream = random_streams(99, (4, 2))(completion.index)
        numbers = [stream.random() for _ in range(6)]
        cumulative = [sum(range(1, token + 2)) / 55 for token in range(10)]
        expected = [next(token for token in range(10) if cumulative[token] > number) for number in numbers]
        assert list(completion.token_ids) == expected


@pytest.mark.parametrize("spec", ["greedy", *SAMPLING, "top-p:top_p=0.5,temperature=2,repetition_penalty=1.3"])
def test_the_logprob_is_the_models_own(lm: LanguageModel, tiny: Path, spec: str) -> None:
    made = lm.generate(PROMPT, strategy=spec, max_new_tokens=20, seed=5)
    expected = stock_logprob(tiny, made.prompt_token_ids, made.completions[0].token_ids)
    assert made.completions[0].logprob == pytest.approx(expected, abs=1e-3)


def test_of_thousands_of_samples_only_as_many_run_at_once_as_pay_off(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = count_rows(monkeypatch)
    made = lm.generate(PROMPT, strategy="sample", max_new_tokens=2, num_return_sequences=2000, seed=0)
    assert [completion.index for completion in made.completions] == list(range(2000))
    assert max(rows) == 256


def test_a_strategy_that_leaves_no_token_is_an_error(tmp_path: Path) -> None:
    from support.models import save_three_words

    lm = genlm.load(str(save_three_words(tmp_path / "three")), device="cpu")
    for kind in ("greedy", "sample", "top-k", "top-p"):
        with pytest.raises(ModelError, match="no_repeat_ngram_size=1 leaves no token to choose at new token 3"):
            lm.generate("fox", strategy=f"{kind}:no_repeat_ngram_size=1", max_new_tokens=4)


@pytest.mark.parametrize("vocab", [3, 256, 300, 5000])
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = 4 * torch.randn(50, vocab, generator=generator)
    # Rule out some tokens, and all near both ends.
    logits[torch.rand(logits.shape, generator=generator) < 0.3] = -torch.inf
    logits[:, : vocab // 3] = logits[:, -(vocab // 3) :] = -torch.inf
    logits[:, vocab // 2] = 0.0
    uniforms = torch.rand(50, generator=generator).tolist()
    cumulative = logits.double().softmax(-1).cumsum(-1)
    expected = [int((row <= uniform).sum()) for row, uniform in zip(cumulative, uniforms, strict=True)]
    assert draw(logits, uniforms).tolist() == expected
    for uniform in (0.0, BELOW_ONE):
        ids = draw(logits, [uniform] * 50)
        assert bool((logits.gather(-1, ids[:, None]) > -torch.inf).all())


def test_logits_have_a_log_of_their_total_if_they_are_numbers() -> None:
    logits = torch.tensor([[1000.0, -torch.inf, 999.0], [-3e4, -3e4, -3e4], [0.0, 1.0, 2.0]])
    torch.testing.assert_close(check_logits(logits), logits.double().logsumexp(-1).float())


@pytest.mark.parametrize("row", [[math.nan] * 3, [0.0, math.inf], [OUT] * 3], ids=["nan", "infinite", "none possible"])
def test_logits_that_are_not_numbers_are_refused(row: list[float]) -> None:
    message = "the model's logits are not numbers (NaN or infinite)"
    with pytest.raises(ModelError) as caught:
        check_logits(torch.tensor([[0.0] * len(row), row]))
    assert str(caught.value) == message
    with pytest.raises(ModelError) as caught:
        check_logits(torch.tensor([row]), 4)
    assert str(caught.value) == f"{message} at new token 5"
