"""Options that commands share, as one parameter of theirs: a dataclass with a field for each option."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Any


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer is to see it: where it takes a dataclass, it has an option for each field.

    What it takes beside its context are keywords, in the order of its help.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {each.name: each.annotation for each in signature.parameters.values() if _is_group(each.annotation)}

    @wraps(command)
    def gathering(**given: Any) -> None:
        gathered = {name: _take(group, given) for name, group in groups.items()}
        command(**given, **gathered)

    options = [option for each in signature.parameters.values() for option in _options(each)]
    gathering.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return gathering


def _take(group: Any, given: dict[str, Any]) -> Any:
    """The group, of what is given for it."""
    return group(**{name: given.pop(name) for name in inspect.signature(group).parameters})


def _options(parameter: Parameter) -> list[Parameter]:
    """What stands in the place of a command's parameter."""
    if not _is_group(parameter.annotation):
        return [parameter]
    fields = inspect.signature(parameter.annotation, eval_str=True).parameters.values()
    return [field.replace(kind=Parameter.KEYWORD_ONLY) for field in fields]


def _is_group(annotation: Any) -> bool:
    return is_dataclass(annotation)
