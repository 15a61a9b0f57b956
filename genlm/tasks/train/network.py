"""The model that is trained: transformers' own GPT-2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genlm.errors import UsageError
from genlm.tasks.train.settings import Shape

if TYPE_CHECKING:
    from torch import Tensor

# On the CPU, products and a softmax of their own take less time than the fused kernel; their memory grows with the
# square of the context.
PLAIN_CONTEXT = 512


def new_gpt2(shape: Shape, vocab_size: int, end_of_text: int, device: str = "cpu") -> Any:
    """A `GPT2LMHeadModel` with fresh weights and no dropout, ready to train on the device."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from genlm.model.adapter import silence_transformers

    # Its advice would break the progress bar.
    silence_transformers()
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=shape.n_positions,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        # The same function as GPT-2's "gelu_new", in one fused kernel; the folder gets the usual name.
        activation_function="gelu_pytorch_tanh",
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    model = GPT2LMHeadModel(config).train()
    is_plain = device == "cpu" and shape.n_positions <= PLAIN_CONTEXT
    model.set_attn_implementation("eager" if is_plain else "sdpa")
    return model


def weights_of(model: Any) -> dict[str, Tensor]:
    """Every weight once: a head that is tied to the embedding would be there a second time."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def load_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Put the weights that `weights_of` gave back."""
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def set_dropout(model: Any, share: float) -> None:
    """Let every dropout of a model drop this share. Raises UsageError for a model that has none."""
    import torch

    found = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    if not found:
        raise UsageError(f"{type(model).__name__} has no dropout to set")
    for module in found:
        module.p = share
