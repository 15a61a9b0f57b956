"""From a gradient to a step: AdamW, or Muon for the matrices of the blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genlm.tasks.train.settings import OptimizerName

if TYPE_CHECKING:
    from torch import Tensor

BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class _Member:
    """An optimizer, and the names of its parameters in its own order."""

    optimizer: Any
    names: list[str]


class Optimizer:
    """Every parameter of a model under AdamW with decay on matrices only, never on biases and norms.

    With "muon" the matrices between embedding and head are under Muon instead (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/), its steps scaled to the size of AdamW's (Liu et al. 2025,
    https://arxiv.org/abs/2502.16982), so that one learning rate serves both.
    """

    def __init__(self, model: Any, name: OptimizerName, weight_decay: float) -> None:
        named: dict[str, Tensor] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.parameters = list(named.values())
        hidden = _hidden_matrices(model, named) if name == "muon" else {}
        rest = {name: parameter for name, parameter in named.items() if name not in hidden}
        self._members = [_adamw(rest, weight_decay)]
        if hidden:
            self._members.append(_muon(hidden, weight_decay))

    def step(self, rate: float) -> None:
        """Move every parameter by its gradient at this learning rate, and forget the gradients."""
        for member in self._members:
            for group in member.optimizer.param_groups:
                group["lr"] = rate
            member.optimizer.step()
            member.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """What it remembers of each parameter, as `NAME/KEY`."""
        return {
            f"{member.names[place]}/{key}": value
            for member in self._members
            for place, memory in member.optimizer.state_dict()["state"].items()
            for key, value in memory.items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Remember what `state` gave."""
        memories: dict[str, dict[str, Tensor]] = {}
        for label, value in state.items():
            name, key = label.rsplit("/", 1)
            memories.setdefault(name, {})[key] = value
        for member in self._members:
            places = {place: memories[name] for place, name in enumerate(member.names) if name in memories}
            member.optimizer.load_state_dict(member.optimizer.state_dict() | {"state": places})


def _hidden_matrices(model: Any, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    embeddings = {id(parameter) for parameter in _embeddings(model)}
    return {name: value for name, value in named.items() if value.dim() == 2 and id(value) not in embeddings}


def _embeddings(model: Any) -> list[Tensor]:
    import torch

    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    head = model.get_output_embeddings()
    return [*tables, *([head.weight] if head is not None else [])]


def _adamw(named: Mapping[str, Tensor], weight_decay: float) -> _Member:
    import torch

    matrices = [name for name, value in named.items() if value.dim() >= 2]
    others = [name for name, value in named.items() if value.dim() < 2]
    groups = [
        {"params": [named[name] for name in matrices], "weight_decay": weight_decay},
        {"params": [named[name] for name in others], "weight_decay": 0.0},
    ]
    return _Member(torch.optim.AdamW(groups, betas=BETAS, fused=True), matrices + others)


def _muon(named: Mapping[str, Tensor], weight_decay: float) -> _Member:
    import torch

    optimizer = torch.optim.Muon(list(named.values()), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return _Member(optimizer, list(named))
