"""genlm: decode from pretrained GPT-2 with a strategy of your choice.

>>> import genlm
>>> lm = genlm.load("fable")
>>> lm.generate("Once upon a time", strategy="top-k:top_k=40", seed=7).completions[0].text  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genlm.version import __version__ as __version__

if TYPE_CHECKING:
    from genlm.api import LanguageModel as LanguageModel
    from genlm.api import load as load
    from genlm.decoding.completion import Completion as Completion
    from genlm.decoding.completion import Piece as Piece
    from genlm.decoding.strategy import Strategy as Strategy
    from genlm.errors import GenlmError as GenlmError
    from genlm.records.batch import BatchRecord as BatchRecord
    from genlm.records.generation import Generation as Generation

__all__ = ["BatchRecord", "Completion", "Generation", "GenlmError", "LanguageModel", "Piece", "Strategy", "load"]

# Where each public name lives; it is imported when it is first asked for.
_HOMES = {
    "BatchRecord": "genlm.records.batch",
    "Completion": "genlm.decoding.completion",
    "Generation": "genlm.records.generation",
    "GenlmError": "genlm.errors",
    "LanguageModel": "genlm.api",
    "Piece": "genlm.decoding.completion",
    "Strategy": "genlm.decoding.strategy",
    "load": "genlm.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genlm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
