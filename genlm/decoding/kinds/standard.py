"""The declarations of most kinds, in the order in which `genlm strategies` lists them.

In a formula, p is the next token's distribution after the earlier processors, and H its entropy in nats.
"""

from __future__ import annotations

from collections.abc import Mapping

from genlm.decoding.declaration import Choice, Field, Kind, Number, Processor, Value
from genlm.decoding.kinds.shared import DIVIDE_BY_TEMPERATURE, EXCLUDE_TOP_CHOICES, PENALTIES, TRUNCATION

NUM_BEAMS = Field(
    "num_beams",
    4,
    Number(int, 2),
    "Number of sequences kept at each step",
    flag="--num-beams N",
    in_transformers=True,
)
LENGTH_PENALTY = Field(
    "length_penalty",
    1.0,
    # Beyond 50, a long text's length to that power exceeds every float.
    Number(float, -50, 50),
    "Above 0 favours longer texts, below 0 shorter ones",
    flag="--length-penalty X",
    in_transformers=True,
)
EARLY_STOPPING: Field[bool | str] = Field(
    "early_stopping",
    False,
    Choice({"false": False, "true": True, "never": "never"}),
    "When to stop: true once num_beams sequences have ended, false when a better one is unlikely, never when it is "
    "impossible",
    in_transformers=True,
)
BEAM_FIELDS = (NUM_BEAMS, LENGTH_PENALTY, EARLY_STOPPING)
NUM_BEAM_GROUPS = Field("num_beam_groups", 2, Number(int, 1), "Number of groups that the beams are divided into")
DIVERSITY_PENALTY = Field(
    "diversity_penalty",
    0.5,
    Number(float, 0),
    "Subtract this from a token's score for each beam of an earlier group that chose it",
)
PENALTY_ALPHA = Field(
    "penalty_alpha", 0.6, Number(float, 0, 1), "Weight of being unlike the tokens so far; 0 is greedy"
)
DOLA_LAYERS = Field(
    "dola_layers", "low", Choice({"low": "low", "high": "high"}), "Which earlier layers to contrast with: low or high"
)

BEAM_LOOP = "genlm.decoding.beam:beam_search"


def _groups_divide_beams(fields: Mapping[str, Value]) -> str | None:
    beams, groups = NUM_BEAMS.of(fields), NUM_BEAM_GROUPS.of(fields)
    return f"num_beam_groups={groups} must divide num_beams={beams}" if beams % groups else None


def _truncating(
    name: str, main: Processor, summary: str, formula: str, paper: str, *, rank: int = 1, in_transformers: bool = True
) -> Kind:
    """Return a kind that draws from what one truncation keeps; every other truncation may be added to it."""
    (field,) = main.fields
    others = [each for each in TRUNCATION.values() if each.implementation != main.implementation]
    return Kind(
        name,
        summary,
        formula,
        (main, *others, DIVIDE_BY_TEMPERATURE, EXCLUDE_TOP_CHOICES, *PENALTIES),
        samples=True,
        paper=paper,
        main=field.name,
        in_transformers=in_transformers,
        selected_by=(field.name,) if field.flag else (),
        selection_rank=rank,
    )


KINDS = [
    Kind(
        name="greedy",
        summary="the most likely token at every step",
        formula="next token = argmax p(v)",
        parameters=PENALTIES,
        samples=False,
        in_transformers=True,
    ),
    Kind(
        name="beam",
        summary="the num_beams most likely sequences side by side; the best of them at the end",
        formula="of all sequences y that num_beams beams find, the one with the highest\n"
        "sum over t of log p(y_t | y_<t) / |y| ^ length_penalty",
        paper="Lowerre 1976; length penalty: Wu et al. 2016, arXiv:1609.08144",
        parameters=(*BEAM_FIELDS, *PENALTIES),
        samples=False,
        main="num_beams",
        loop=BEAM_LOOP,
        on_logprobs=True,
        also_depends_on="the scores of whole sequences",
        in_transformers=True,
        selected_by=tuple(field.name for field in BEAM_FIELDS),
    ),
    Kind(
        name="sample",
        summary="a draw from the whole distribution",
        formula="draw v with probability p(v) ~ exp(logit(v) / temperature)",
        parameters=(DIVIDE_BY_TEMPERATURE, EXCLUDE_TOP_CHOICES, *PENALTIES),
        samples=True,
        in_transformers=True,
    ),
    _truncating(
        name="top-k",
        main=TRUNCATION["top_k"].with_default(50, low=1),
        summary="a draw from the top_k most likely tokens",
        formula="keep v if p(v) >= the top_k-th largest p",
        paper="Fan et al. 2018, arXiv:1805.04833",
        rank=3,
    ),
    _truncating(
        name="top-p",
        main=TRUNCATION["top_p"].with_default(0.9),
        summary="a draw from the smallest set of tokens with a total probability of top_p",
        formula="keep the fewest tokens V, most likely first, with\nsum over V of p(v) >= top_p",
        paper="Holtzman et al. 2020, arXiv:1904.09751",
        rank=2,
    ),
    _truncating(
        name="min-p",
        main=TRUNCATION["min_p"].with_default(0.05, low_open=True),
        summary="a draw from the tokens at least min_p times as likely as the most likely one",
        formula="keep v if p(v) >= min_p * max p",
        paper="Nguyen et al. 2024, arXiv:2407.01082",
    ),
    _truncating(
        name="typical",
        main=TRUNCATION["typical_p"].with_default(0.95),
        summary="a draw from the tokens whose surprise is closest to the entropy, typical_p in total probability",
        formula="keep the fewest tokens V, smallest |-log p(v) - H| first, with\nsum over V of p(v) >= typical_p",
        paper="Meister et al. 2022, arXiv:2202.00666",
    ),
    _truncating(
        name="epsilon",
        main=TRUNCATION["epsilon_cutoff"].with_default(0.0006, low_open=True),
        summary="a draw from the tokens with a probability of at least epsilon_cutoff",
        formula="keep v if p(v) >= epsilon_cutoff, and always the most likely token",
        paper="Hewitt et al. 2022, arXiv:2210.15191",
    ),
    _truncating(
        name="eta",
        main=TRUNCATION["eta_cutoff"].with_default(0.002, low_open=True),
        summary="like epsilon, with a cutoff that falls when the distribution is flat",
        formula="keep v if p(v) >= min(eta_cutoff, sqrt(eta_cutoff) * exp(-H)), and always the\nmost likely token",
        paper="Hewitt et al. 2022, arXiv:2210.15191",
    ),
    _truncating(
        name="top-h",
        main=TRUNCATION["top_h"].with_default(0.4, low_open=True),
        summary="a draw from the most likely tokens that account for a share top_h of the entropy",
        formula="keep the most tokens V, most likely first, of the 100 most likely, with\n"
        "sum over V of -p(v) log p(v) <= top_h * H, and always the most likely token",
        paper="Potraghloo et al. 2025, arXiv:2509.02510",
    ),
    _truncating(
        name="top-n-sigma",
        main=TRUNCATION["top_n_sigma"].with_default(1.0, low_open=True),
        summary="a draw from the tokens within top_n_sigma standard deviations of the largest logit",
        formula="keep v if logit(v) >= max logit - top_n_sigma * (standard deviation of the logits)",
        paper="Tang et al. 2024, arXiv:2411.07641",
        in_transformers=False,
    ),
    Kind(
        name="diverse-beam",
        summary="beam search in num_beam_groups groups, each of which avoids the tokens that earlier groups chose",
        formula="like beam, in num_beam_groups groups one after the other; group g ranks by\n"
        "log p(v) - diversity_penalty * (number of beams of earlier groups that chose v)",
        paper="Vijayakumar et al. 2016, arXiv:1610.02424",
        parameters=(*BEAM_FIELDS, NUM_BEAM_GROUPS, DIVERSITY_PENALTY, *PENALTIES),
        samples=False,
        main="num_beams",
        rules=(_groups_divide_beams,),
        loop=BEAM_LOOP,
        on_logprobs=True,
        also_depends_on="the scores of whole sequences and the tokens that earlier groups chose",
    ),
    Kind(
        name="beam-sample",
        summary="beam search whose continuations are drawn without replacement",
        formula="like beam, but each step draws its candidates without replacement, each with a\n"
        "probability proportional to exp(score of its sequence), instead of taking the best",
        # Scores of beams are compared with each other, and a lower temperature would only overflow them.
        parameters=(
            *BEAM_FIELDS,
            DIVIDE_BY_TEMPERATURE.with_default(1.0, low=0.001, low_open=False),
            *(TRUNCATION["top_k"], TRUNCATION["top_p"]),
            *PENALTIES,
        ),
        samples=True,
        main="num_beams",
        zero_temperature_kind="beam",
        loop=BEAM_LOOP,
        on_logprobs=True,
        also_depends_on="the scores of whole sequences",
        in_transformers=True,
    ),
    Kind(
        name="contrastive",
        summary="of the top_k most likely tokens, one that is likely and whose hidden state is unlike earlier ones",
        formula="of the top_k most likely tokens V, the next token = argmax over V of\n"
        "(1 - penalty_alpha) * p(v) - penalty_alpha * max over j of cos(h(v), h(x_j)),\n"
        "h the last hidden state, x_j the tokens so far",
        paper="Su et al. 2022, arXiv:2202.06417",
        parameters=(PENALTY_ALPHA, TRUNCATION["top_k"].with_default(4, low=1), *PENALTIES),
        samples=False,
        main="penalty_alpha",
        loop="genlm.decoding.contrastive:contrastive_search",
        reads_hidden_states=True,
        also_depends_on="the hidden state that each candidate would have",
    ),
    Kind(
        name="dola",
        summary="the token that the last layer favours most compared with the earlier layer that differs most from it",
        formula="next token = argmax of log softmax(last layer) - log softmax(layer m), m the\n"
        "early layer whose distribution is farthest from the last one's, among the\n"
        "tokens that are likely enough by the last layer",
        paper="Chuang et al. 2023, arXiv:2309.03883",
        parameters=(DOLA_LAYERS, *PENALTIES),
        samples=False,
        main="dola_layers",
        loop="genlm.decoding.dola:dola",
        reads_hidden_states=True,
        also_depends_on="earlier layers; its logits processors apply to the contrast with them",
    ),
]
