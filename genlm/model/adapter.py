"""The adapter for other models: any causal language model of transformers as a Network."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlm.errors import ModelError, first_line
from genlm.model.attention import attention_weights, queries_and_keys
from genlm.model.files import read_json, read_shapes, weight_files
from genlm.model.network import QueryKey, check_room

CONFIG = "config.json"
# Sizes in a config. Each layer has at least one weight, and each width is a dimension of one.
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "encoder_layers")
WIDTHS = (
    *("vocab_size", "hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim"),
    *("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim"),
)
CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
# Weights with a row for each position, and the limit for models that compute positions instead.
POSITIONS = re.compile(r"\bwpe\b|position")
LONGEST_CONTEXT = 1 << 24


def silence_transformers() -> None:
    """Turn off transformers' progress bars and advice; genlm itself says what matters to the user."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_transformers_model(path: Path, device: str, dtype: torch.dtype, *, allow_pickle: bool) -> Any:
    """Return the transformers model of a folder, in evaluation mode. Code in the folder never runs.

    Raises:
        ModelError: transformers cannot load it, or the weights do not match the config.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(path, allow_pickle=allow_pickle)
    try:
        config.return_dict = True
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            # A folder may name a kernel, which is code from the Hub; None is the best that torch has.
            attn_implementation=None,
            use_safetensors=None if allow_pickle else True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # transformers raises all kinds of errors for a folder that it cannot load.
    except Exception as error:
        raise _cannot_load(path, error) from error
    model, report = loaded
    _check_complete(path, report)
    return model.eval().to(torch.device(device))


def read_config(path: Path, *, allow_pickle: bool = False) -> Any:
    """Return the transformers config of a folder's model.

    Raises:
        ModelError: transformers cannot read it, or it describes a far larger model than the folder's weights.
    """
    from transformers import AutoConfig

    _check_sizes(path, read_json(path / CONFIG), weight_files(path, allow_pickle=allow_pickle))
    silence_transformers()
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    # As above.
    except Exception as error:
        raise _cannot_load(path, error) from error


def _check_sizes(path: Path, config: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Raise ModelError for a size that the weights rule out, because transformers would build a model of that size."""
    shapes = {name: shape for file in files for name, shape in read_shapes(file).items()}
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    positions = [shape[0] for name, shape in shapes.items() if POSITIONS.search(name) and len(shape) == 2]
    # Quantized weights may be packed, eight numbers in one.
    packed = 8 if config.get("quantization_config") else 1
    limits = {
        **dict.fromkeys(LAYER_COUNTS, len(shapes)),
        **dict.fromkeys(WIDTHS, packed * largest),
        **dict.fromkeys(CONTEXTS, max(positions, default=LONGEST_CONTEXT)),
    }
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name, most in limits.items():
            if isinstance(part.get(name), int) and part[name] > most:
                raise ModelError(f"{path / CONFIG}: {name} is {part[name]}, but the weights allow at most {most}")


def _cannot_load(path: Path, error: Exception) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelError(f"{path}: the model needs its own code, which genlm never runs")
    return ModelError(f"transformers cannot load {path}: {first_line(error)}")


def _check_complete(path: Path, report: Mapping[str, Any]) -> None:
    """Raise ModelError if transformers initialized weights at random because the file's are missing or do not fit."""
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(f"{path}: {name} has shape {tuple(found)}, but config.json needs {tuple(wanted)}")
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{path}: the weights lack {missing[0]}{more}, which config.json needs")


class TransformersModel:
    """A causal language model of transformers as a Network."""

    graph_note: str | None = None

    def __init__(self, model: Any) -> None:
        self.model = model
        text_config = model.config.get_text_config()
        self.vocab_size: int = model.get_output_embeddings().weight.shape[0]
        self.context: int | None = getattr(text_config, "max_position_embeddings", None)
        self.layers: int = text_config.num_hidden_layers
        self.tied = bool(getattr(text_config, "tie_word_embeddings", True))
        self.arguments = frozenset(inspect.signature(model.forward).parameters)
        # transformers 5.24 renamed both the argument and the output; the old name goes away in 5.40.
        self.cache_name = "cache" if "cache" in self.arguments else "past_key_values"

    @property
    def device(self) -> torch.device:
        """See Network."""
        device: torch.device = self.model.device
        return device

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, TransformersCache]:
        """See Network. Shorter prompts are padded on the left and masked."""
        longest = max(len(prompt) for prompt in prompts)
        check_room(longest + room, self.context)
        ids = torch.tensor([[*[0] * (longest - len(p)), *p] for p in prompts], device=self.device)
        mask = torch.tensor([[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts], device=self.device)
        cache = TransformersCache(self, None, mask[:, :0], longest + room)
        return cache.feed(ids, mask), cache

    @torch.inference_mode()
    def prefill_with_states(
        self, prompt: Sequence[int], room: int, layers: Sequence[int]
    ) -> tuple[Tensor, TransformersCache, Tensor]:
        """See Network."""
        check_room(len(prompt) + room, self.context)
        ids = torch.tensor([list(prompt)], device=self.device)
        cache = TransformersCache(self, None, ids[:, :0], len(prompt) + room)
        logits, states = cache.feed_with_states(ids, layers)
        return logits, cache, states[0]

    @torch.inference_mode()
    def logits_from_states(self, states: Tensor) -> Tensor:
        """See Network."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits.float()

    @torch.inference_mode()
    def logits_of(self, rows: Sequence[Sequence[int]], skips: Sequence[int]) -> Tensor:
        """See Network. Shorter rows are padded on the right and masked."""
        longest = max(len(row) for row in rows)
        check_room(longest, self.context)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        mask = torch.tensor([[*[1] * len(row), *[0] * (longest - len(row))] for row in rows], device=self.device)
        logits: Tensor = self.model(ids, attention_mask=mask, use_cache=False).logits
        wanted = mask.bool() & (torch.arange(longest) >= torch.tensor(list(skips))[:, None]).to(self.device)
        return logits[wanted].float()

    @torch.inference_mode()
    def attention(self, ids: Sequence[int]) -> list[Tensor]:
        """See Network."""
        check_room(len(ids), self.context)
        return attention_weights(self.model, torch.tensor([list(ids)], device=self.device))

    @torch.inference_mode()
    def queries_and_keys(self, ids: Sequence[int]) -> list[QueryKey]:
        """See Network."""
        check_room(len(ids), self.context)
        return queries_and_keys(self.model, torch.tensor([list(ids)], device=self.device))

    def generate(
        self,
        prompt: Sequence[int],
        settings: Mapping[str, object],
        seed: int,
        has_ended: Callable[[Sequence[int]], bool] | None = None,
    ) -> list[list[int]]:
        """Return the new tokens of each sequence that transformers' `generate` makes with exactly these settings.

        `has_ended` decides from a sequence's new tokens whether the sequence ends with them. A sequence shorter than
        another is padded at its end.

        Raises:
            ModelError: the logits are not numbers, or a step has no token left to choose.
        """
        from transformers import GenerationConfig

        def criterion(ids: Tensor, scores: object, **settings: object) -> Tensor:
            assert has_ended is not None
            return torch.tensor([has_ended(row) for row in ids[:, len(prompt) :].tolist()], device=ids.device)

        # Drop the model's own settings, from generation_config.json or config.json.
        self.model.generation_config = GenerationConfig()
        ids = torch.tensor([list(prompt)], device=self.device)
        # Padding is fed to the model, so it must be one of its tokens.
        padding = (settings.get("eos_token_id") or [0])[0]  # type: ignore[index]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), torch.inference_mode():
            # Any integer is a seed; torch takes those of 64 bits.
            torch.manual_seed(seed if -(2**63) <= seed < 2**64 else seed % 2**64)
            try:
                output: Tensor = self.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    pad_token_id=padding,
                    stopping_criteria=None if has_ended is None else [criterion],
                    **settings,
                )
            except RuntimeError as error:
                if "probability tensor" not in str(error):
                    raise
                raise ModelError("transformers has nothing to sample from: every token is ruled out") from error
        rows: list[list[int]] = output[:, len(prompt) :].tolist()
        return rows

    def row_bytes(self, length: int) -> int:
        """See Network. This is an upper bound: a model may keep fewer heads or only part of the past."""
        return 2 * self._cache_bytes(length) + 4 * 8 * self.vocab_size

    def step_bytes(self, rows: int, length: int) -> int:
        """See Network. The cache counts as in `row_bytes`."""
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return int(weights) + rows * self._cache_bytes(length)

    def _cache_bytes(self, length: int) -> int:
        config = self.model.config.get_text_config()
        return int(2 * config.num_hidden_layers * config.hidden_size * length * self.model.dtype.itemsize)


class TransformersCache:
    """A transformers cache, with a mask that tells tokens, 1, from padding, 0."""

    def __init__(self, owner: TransformersModel, past: Any, mask: Tensor, capacity: int) -> None:
        self.owner = owner
        self.past = past
        self.mask = mask
        self.capacity = capacity

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """See Cache."""
        check_room(self.mask.shape[1] + 1, self.capacity)
        return self.feed(ids[:, None], torch.ones_like(ids[:, None]))

    @torch.inference_mode()
    def step_with_states(self, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See HiddenStatesCache."""
        check_room(self.mask.shape[1] + 1, self.capacity)
        logits, states = self.feed_with_states(ids[:, None], layers)
        return logits, states[:, -1]

    @torch.inference_mode()
    def select(self, rows: Tensor) -> TransformersCache:
        """See Cache."""
        past = copy.copy(self.past)
        # reorder_cache gives each layer new tensors, so a shallow copy leaves the old cache unchanged.
        past.layers = [copy.copy(layer) for layer in self.past.layers]
        past.reorder_cache(rows)
        return TransformersCache(self.owner, past, self.mask[rows], self.capacity)

    def new_empty(self, rows: int, length: int) -> TransformersCache:
        """See SharedCache."""
        return TransformersCache(self.owner, None, self.mask[:0, :0], 0)

    @torch.inference_mode()
    def insert(self, slots: Tensor, source: TransformersCache, rows: Tensor, room: int) -> None:
        """See SharedCache. Rows are aligned at their last tokens; padding that no row needs is dropped."""
        selected = source.select(rows)
        if self.past is None:
            self.past, self.mask, self.capacity = selected.past, selected.mask, selected.mask.shape[1] + room
            return
        room = max(room, self.capacity - self.mask.shape[1])
        self.mask = _insert(self.mask, slots, selected.mask, max(self.mask.shape[1], selected.mask.shape[1]), axis=1)
        length = int(self.mask.sum(-1).max())
        self.mask, self.capacity = self.mask[:, -length:], length + room
        for layer, other in zip(self.past.layers, selected.past.layers, strict=True):
            window = getattr(layer, "sliding_window", None)
            kept = length if window is None else min(length, window - 1)
            layer.keys = _insert(layer.keys, slots, other.keys, kept, axis=2)
            layer.values = _insert(layer.values, slots, other.values, kept, axis=2)
            if window is not None:
                layer.cumulative_length = length

    def keep_first(self, rows: int) -> None:
        """See SharedCache."""
        kept = self.select(torch.arange(rows, device=self.mask.device))
        self.past, self.mask = kept.past, kept.mask

    def feed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Add tokens, (rows, n), and return the logits after the last of each row. `mask` is 0 for padding."""
        logits: Tensor = self._run(ids, mask).logits[:, -1]
        return logits.float()

    def feed_with_states(self, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Do the same without padding and also return hidden states: (rows, n, len(layers), width)."""
        output = self._run(ids, torch.ones_like(ids), output_hidden_states=True)
        states = output.get("hidden_states")
        if states is None or len(states) != self.owner.layers + 1:
            raise ModelError(f"{type(self.owner.model).__name__} does not return its hidden states")
        return output.logits[:, -1].float(), torch.stack([states[layer] for layer in layers], dim=2)

    def _run(self, ids: Tensor, mask: Tensor, **settings: bool) -> Any:
        mask = torch.cat([self.mask, mask], dim=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        optional = {"position_ids": positions, "logits_to_keep": 1}
        output = self.owner.model(
            ids,
            attention_mask=mask,
            use_cache=True,
            **{self.owner.cache_name: self.past},
            **settings,
            **{name: value for name, value in optional.items() if name in self.owner.arguments},
        )
        past = output.get(self.owner.cache_name)
        if not _has_rows(past):
            raise ModelError(f"{type(self.owner.model).__name__} has no cache of keys and values, which genlm needs")
        self.past, self.mask = past, mask
        return output


def _insert(tensor: Tensor, slots: Tensor, rows: Tensor, length: int, *, axis: int) -> Tensor:
    """Return `tensor` with `rows` in these slots, cut or padded with zeros to its last `length` along the axis."""
    result = _last(tensor, length, axis)
    missing = int(slots.max()) + 1 - len(result)
    if missing > 0:
        result = torch.cat([result, result.new_zeros(missing, *result.shape[1:])])
    return result.index_copy(0, slots, _last(rows, length, axis))


def _last(tensor: Tensor, length: int, axis: int) -> Tensor:
    missing = length - tensor.shape[axis]
    if missing <= 0:
        return tensor.narrow(axis, -missing, length)
    shape = list(tensor.shape)
    shape[axis] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=axis)


def _has_rows(past: Any) -> bool:
    """Return whether rows of a cache can be selected: copies of other kinds of layers may share state."""
    from transformers.cache_utils import DynamicLayer

    return all(isinstance(layer, DynamicLayer) for layer in getattr(past, "layers", [None]))
