"""Weights: safetensors and pickled files of all ages, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.driving import call
from support.gpt2 import edit_json
from support.models import load, save_other
from torch import Tensor

from genlm.errors import ModelError
from genlm.model.files import INDEX, PICKLED, SINGLE
from genlm.model.gpt2 import GPT2, HEAD
from genlm.model.memory import peak_bytes, reset_peak

IDS = [5, 9, 200, 31]


def logits_of(folder: Path, **options: Any) -> Tensor:
    return load(folder, **options).network.logits_of([IDS], [0])


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Apply `change` to a folder's weights."""
    save_file(change(load_file(folder / SINGLE)), folder / SINGLE, {"format": "pt"})
    return folder


def pickle_weights(folder: Path, **options: Any) -> Path:
    """Turn a folder's weights into a pickled file."""
    weights = load_file(folder / SINGLE)
    torch.save(weights | {HEAD: weights["transformer.wte.weight"]}, folder / PICKLED, **options)
    (folder / SINGLE).unlink()
    return folder


def shard(folder: Path) -> Path:
    """Split a folder's weights into two files with an index."""
    weights = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(weights)
    places = {name: f"model-0000{1 + (at % 2)}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_old_checkpoints_without_prefix_and_with_masks_load_the_same(tiny: Path, copied: Path) -> None:
    def as_in_2019(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        mask = torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64)
        return old | {"h.0.attn.bias": mask, "h.0.attn.masked_bias": torch.tensor(-1e4)}

    assert logits_of(rewrite(copied, as_in_2019)).equal(logits_of(tiny))


def test_a_tied_head_that_the_file_repeats_counts_once(tiny: Path, copied: Path) -> None:
    rewrite(copied, lambda weights: weights | {HEAD: weights["transformer.wte.weight"].clone()})
    assert load(copied).info.parameters == load(tiny).info.parameters
    assert logits_of(copied).equal(logits_of(tiny))


def test_a_different_head_in_the_file_is_used_even_if_the_config_ties_it(tiny: Path, copied: Path) -> None:
    from transformers import GPT2LMHeadModel

    rewrite(copied, lambda weights: weights | {HEAD: weights["transformer.wte.weight"].flip(0).contiguous()})
    with torch.inference_mode():
        expected = GPT2LMHeadModel.from_pretrained(copied)(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(logits_of(copied), expected, rtol=2e-5, atol=2e-5)
    assert not logits_of(copied).allclose(logits_of(tiny))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_becomes_float32_on_the_cpu(dtype: torch.dtype, copied: Path) -> None:
    rewrite(copied, lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()})
    half = logits_of(copied)
    rewrite(copied, lambda weights: {name: tensor.float() for name, tensor in weights.items()})
    assert load(copied).info.dtype == "float32"
    assert half.equal(logits_of(copied))


def test_weights_in_several_files_load_the_same(tiny: Path, copied: Path) -> None:
    assert logits_of(shard(copied)).equal(logits_of(tiny))


def test_an_index_that_names_a_missing_file(copied: Path) -> None:
    (shard(copied) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names 'model-00002-of-00002.safetensors', which does not exist"):
        load(copied)


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "/etc/elsewhere.safetensors", "deeper/x.safetensors"])
def test_an_index_that_names_a_file_outside_the_folder(place: str, copied: Path) -> None:
    shard(copied)
    (copied / INDEX).write_text(json.dumps({"weight_map": {"transformer.wte.weight": place}}))
    with pytest.raises(ModelError, match=f"names '{place}', which is outside the model folder"):
        load(copied)


@pytest.mark.parametrize("contents", ["{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_an_index_without_a_weight_map(contents: str, copied: Path) -> None:
    (shard(copied) / INDEX).write_text(contents)
    with pytest.raises(ModelError, match="not an index of weights: it has no weight_map"):
        load(copied)


def test_a_folder_without_weights(copied: Path) -> None:
    (copied / SINGLE).unlink()
    with pytest.raises(ModelError, match=r"no weights in .*copied") as caught:
        load(copied)
    assert caught.value.hint == "a model folder needs model.safetensors"


@pytest.mark.parametrize("kept", [0, 5, 2000, -10])
def test_truncated_safetensors(kept: int, copied: Path) -> None:
    contents = (copied / SINGLE).read_bytes()
    (copied / SINGLE).write_bytes(contents[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged or incomplete: ") as caught:
        load(copied)
    assert caught.value.hint == "copy or download the file again"


def test_a_safetensors_file_with_other_contents(copied: Path) -> None:
    (copied / SINGLE).write_bytes(b"<html>No such page</html>" * 100)
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged or incomplete: "):
        load(copied)


def test_a_folder_instead_of_the_weights_file(copied: Path) -> None:
    (copied / SINGLE).unlink()
    (copied / SINGLE).mkdir()
    with pytest.raises(ModelError, match="no weights in"):
        load(copied)


def test_a_weight_with_the_wrong_shape(copied: Path) -> None:
    edit_json(copied / "config.json", n_positions=65)
    with pytest.raises(ModelError, match=r"wpe.weight has shape \(64, 32\), but config.json needs \(65, 32\)"):
        load(copied)


def test_a_missing_weight(copied: Path) -> None:
    gone = {"transformer.ln_f.weight", "transformer.ln_f.bias"}
    rewrite(copied, lambda weights: {name: tensor for name, tensor in weights.items() if name not in gone})
    with pytest.raises(ModelError, match=r"the weights lack ln_f.weight and 1 more, which config.json needs"):
        load(copied)


def test_a_missing_untied_head(copied: Path) -> None:
    edit_json(copied / "config.json", tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"the weights lack lm_head.weight, which config.json needs"):
        load(copied)


def test_fewer_layers_in_the_config_than_in_the_file(copied: Path) -> None:
    edit_json(copied / "config.json", n_layer=1)
    with pytest.raises(ModelError, match=r"contains h\.1\.\S+, which does not fit config.json"):
        load(copied)


def test_pickled_weights_are_an_error(copied: Path) -> None:
    with pytest.raises(ModelError, match=r"has only pickled weights \(pytorch_model.bin\)") as caught:
        load(pickle_weights(copied))
    assert caught.value.code == "pickled-weights"


@pytest.mark.parametrize("zipped", [True, False], ids=["torch-1.6", "before"])
def test_pickled_weights_load_if_allowed(zipped: bool, tiny: Path, copied: Path) -> None:
    pickle_weights(copied, _use_new_zipfile_serialization=zipped)
    assert logits_of(copied, allow_pickle=True).equal(logits_of(tiny))


def test_safetensors_are_preferred_to_pickled_weights(tiny: Path, copied: Path) -> None:
    (copied / PICKLED).write_bytes(b"never read")
    assert logits_of(copied, allow_pickle=True).equal(logits_of(tiny))


class Malicious:
    """Write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize("zipped", [True, False], ids=["torch-1.6", "before"])
def test_code_in_pickled_weights_never_runs(zipped: bool, copied: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (copied / SINGLE).unlink()
    torch.save({"transformer.wte.weight": Malicious(trace)}, copied / PICKLED, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"pytorch_model.bin: damaged, or contains more than weights"):
        load(copied, allow_pickle=True)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"", "damaged"), (b"garbage" * 50, "damaged"), (b"PK\x03\x04 not a zip file", "damaged")],
    ids=["empty", "garbage", "half a zip"],
)
def test_damaged_pickled_weights(contents: bytes, message: str, copied: Path) -> None:
    (copied / SINGLE).unlink()
    (copied / PICKLED).write_bytes(contents)
    with pytest.raises(ModelError, match=f"pytorch_model.bin: {message}"):
        load(copied, allow_pickle=True)


@pytest.mark.parametrize("contents", [[1, 2], {"transformer.wte.weight": 3}], ids=["a list", "numbers"])
def test_a_pickled_file_without_weights(contents: object, copied: Path) -> None:
    (copied / SINGLE).unlink()
    torch.save(contents, copied / PICKLED)
    with pytest.raises(ModelError, match=r"pytorch_model.bin: not a file of named weights"):
        load(copied, allow_pickle=True)


def test_float32_weights_stay_in_the_file(tiny: Path) -> None:
    network = load(tiny).network
    assert isinstance(network, GPT2)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what is mapped where")
    lines = [line for line in maps.read_text().splitlines() if line.endswith(str(tiny / SINGLE))]
    ranges = [line.split()[0].split("-") for line in lines]
    spans = [(int(start, 16), int(end, 16)) for start, end in ranges]
    for name, parameter in network.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in spans), name


# Sizes in the config that the weights do not have. Each is refused before anything of that size is built.

HUGE = [10**6, 10**9, 2**63]


@contextmanager
def at_most(size: float) -> Iterator[None]:
    """Check that no more than `size` bytes of memory are taken inside."""
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    yield
    assert (peak_bytes(cpu) or 0) - (before or 0) < size


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("name", ["n_layer", "n_embd", "vocab_size", "n_positions", "n_inner", "n_head"])
@pytest.mark.parametrize("engine", ["genlm", "transformers"])
def test_a_size_far_beyond_the_weights(name: str, size: int, engine: str, copied: Path) -> None:
    edit_json(copied / "config.json", **{name: size})
    with at_most(100e6), pytest.raises(ModelError) as caught:
        load(copied, engine=engine)
    assert "\n" not in str(caught.value)
    assert str(size) in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "opt", "mistral"])
@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("name", ["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "ffn_dim"])
def test_a_size_of_another_model_far_beyond_the_weights(family: str, name: str, size: int, tmp_path: Path) -> None:
    folder = save_other(tmp_path / family, family)
    edit_json(folder / "config.json", **{name: size})
    with (
        at_most(100e6),
        pytest.raises(ModelError, match=rf"config\.json: {name} is {size}, but the weights allow at most \d+$"),
    ):
        load(folder)


def test_a_base_model_with_a_size_far_beyond_its_weights(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The king had three sons. " * 200)
    edit_json(copied / "config.json", n_layer=10**9)
    done = call("train", tmp_path / "text.txt", "--base", copied, "-o", tmp_path / "new")
    assert done.code == 1
    assert "n_layer is 1000000000, but the weights allow at most" in done.error()


@pytest.mark.parametrize("value", ["-1", "NaN", "1e999", "1" + "0" * 400])
def test_a_layer_norm_epsilon_that_is_not_a_number(value: str, copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text()) | {"layer_norm_epsilon": "here"}
    (copied / "config.json").write_text(json.dumps(config).replace('"here"', value))
    with pytest.raises(ModelError, match=r"layer_norm_epsilon must be a number at least 0, not "):
        load(copied)
