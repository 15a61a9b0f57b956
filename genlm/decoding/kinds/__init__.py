"""Every kind of strategy. A module of this package declares its kinds in a list KINDS; nothing else names it.

A kind may keep its own logits processor or loop in the same module if torch is imported inside the functions that need
it: listing kinds must stay quick.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from genlm.decoding.declaration import Field, Kind

_names = sorted((module.name for module in pkgutil.iter_modules(__path__)), key=lambda name: (name != "standard", name))
_modules = [import_module(f"{__name__}.{name}") for name in _names]

KINDS: dict[str, Kind] = {kind.name: kind for module in _modules for kind in getattr(module, "KINDS", ())}
# Every field as the first of its kinds declares it.
ALL_FIELDS: dict[str, Field[Any]] = {}
for _kind in KINDS.values():
    for _field in _kind.fields.values():
        ALL_FIELDS.setdefault(_field.name, _field)
