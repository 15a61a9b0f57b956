"""The model that is trained: transformers' own GPT-2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.tasks.train.settings import Shape

if TYPE_CHECKING:
    from torch import Tensor


def new_gpt2(shape: Shape, dropout: float, vocab_size: int, end_of_text: int, device: str) -> Any:
    """A `GPT2LMHeadModel` with fresh weights, ready to train on the device."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=shape.n_positions,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        # The same function as GPT-2's "gelu_new", in one fused kernel; the folder gets the usual name.
        activation_function="gelu_pytorch_tanh",
        # On the CPU plain products and a softmax take less time than the fused kernel and its backward pass.
        attn_implementation="eager" if device == "cpu" else "sdpa",
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    return GPT2LMHeadModel(config).train()


def weights_of(model: Any) -> dict[str, Tensor]:
    """Every weight once: a head that is tied to the embedding would be there a second time."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def load_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Put the weights that `weights_of` gave back."""
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def has_weights(folder: Path) -> bool:
    """Whether a run has left weights there."""
    return (folder / "model.safetensors").is_file()


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that a run has left in its folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
