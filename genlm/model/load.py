"""From a model's folder to a model that runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from genlm.errors import ModelError, UsageError
from genlm.model.engine import ENGINES, Engine
from genlm.model.files import read_json
from genlm.model.info import ModelInfo
from genlm.model.memory import keep_freed_memory
from genlm.model.network import Network
from genlm.model.source import ModelFolder
from genlm.model.tokenizer import Tokenizer, load_tokenizer
from genlm.model.weights import read_weights, weight_files

if TYPE_CHECKING:
    import torch

DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
DtypeChoice: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]


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
