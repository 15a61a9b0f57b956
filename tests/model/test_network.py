"""The guarantees of every Network to the decoding loops, for GPT-2 and for transformers models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.gpt2 import save_gpt2
from support.models import load, save_other
from torch import Tensor

from genlm.model.adapter import TransformersModel, load_transformers_model
from genlm.model.gpt2 import GPT2
from genlm.model.network import Network

CONTEXT = 32
PROMPTS = ([5, 9, 200, 31, 7, 77], [42], [8, 8, 250, 3])
NEW = ([11, 12, 13], [101, 3, 60], [9, 9, 9])


@pytest.fixture(scope="module", params=["gpt2", "gpt2 in transformers", "llama", "opt", "gpt_neox", "mistral"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder: Path = tmp_path_factory.mktemp("networks") / request.param
    if request.param == "gpt2":
        gpt2 = load(save_gpt2(folder, n_positions=CONTEXT)).network
        assert isinstance(gpt2, GPT2)
        return gpt2
    if request.param == "gpt2 in transformers":
        save_gpt2(folder, n_positions=CONTEXT)
        return TransformersModel(load_transformers_model(folder, "cpu", torch.float32, allow_pickle=False))
    other = load(save_other(folder, request.param, max_position_embeddings=CONTEXT)).network
    assert isinstance(other, TransformersModel)
    return other


def last_logits(network: Network, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return each row's next-token logits, computed for the row alone and without a cache."""
    return torch.stack([network.logits_of([row], [0])[-1] for row in rows])


def assert_same(logits: Tensor, expected: Tensor) -> None:
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_logits_cover_every_token(network: Network) -> None:
    logits = network.logits_of([PROMPTS[0]], [0])
    assert logits.shape == (len(PROMPTS[0]), network.vocab_size)
    assert_same(logits[2], network.logits_of([PROMPTS[0][:3]], [0])[-1])


def test_the_prompt_matters(network: Network) -> None:
    first, second = (network.logits_of([ids], [0])[-1] for ids in ([5, 9, 200], [7, 9, 200]))
    assert (first - second).abs().max() > 0.01


def test_prefill_gives_the_logits_after_the_prompt(network: Network) -> None:
    logits, _ = network.prefill([PROMPTS[0]], 0)
    assert_same(logits, last_logits(network, [PROMPTS[0]]))


def test_steps_equal_the_whole_sequence_at_once(network: Network) -> None:
    _, cache = network.prefill([PROMPTS[0]], 3)
    ids = list(PROMPTS[0])
    for token in NEW[0]:
        ids.append(token)
        assert_same(cache.step(torch.tensor([token])), last_logits(network, [ids]))


def test_prompts_of_different_lengths_give_the_logits_of_each_alone(network: Network) -> None:
    logits, cache = network.prefill(PROMPTS, 3)
    rows = [list(prompt) for prompt in PROMPTS]
    assert_same(logits, last_logits(network, rows))
    for step in range(3):
        tokens = [new[step] for new in NEW]
        rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
        assert_same(cache.step(torch.tensor(tokens)), last_logits(network, rows))


@pytest.mark.parametrize("prompts", [PROMPTS, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]], ids=["ragged", "even"])
@pytest.mark.parametrize("taken", [[2, 0, 1], [1, 1, 0, 1], [1]], ids=["reordered", "repeated", "dropped"])
def test_selected_rows_continue_their_own_sequences(
    network: Network, prompts: list[list[int]], taken: list[int]
) -> None:
    _, cache = network.prefill(prompts, 4)
    cache.step(torch.tensor([11, 12, 13]))
    chosen = cache.select(torch.tensor(taken))
    rows = [[*prompts[row], 11 + row] for row in taken]
    for token in (20, 90):
        rows = [[*row, token + at] for at, row in enumerate(rows)]
        tokens = torch.tensor([row[-1] for row in rows])
        assert_same(chosen.step(tokens), last_logits(network, rows))


def test_rows_can_be_selected_before_the_first_step(network: Network) -> None:
    _, cache = network.prefill([PROMPTS[0]], 1)
    tokens = [3, 70, 200]
    logits = cache.select(torch.zeros(3, dtype=torch.long)).step(torch.tensor(tokens))
    assert_same(logits, last_logits(network, [[*PROMPTS[0], token] for token in tokens]))


def test_selecting_rows_leaves_the_cache_unchanged(network: Network) -> None:
    _, cache = network.prefill(PROMPTS, 2)
    cache.select(torch.tensor([1, 0])).step(torch.tensor([99, 98]))
    rows = [[*prompt, 50] for prompt in PROMPTS]
    assert_same(cache.step(torch.tensor([50, 50, 50])), last_logits(network, rows))


def test_rows_inserted_into_new_and_used_slots_continue_their_own_sequences(network: Network) -> None:
    _, first = network.prefill(PROMPTS[:2], 2)
    _, second = network.prefill([PROMPTS[2]], 1)
    cache = second.new_empty(2, 8)
    rows = [list(PROMPTS[2]), list(PROMPTS[1])]
    cache.insert(torch.tensor([0]), second, torch.tensor([0]), 8)
    cache.insert(torch.tensor([1]), first, torch.tensor([1]), 8)

    def step(*tokens: int) -> None:
        nonlocal rows
        rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
        assert_same(cache.step(torch.tensor(tokens)), last_logits(network, rows))

    step(7, 70)
    cache.insert(torch.tensor([2, 0]), first, torch.tensor([0, 0]), 8)
    rows = [list(PROMPTS[0]), rows[1], list(PROMPTS[0])]
    step(11, 12, 13)
    cache.insert(torch.tensor([0]), cache, torch.tensor([2]), 0)
    cache.keep_first(2)
    rows = [rows[2], rows[1]]
    step(3, 4)
    cache.keep_first(1)
    rows = rows[:1]
    for token in range(5):
        step(token)
    cache.insert(torch.tensor([1, 0]), second, torch.tensor([0, 0]), 20)
    rows = [list(PROMPTS[2])] * 2
    for token in range(20):
        step(token, 99 + token)
    # What was put somewhere else is as it was.
    assert_same(second.step(torch.tensor([9])), last_logits(network, [[*PROMPTS[2], 9]]))


def test_the_whole_context_can_be_used(network: Network) -> None:
    ids = [token % 250 for token in range(CONTEXT)]
    _, cache = network.prefill([ids[:-1]], 1)
    assert_same(cache.step(torch.tensor(ids[-1:])), last_logits(network, [ids]))


def test_running_past_the_context_is_an_error(network: Network) -> None:
    assert network.context == CONTEXT
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens do not fit: there is room for {CONTEXT}"):
        network.prefill([[1] * (CONTEXT - 1)], 2)
    with pytest.raises(ValueError, match="there is room for"):
        network.logits_of([[1] * (CONTEXT + 1)], [0])


def test_a_step_without_room_is_an_error(network: Network) -> None:
    _, cache = network.prefill([[1, 2]], 1)
    cache.step(torch.tensor([3]))
    with pytest.raises(ValueError, match="4 tokens do not fit: there is room for 3"):
        cache.step(torch.tensor([4]))


def test_steps_with_states_give_the_same_logits_and_their_hidden_states(network: Network) -> None:
    plain, cache = network.prefill([PROMPTS[0]], 2)
    logits, watched, states = network.prefill_with_states(PROMPTS[0], 2, [0, network.layers])
    assert states.shape[:2] == (len(PROMPTS[0]), 2)
    assert_same(logits, plain)
    assert_same(network.logits_from_states(states[-1:, 1]), plain)
    for rows in ([0], [0, 0, 0]):
        ids = torch.tensor(NEW[0][: len(rows)])
        cache, watched = cache.select(torch.tensor(rows)), watched.select(torch.tensor(rows))
        logits, states = watched.step_with_states(ids, [0, network.layers])
        assert states.shape[:2] == (len(rows), 2)
        assert_same(logits, cache.step(ids))
        assert_same(network.logits_from_states(states[:, 1]), logits)
    with pytest.raises(ValueError, match="there is room for"):
        watched.step_with_states(ids, [0])


def test_the_state_of_an_earlier_layer_does_not_depend_on_the_later_ones(network: Network) -> None:
    _, _, both = network.prefill_with_states(PROMPTS[0], 0, [0, 1])
    _, _, first = network.prefill_with_states(PROMPTS[0], 0, [1])
    torch.testing.assert_close(both[:, 1], first[:, 0])
    assert (both[:, 0] - both[:, 1]).abs().max() > 0.01
