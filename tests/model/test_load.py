"""Loading a model folder: what is reported, and what is wrong with it in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import edit_json, save_gpt2
from support.models import load, save_three_words

from genlm.errors import ModelError
from genlm.model.adapter import TransformersModel
from genlm.model.gpt2 import GPT2
from genlm.model.load import choose_device, choose_dtype

IDS = [5, 9, 200, 31]


def test_the_info_of_a_model(tiny: Path) -> None:
    model = load(tiny)
    blocks = 2 * (2 * 32 + 2 * 32 + 32 * 96 + 96 + 32 * 32 + 32 + 2 * 32 * 128 + 128 + 32)
    assert model.info.parameters == 300 * 32 + 64 * 32 + blocks + 2 * 32
    assert (model.info.name, model.info.source, model.info.revision) == (str(tiny), "local", None)
    assert (model.info.dtype, model.info.device) == ("float32", "cpu")
    assert model.load_s > 0


def test_an_untied_head_counts_as_parameters(variant: Callable[[str], Path]) -> None:
    assert load(variant("untied")).info.parameters - load(variant("plain")).info.parameters == 300 * 32


def test_a_missing_config(copied: Path) -> None:
    (copied / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json in .*copied") as caught:
        load(copied)
    assert caught.value.hint == "a model folder contains config.json, weights and a tokenizer"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"{", "not valid JSON: "),
        (b"", "not valid JSON: "),
        (b"\xff\xfe{", "not valid JSON: "),
        (b'{"n_embd": ' + b"[" * 100_000, "not valid JSON: "),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
    ids=["cut short", "empty", "not UTF-8", "too deep", "a list", "null"],
)
def test_a_config_that_is_not_a_json_object(contents: bytes, message: str, copied: Path) -> None:
    (copied / "config.json").write_bytes(contents)
    with pytest.raises(ModelError, match=rf"config\.json: {message}"):
        load(copied)


def test_a_config_that_cannot_be_read(copied: Path) -> None:
    (copied / "config.json").unlink()
    (copied / "config.json").mkdir()
    with pytest.raises(ModelError, match=r"cannot read .*config\.json: Is a directory"):
        load(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": "32"}, r"n_embd must be a positive integer, not '32'"),
        ({"n_head": 5}, r"n_embd=32 cannot be divided among n_head=5 heads"),
        ({"n_layer": -1}, r"n_layer must be a positive integer, not -1"),
    ],
)
def test_a_config_with_impossible_values(change: dict[str, Any], message: str, copied: Path) -> None:
    edit_json(copied / "config.json", **change)
    with pytest.raises(ModelError, match=rf"copied/config\.json: {message}"):
        load(copied)


def test_a_model_with_an_unknown_activation_runs_in_transformers(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    folder = save_gpt2(tmp_path / "laplace", activation_function="laplace")
    model = load(folder)
    assert isinstance(model.network, TransformersModel)
    with torch.inference_mode():
        expected = GPT2LMHeadModel.from_pretrained(folder)(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(model.network.logits_of([IDS], [0]), expected)


def test_a_vocabulary_of_three_words(tmp_path: Path) -> None:
    model = load(save_three_words(tmp_path / "three"))
    assert isinstance(model.network, GPT2)
    assert model.network.vocab_size == 3
    assert model.tokenizer.encode("wolf king") == [1, 2]
    assert (model.eos_ids, model.start_id) == (frozenset(), None)


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": 7}, {}, {7}),
        ({"eos_token_id": 7}, {"eos_token_id": [3, 5]}, {3, 5}),
        ({"eos_token_id": [7, 8]}, {"temperature": 0.5}, {7, 8}),
        ({"eos_token_id": 50256}, {}, set()),
        ({"eos_token_id": -1}, {}, set()),
        ({}, {}, set()),
        ({"eos_token_id": 7}, None, {7}),
    ],
    ids=["config", "list", "config's list", "beyond", "negative", "absent", "no generation_config.json"],
)
def test_the_tokens_that_end_a_text(
    config: dict[str, Any], generation: dict[str, Any] | None, ends: set[int], copied: Path
) -> None:
    edit_json(copied / "config.json", **({"eos_token_id": None} | config))
    (copied / "generation_config.json").unlink()
    if generation is not None:
        (copied / "generation_config.json").write_text(json.dumps(generation))
    assert load(copied).eos_ids == ends


def test_a_model_without_end_of_text(variant: Callable[[str], Path]) -> None:
    assert load(variant("no-end")).eos_ids == frozenset()


@pytest.mark.parametrize(
    ("config", "start"),
    [
        ({"bos_token_id": 9, "eos_token_id": 7}, 9),
        ({"bos_token_id": None, "eos_token_id": 7}, 7),
        ({"bos_token_id": 300, "eos_token_id": None}, 0),
    ],
    ids=["bos", "eos", "the tokenizer's"],
)
def test_the_token_that_a_text_starts_from(config: dict[str, Any], start: int, copied: Path) -> None:
    edit_json(copied / "config.json", **config)
    assert load(copied).start_id == start


def test_a_device_can_be_chosen() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cuda", "mps", "cpu")


def test_a_missing_device_is_an_error(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="torch finds no cuda device") as caught:
        load(tiny, device="cuda")
    assert caught.value.code == "device-unavailable"


def test_auto_picks_cuda_if_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


def test_auto_picks_float32_on_the_cpu_and_the_checkpoints_own_dtype_elsewhere() -> None:
    assert choose_dtype("auto", "cpu", {"dtype": "bfloat16"}) == torch.float32
    assert choose_dtype("auto", "cuda", {"dtype": "bfloat16"}) == torch.bfloat16
    assert choose_dtype("auto", "cuda", {"torch_dtype": "float16"}) == torch.float16
    assert choose_dtype("auto", "cuda", {}) == torch.float32
    assert choose_dtype("bfloat16", "cpu", {"dtype": "float16"}) == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_to_float32(dtype: str, tiny: Path) -> None:
    model = load(tiny, dtype=dtype)
    assert model.info.dtype == dtype
    logits, cache = model.network.prefill([IDS, [1, 2]], 1)
    assert logits.dtype == torch.float32
    full = load(tiny).network
    torch.testing.assert_close(logits[0], full.logits_of([IDS], [0])[-1], rtol=0.1, atol=0.1)
    torch.testing.assert_close(
        cache.step(torch.tensor([8, 9]))[1], full.logits_of([[1, 2, 9]], [0])[-1], rtol=0.1, atol=0.1
    )
