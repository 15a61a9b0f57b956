"""Models of other families: loaded safely, run as in transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.driving import genlm
from support.gpt2 import byte_tokenizer, edit_json
from support.models import END, load, save_other, save_tokenizer

from genlm.errors import ModelError
from genlm.model.adapter import TransformersModel

IDS = [5, 9, 200, 31]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_other(tmp_path_factory.mktemp("adapter") / "llama", "llama")


@pytest.fixture
def damaged(llama: Path, tmp_path: Path) -> Path:
    """A copy of the Llama folder for tests that damage it."""
    import shutil

    return Path(shutil.copytree(llama, tmp_path / "damaged"))


def test_another_family_runs_as_in_transformers(llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(llama)
    model = load(llama)
    assert isinstance(model.network, TransformersModel)
    assert model.info.parameters == reference.num_parameters()
    assert (model.network.vocab_size, model.network.context) == (300, 64)
    assert model.eos_ids == {0}
    with torch.inference_mode():
        expected = reference(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(model.network.logits(IDS), expected)


def test_loading_prints_nothing(llama: Path) -> None:
    done = genlm("generate", "Once upon", "-m", str(llama), "-s", "greedy", "--max-new-tokens", "3", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Once upon")


def test_row_bytes_is_an_upper_bound(llama: Path) -> None:
    network = load(llama).network
    _, cache = network.prefill([IDS], 6)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.past.layers)  # type: ignore[attr-defined]
    assert network.row_bytes(10) >= 10 * kept / len(IDS)


def test_a_missing_weight_is_an_error(damaged: Path) -> None:
    weights = load_file(damaged / "model.safetensors")
    gone = {"model.norm.weight", "model.layers.1.mlp.up_proj.weight"}
    kept = {name: tensor for name, tensor in weights.items() if name not in gone}
    save_file(kept, damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights lack model\.layers\.1\.mlp\.up_proj\.weight and 1 more"):
        load(damaged)


def more_layers(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=3)


def wider(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=65)


def wrong_type(folder: Path) -> None:
    edit_json(folder / "config.json", hidden_size="wide")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def unknown_type(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="gpt-of-tomorrow")


def no_type(folder: Path) -> None:
    edit_json(folder / "config.json", model_type=None, architectures=None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (more_layers, r"the weights lack model\.layers\.2\."),
        (wider, r"mlp\.down_proj\.weight has shape \(32, 64\), but config.json needs \(32, 65\)"),
        (wrong_type, r"transformers cannot load .*hidden_size"),
        (truncate, r"model\.safetensors: damaged or incomplete"),
        (unknown_type, "transformers cannot load .*gpt-of-tomorrow"),
        (no_type, "transformers cannot load"),
    ],
)
def test_a_folder_that_transformers_cannot_load(damage: Callable[[Path], None], message: str, damaged: Path) -> None:
    damage(damaged)
    with pytest.raises(ModelError, match=message) as caught:
        load(damaged)
    assert "\n" not in str(caught.value)


def test_pickled_weights_load_if_allowed(llama: Path, damaged: Path) -> None:
    torch.save(load_file(damaged / "model.safetensors"), damaged / "pytorch_model.bin")
    (damaged / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has only pickled weights"):
        load(damaged)
    logits = load(damaged, allow_pickle=True).network.logits(IDS)
    torch.testing.assert_close(logits, load(llama).network.logits(IDS))


class Malicious:
    """Write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


def test_code_in_pickled_weights_never_runs(damaged: Path, tmp_path: Path) -> None:
    (damaged / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Malicious(tmp_path / "trace")}, damaged / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin: damaged, or contains more than weights"):
        load(damaged, allow_pickle=True)
    assert not (tmp_path / "trace").exists()


def test_code_in_the_folder_never_runs(damaged: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"from pathlib import Path\nPath({str(trace)!r}).write_text('run')\n"
    for module in ("configuration_mine", "modeling_mine", "tokenization_mine"):
        (damaged / f"{module}.py").write_text(code)
    edit_json(
        damaged / "config.json",
        model_type="mine",
        architectures=["MineForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_mine.MineConfig",
            "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
        },
    )
    with pytest.raises(ModelError, match="the model needs its own code, which genlm never runs"):
        load(damaged)
    assert not trace.exists()


@pytest.mark.parametrize("change", [{"attn_implementation": "someone/kernel"}, {"return_dict": False}])
def test_a_folder_cannot_choose_how_its_model_runs(change: dict[str, Any], llama: Path, damaged: Path) -> None:
    edit_json(damaged / "config.json", **change)
    network = load(damaged).network
    assert isinstance(network, TransformersModel)
    assert network.model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(network.prefill([IDS], 0)[0][0], load(llama).network.logits(IDS)[-1])


def test_code_of_a_tokenizer_never_runs(tmp_path: Path, damaged: Path) -> None:
    trace = tmp_path / "trace"
    (damaged / "tokenization_mine.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).write_text('run')\n")
    (damaged / "tokenizer.json").rename(damaged / "tokenizer.model")
    settings = {"tokenizer_class": "MineTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", None]}}
    (damaged / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="transformers cannot load the tokenizer of"):
        load(damaged)
    assert not trace.exists()


def test_a_model_that_is_not_causal(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    folder = tmp_path / "t5"
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder, byte_tokenizer(), eos_token=END)
    with pytest.raises(ModelError, match=r"transformers cannot load .*T5"):
        load(folder)


def test_a_model_without_keys_and_values_is_an_error(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    folder = tmp_path / "mamba"
    config = MambaConfig(vocab_size=300, hidden_size=16, state_size=4, num_hidden_layers=1, expand=2)
    MambaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, byte_tokenizer(), eos_token=END)
    network = load(folder).network
    assert network.context is None
    with pytest.raises(ModelError, match="MambaForCausalLM has no cache of keys and values, which genlm needs"):
        network.prefill([IDS], 1)
