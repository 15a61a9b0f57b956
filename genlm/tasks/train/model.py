"""The model in training: transformers' GPT-2, its precision, and the optimizer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from genlm.errors import ModelError, UsageError
from genlm.model.memory import free_bytes, keep_freed_memory
from genlm.tasks.train.settings import OptimizerName, Precision, Shape

if TYPE_CHECKING:
    from torch import Tensor

BETAS = (0.9, 0.98)
# Up to this context, separate products and a softmax are faster on the CPU than the fused kernel. Their memory grows
# with the square of the context.
PLAIN_CONTEXT = 512
# In models narrower than this, matrix products are too small to gain from bfloat16.
BFLOAT16_WIDTH = 256
# In models narrower than this, threads wait for each other longer than a product takes: on a busy machine a hundred
# times as long.
THREADED_WIDTH = 128


def new_gpt2(shape: Shape, vocab_size: int, end_of_text: int, device: str = "cpu") -> Any:
    """Return a `GPT2LMHeadModel` with fresh weights and no dropout, ready to train on the device."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from genlm.model.adapter import silence_transformers

    # Messages of transformers would break the progress bar.
    silence_transformers()
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=shape.n_positions,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        # The same function as GPT-2's "gelu_new" in one fused kernel. `save_model` writes the usual name.
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
    """Return the weights by name, without a head that is tied to the embedding."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def load_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Load weights that `weights_of` returned."""
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def set_dropout(model: Any, probability: float) -> None:
    """Set the probability of every dropout of a model. Raise UsageError if it has none."""
    import torch

    found = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    if not found:
        raise UsageError(f"{type(model).__name__} has no dropout to set")
    for module in found:
        module.p = probability


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: str, width: int) -> Precision:
    """Return the dtype of matrix products: auto is bfloat16 for a wide model if the device has instructions for it."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if width >= BFLOAT16_WIDTH and _is_fast_at_bfloat16(device) else "float32"


def _is_fast_at_bfloat16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextmanager
def tuned_cpu(device: str, width: int) -> Iterator[None]:
    """Tune the CPU to a model of this width: keep freed memory, and use one thread if the model is narrow."""
    import torch

    if device != "cpu":
        yield
        return
    keep_freed_memory()
    threads = torch.get_num_threads()
    if width < THREADED_WIDTH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_memory(device: str, need: int, purpose: str, hint: str) -> None:
    """Raise ModelError if fewer than `need` bytes are free on the device."""
    import torch

    free = free_bytes(torch.device(device))
    if need > free:
        raise ModelError(
            f"{purpose} needs at least {need / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free", hint=hint
        )


def check_compiler(device: str) -> None:
    """Raise UsageError if torch.compile needs a compiler and finds none."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if device == "cpu" and not any(map(shutil.which, filter(None, compilers))):
        raise UsageError("compiling needs a C++ compiler, and none was found", hint="set CXX to one")


class Optimizer:
    """AdamW for every parameter of a model, with weight decay on matrices only, never on biases and norms.

    With "muon", the matrices between embedding and head are under Muon instead (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/). Its steps are scaled to the size of AdamW's (Liu et al. 2025,
    https://arxiv.org/abs/2502.16982), so one learning rate serves both.
    """

    def __init__(self, model: Any, name: OptimizerName, weight_decay: float) -> None:
        import torch

        named: dict[str, Tensor] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.parameters = list(named.values())
        hidden = _hidden_matrices(model, named) if name == "muon" else {}
        rest = {name: parameter for name, parameter in named.items() if name not in hidden}
        groups = [
            {"params": [value for value in rest.values() if value.dim() >= 2], "weight_decay": weight_decay},
            {"params": [value for value in rest.values() if value.dim() < 2], "weight_decay": 0.0},
        ]
        # Each optimizer of torch, with its parameters by name.
        self._parts: list[tuple[Any, dict[str, Tensor]]] = [(torch.optim.AdamW(groups, betas=BETAS, fused=True), rest)]
        if hidden:
            muon = torch.optim.Muon(hidden.values(), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append((muon, hidden))

    def step(self, rate: float) -> None:
        """Update every parameter by its gradient at this learning rate, and clear the gradients."""
        for optimizer, _ in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return the state of each parameter, as `NAME/KEY`."""
        return {
            f"{name}/{key}": value
            for optimizer, named in self._parts
            for name, parameter in named.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Load what `state` returned."""
        for optimizer, named in self._parts:
            for label, value in state.items():
                name, key = label.rsplit("/", 1)
                if name in named:
                    optimizer.state[named[name]][key] = value.to(named[name].device)


def _hidden_matrices(model: Any, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrices that are neither an embedding nor the head."""
    import torch

    outer = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        outer.add(id(head.weight))
    return {name: value for name, value in named.items() if value.dim() == 2 and id(value) not in outer}
