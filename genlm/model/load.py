"""From a model folder to a running model."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import ModelError, UsageError
from genlm.model.files import read_json, read_shapes, read_tensors, weight_files
from genlm.model.info import ENGINES, DeviceChoice, DtypeChoice, Engine, ModelInfo
from genlm.model.memory import keep_freed_memory
from genlm.model.network import Network
from genlm.model.source import ModelFolder
from genlm.model.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from genlm.model.gpt2 import Config

# Constants that old GPT-2 checkpoints store beside the weights.
MASKS = (".attn.bias", ".attn.masked_bias")
# The names of GPT-2's weights begin with this, but not in the oldest checkpoints.
PREFIX = "transformer."
# transformers' default for a GPT-2 config without an eos_token_id.
END_OF_TEXT_ID = 50256


@dataclass(frozen=True)
class Model:
    """A loaded model with its tokenizer, and the tokens that end and start a text."""

    info: ModelInfo
    network: Network
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    start_id: int | None
    load_s: float
    engine: Engine = "genlm"


def load_model(
    folder: ModelFolder,
    *,
    device: DeviceChoice = "auto",
    dtype: DtypeChoice = "auto",
    allow_pickle: bool = False,
    engine: Engine = "genlm",
) -> Model:
    """Load a model.

    `auto` picks the best device, and float32 on the CPU or the checkpoint's own dtype elsewhere. With the engine
    transformers, every model runs as a transformers model, GPT-2 too.

    Raises:
        UsageError: an unknown engine, or int8 with the engine transformers.
        ModelError: files are missing, damaged or inconsistent, or the device does not exist.
    """
    from genlm.model import gpt2

    started = time.perf_counter()
    if engine not in ENGINES:
        raise UsageError(f"no engine {engine!r}", hint="choose one of " + ", ".join(ENGINES))
    if engine == "transformers" and dtype == "int8":
        raise UsageError("the engine transformers does not support int8", code="int8-needs-genlm")
    config = read_json(folder.path / "config.json")
    chosen_device = choose_device(device)
    if chosen_device == "cpu":
        keep_freed_memory()
    chosen_dtype = choose_dtype(dtype, chosen_device, config)
    in_int8 = dtype == "int8"
    tokenizer = load_tokenizer(folder.path, config.get("model_type"))
    files = weight_files(folder.path, allow_pickle=allow_pickle)
    is_gpt2 = gpt2.supports(config)
    if in_int8 and (chosen_device != "cpu" or not is_gpt2):
        raise ModelError("int8 works for GPT-2 models on the CPU only", code="int8-unsupported")
    network: Network
    if engine == "genlm" and is_gpt2:
        network, parameters = _load_gpt2(config, folder.path, files, chosen_dtype, chosen_device, in_int8=in_int8)
    else:
        from genlm.model.adapter import TransformersModel, load_transformers_model

        other = load_transformers_model(folder.path, chosen_device, chosen_dtype, allow_pickle=allow_pickle)
        network, parameters = TransformersModel(other), other.num_parameters()
    name = "int8" if in_int8 else str(chosen_dtype).removeprefix("torch.")
    return Model(
        ModelInfo(folder.name, folder.source, folder.revision, parameters, name, chosen_device, folder.fingerprint),
        network,
        tokenizer,
        eos_ids=_eos_ids(folder.path, config, network.vocab_size),
        start_id=_start_id(config, tokenizer, network.vocab_size),
        load_s=time.perf_counter() - started,
        engine=engine,
    )


def choose_device(device: DeviceChoice) -> str:
    """Return the device to run on: the given one, or the best available.

    Raises:
        ModelError: torch does not find the device.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_available in available.items() if is_available)
    if not available[device]:
        raise ModelError(f"torch finds no {device} device", code="device-unavailable")
    return device


def choose_dtype(dtype: DtypeChoice, device: str, config: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype of weights and activations."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype in known:
        return known[dtype]
    # For int8 too: it is quantized from float32, and what is not a matrix product stays float32.
    if device == "cpu":
        return torch.float32
    own = config.get("dtype") or config.get("torch_dtype")
    return known.get(str(own), torch.float32)


def _load_gpt2(
    config: Mapping[str, Any], path: Path, files: list[Path], dtype: torch.dtype, device: str, *, in_int8: bool
) -> tuple[Network, int]:
    """Return a GPT-2 and its number of parameters."""
    import torch

    from genlm.model.gpt2 import GPT2, HEAD, Config
    from genlm.model.graph import CudaCapture

    try:
        gpt2_config = Config.of(config)
    except ValueError as error:
        raise ModelError(f"{path / 'config.json'}: {error}") from error
    _check_sizes(gpt2_config, files)
    # On the meta device the model takes no memory until it is given its weights.
    with torch.device("meta"):
        model = GPT2(gpt2_config, CudaCapture() if device == "cuda" else None)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {HEAD} if gpt2_config.tie_word_embeddings else set()
    weights = read_weights(files, shapes, optional, dtype, device)
    # Old checkpoints store a tied head twice. A different one is used, whatever the config says.
    if optional & weights.keys() and weights[HEAD].equal(weights["wte.weight"]):
        del weights[HEAD]
    model.load_weights(weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if in_int8:
        from genlm.model.quantize import quantize_gpt2

        # Otherwise no float weight would be freed before all are quantized.
        del weights
        quantize_gpt2(model)
    return model, parameters


def read_weights(
    files: list[Path],
    shapes: Mapping[str, tuple[int, ...]],
    optional: Collection[str],
    dtype: torch.dtype,
    device: str,
) -> dict[str, Tensor]:
    """Return GPT-2's weights by their names in `shapes`; in the files they may have the prefix `transformer.`.

    Anything else, such as the masks in old checkpoints, is not read. On the CPU a weight that already has the dtype
    stays memory-mapped and takes no additional memory.

    Raises:
        ModelError: a file is damaged, a weight is missing or has another shape, or there are more layers than in
            `shapes`.
    """
    weights: dict[str, Tensor] = {}
    for file in files:
        for full_name, tensor in read_tensors(file).items():
            name = full_name.removeprefix(PREFIX)
            if name in shapes:
                _check_shape(file, name, tuple(tensor.shape), shapes[name])
                weights[name] = tensor.to(device=device, dtype=dtype)
            elif name.startswith("h.") and not name.endswith(MASKS):
                raise ModelError(
                    f"{file} contains {name}, which does not fit config.json", hint="are both from the same model?"
                )
    missing = [name for name in shapes if name not in weights and name not in optional]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{files[0]}: the weights lack {missing[0]}{more}, which config.json needs")
    return weights


def _check_sizes(config: Config, files: list[Path]) -> None:
    """Raise ModelError if the weights do not have the sizes in the config, before anything of these sizes is built."""
    found = {name.removeprefix(PREFIX): shape for file in files for name, shape in read_shapes(file).items()}
    layers = len({name.split(".")[1] for name in found if name.startswith("h.")})
    if config.n_layer > layers:
        raise ModelError(f"{files[0]}: the weights have {layers} layers, but config.json needs {config.n_layer}")
    expected = {
        "wte.weight": (config.vocab_size, config.n_embd),
        "wpe.weight": (config.n_positions, config.n_embd),
        "h.0.mlp.c_fc.weight": (config.n_embd, config.inner),
    }
    for name, shape in expected.items():
        if name not in found:
            raise ModelError(f"{files[0]}: the weights lack {name}, which config.json needs")
        _check_shape(files[0], name, found[name], shape)


def _check_shape(file: Path, name: str, found: tuple[int, ...], needed: tuple[int, ...]) -> None:
    if found != needed:
        raise ModelError(f"{file}: {name} has shape {found}, but config.json needs {needed}")


def _eos_ids(path: Path, config: Mapping[str, Any], vocab_size: int) -> frozenset[int]:
    """Return the ids that end a text; nothing else is used from `generation_config.json`."""
    generation = read_json(path / "generation_config.json") if (path / "generation_config.json").is_file() else {}
    default = END_OF_TEXT_ID if config.get("model_type") == "gpt2" else None
    own = generation.get("eos_token_id", config.get("eos_token_id", default))
    ids = own if isinstance(own, list) else [own]
    # A config may name GPT-2's 50256 although the vocabulary is smaller; such a model never ends a text.
    return frozenset(token for token in ids if isinstance(token, int) and 0 <= token < vocab_size)


def _start_id(config: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int) -> int | None:
    """Return the id that an empty prompt starts from: BOS, else the end of text, else None."""
    own = (config.get("bos_token_id"), config.get("eos_token_id"), tokenizer.start_id())
    return next((token for token in own if isinstance(token, int) and 0 <= token < vocab_size), None)
