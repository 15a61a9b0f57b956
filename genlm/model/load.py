"""From a model's folder to a model that runs."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from genlm.errors import ModelError, UsageError
from genlm.model.files import read_json, weight_files
from genlm.model.info import ENGINES, Engine, ModelInfo
from genlm.model.memory import keep_freed_memory
from genlm.model.network import Network
from genlm.model.source import ModelFolder
from genlm.model.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
DtypeChoice: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]
# Constants that old GPT-2 checkpoints hold beside the weights.
MASKS = (".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True)
class Model:
    """A model that is loaded: what runs, its tokenizer, and what ends and starts a text.

    `fingerprint` is that of its folder.
    """

    info: ModelInfo
    network: Network
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    start_id: int | None
    load_s: float
    engine: Engine = "genlm"
    fingerprint: str | None = None


def load_model(
    folder: ModelFolder,
    *,
    device: DeviceChoice = "auto",
    dtype: DtypeChoice = "auto",
    allow_pickle: bool = False,
    engine: Engine = "genlm",
) -> Model:
    """Load a model. `auto` is the best device there is, and float32 on the CPU, the checkpoint's own dtype elsewhere.

    The engine transformers runs every model, GPT-2 too, and `generate`, as transformers does.

    Raises:
        UsageError: an engine that there is not, or int8 by transformers.
        ModelError: files that are missing, damaged or at odds with each other, or a device that is not there.
    """
    from genlm.model import gpt2_config

    started = time.perf_counter()
    _check_engine(engine, dtype)
    config = read_json(folder.path / "config.json")
    place = choose_device(device)
    if place == "cpu":
        keep_freed_memory()
    precision = choose_dtype(dtype, place, config)
    in_int8 = dtype == "int8"
    tokenizer = load_tokenizer(folder.path, config.get("model_type"))
    files = weight_files(folder.path, allow_pickle=allow_pickle)
    is_lean = engine == "genlm" and gpt2_config.supports(config)
    if in_int8 and (place != "cpu" or not gpt2_config.supports(config)):
        raise ModelError("int8 runs GPT-2 models on the CPU only", hint="--dtype auto takes what the model runs in")
    if is_lean:
        network, parameters = _load_lean(config, folder.path, files, precision, place, in_int8=in_int8)
    else:
        network, parameters = _load_any(folder.path, precision, place, allow_pickle)
    info = ModelInfo(
        folder.name, folder.source, folder.revision, parameters, "int8" if in_int8 else _name(precision), place
    )
    return Model(
        info,
        network,
        tokenizer,
        eos_ids=_eos_ids(folder.path, config, network.vocab_size),
        start_id=_start_id(config, tokenizer, network.vocab_size),
        load_s=time.perf_counter() - started,
        engine=engine,
        fingerprint=folder.fingerprint,
    )


def _check_engine(engine: Engine, dtype: DtypeChoice) -> None:
    if engine not in ENGINES:
        raise UsageError(f"no engine {engine!r}", hint="there are " + ", ".join(ENGINES))
    if engine == "transformers" and dtype == "int8":
        raise UsageError("the engine transformers has no int8", hint="--engine genlm has, for GPT-2 models on the CPU")


def choose_device(device: DeviceChoice) -> str:
    """The device that runs: the one named, or the best there is. Raises ModelError where it is not there."""
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, there in available.items() if there)
    if not available[device]:
        raise ModelError(f"torch finds no {device} device here", hint="--device auto takes the best there is")
    return device


def choose_dtype(dtype: DtypeChoice, device: str, config: Mapping[str, Any]) -> torch.dtype:
    """The type of weights and activations."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype in known:
        return known[dtype]
    # Of int8 too: it is made from float32, and what is not a product stays so.
    if device == "cpu":
        return torch.float32
    own = config.get("dtype") or config.get("torch_dtype")
    return known.get(str(own), torch.float32)


def _load_lean(
    config: Mapping[str, Any], path: Path, files: list[Path], dtype: torch.dtype, device: str, *, in_int8: bool
) -> tuple[Network, int]:
    import torch

    from genlm.model import gpt2, gpt2_config, graph

    try:
        settings = gpt2_config.Config.of(config)
    except ValueError as error:
        raise ModelError(f"{path / 'config.json'}: {error}") from error
    with torch.device("meta"):
        model = gpt2.GPT2(settings, graph.CudaCapture() if device == "cuda" else None)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {gpt2.HEAD} if settings.tie_word_embeddings else set()
    weights = read_weights(files, shapes, optional, dtype, device)
    # Old checkpoints hold a tied head twice. One that differs is a head of its own, whatever the config says.
    if optional & weights.keys() and weights[gpt2.HEAD].equal(weights["wte.weight"]):
        del weights[gpt2.HEAD]
    model.load_weights(weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if in_int8:
        from genlm.model.quantize import quantize_gpt2

        # The float weights are freed one by one.
        del weights
        quantize_gpt2(model)
    return model, parameters


def _load_any(path: Path, dtype: torch.dtype, device: str, allow_pickle: bool) -> tuple[Network, int]:
    from genlm.model.adapter import TransformersModel, load_transformers_model

    model = load_transformers_model(path, device, dtype, allow_pickle=allow_pickle)
    return TransformersModel(model), model.num_parameters()


def _eos_ids(path: Path, config: Mapping[str, Any], vocab_size: int) -> frozenset[int]:
    """The ids that end a text. They are all that is taken from `generation_config.json`."""
    from genlm.model import gpt2_config

    generation = read_json(path / "generation_config.json") if (path / "generation_config.json").is_file() else {}
    default = gpt2_config.END_OF_TEXT_ID if config.get("model_type") == "gpt2" else None
    own = generation.get("eos_token_id", config.get("eos_token_id", default))
    ids = own if isinstance(own, list) else [own]
    # A config may name GPT-2's 50256 over a smaller vocabulary: that model has no end.
    return frozenset(token for token in ids if isinstance(token, int) and 0 <= token < vocab_size)


def _start_id(config: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int) -> int | None:
    """The id that an empty prompt starts from: BOS, else the end of text, else none."""
    own = (config.get("bos_token_id"), config.get("eos_token_id"), tokenizer.start_id())
    return next((token for token in own if isinstance(token, int) and 0 <= token < vocab_size), None)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_weights(
    files: list[Path],
    shapes: Mapping[str, tuple[int, ...]],
    optional: Collection[str],
    dtype: torch.dtype,
    device: str,
) -> dict[str, Tensor]:
    """GPT-2's weights as `shapes` names them, from files with or without the prefix `transformer.`.

    What is not a weight of `shapes`, as the masks in old checkpoints, is left in the file. A weight that has the
    dtype already stays mapped on the CPU: it costs no memory of its own.

    Raises:
        ModelError: a damaged file, a weight that is missing or of another shape, or more layers than in `shapes`.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        read = _read_safetensors if file.suffix == ".safetensors" else _read_pickled
        for name, tensor in read(file, shapes).items():
            if tuple(tensor.shape) != shapes[name]:
                raise ModelError(
                    f"{file}: {name} has shape {tuple(tensor.shape)}, where config.json asks for {shapes[name]}"
                )
            found[name] = tensor.to(device=device, dtype=dtype)
    missing = [name for name in shapes if name not in found and name not in optional]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{files[0]}: the weights lack {missing[0]}{more}, which config.json asks for")
    return found


def _wanted(names: Iterable[str], shapes: Mapping[str, object], file: Path) -> dict[str, str]:
    """Of the names in a file those to read, each with its name in `shapes`."""
    plain = {name: name.removeprefix("transformer.") for name in names}
    for name in plain.values():
        if name not in shapes and name.startswith("h.") and not name.endswith(MASKS):
            raise ModelError(f"{file} holds {name}, which config.json knows nothing of", hint="are both of one model?")
    return {name: short for name, short in plain.items() if short in shapes}


def _read_safetensors(file: Path, shapes: Mapping[str, object]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            wanted = _wanted(opened.keys(), shapes, file)
            return {short: opened.get_tensor(name) for name, short in wanted.items()}
    except SafetensorError as error:
        raise ModelError(f"{file}: damaged or cut short: {error}", hint="copy or download the file again") from error
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _read_pickled(file: Path, shapes: Mapping[str, object]) -> dict[str, Tensor]:
    """Only tensors and plain containers are unpickled; anything else in the file is an error, and never run."""
    import pickle

    import torch

    try:
        # The format before torch 1.6, as of the first GPT-2 checkpoints, cannot be mapped.
        state = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file}: damaged, or holds more than weights, which genlm does not load") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelError(f"{file}: damaged or cut short", hint="copy or download the file again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ModelError(f"{file}: not a file of named weights")
    return {short: state[name] for name, short in _wanted(state, shapes, file).items()}
