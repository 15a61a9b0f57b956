"""Warnings about calls that genlm or a test makes are errors; warnings about a library's internals are not."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
from support.deprecations import LoggedDeprecation, ours_as_errors

LIBRARY = """\
import logging
import warnings

import torch

def names_its_caller():
    warnings.warn("names_its_caller is deprecated", FutureWarning, stacklevel=2)

def names_itself():
    warnings.warn("names_itself is deprecated", DeprecationWarning)

def logs():
    logging.getLogger("library").warning("%s is deprecated", "logs")

@passing_on
@deprecated
def decorated():
    pass

class Network(torch.nn.Module):
    @passing_on
    @deprecated
    def forward(self):
        pass

def network():
    Network()()

def calls_itself():
    names_its_caller()
    names_itself()
    decorated()
    network()
    logs()

def gives_advice():
    warnings.warn("this library works best at full moon")

def leaves_a_file_open():
    warnings.warn("unclosed file", ResourceWarning, stacklevel=2)
"""
DECORATORS = """\
import functools
import warnings

def deprecated(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        warnings.warn("it is deprecated", FutureWarning, stacklevel=2)
        return function(*arguments)
    return wrapper

def passing_on(function):
    return lambda *arguments: function(*arguments)
"""


@pytest.fixture
def library() -> ModuleType:
    """A library with deprecated functions, some of them by decorators like those of transformers."""
    decorators, library = ModuleType("transformers.utils.decorators"), ModuleType("library")
    exec(compile(DECORATORS, "decorators.py", "exec"), vars(decorators))
    vars(library).update(deprecated=decorators.deprecated, passing_on=decorators.passing_on)
    exec(compile(LIBRARY, "library.py", "exec"), vars(library))
    return library


@pytest.fixture
def shown() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings that are shown, independent of pytest's own filters."""
    with warnings.catch_warnings(record=True) as shown, ours_as_errors():
        warnings.simplefilter("always")
        yield shown


@pytest.mark.parametrize(
    ("function", "category"),
    [
        ("names_its_caller", FutureWarning),
        ("names_itself", DeprecationWarning),
        ("logs", LoggedDeprecation),
        ("decorated", FutureWarning),
    ],
)
def test_a_deprecated_function_that_we_call_is_an_error(
    library: ModuleType, shown: list[warnings.WarningMessage], function: str, category: type[Warning]
) -> None:
    with pytest.raises(category, match="is deprecated"):
        getattr(library, function)()
    assert shown == []


def test_a_deprecated_argument_of_a_model_is_an_error(
    library: ModuleType, shown: list[warnings.WarningMessage]
) -> None:
    with pytest.raises(FutureWarning, match="it is deprecated"):
        library.Network()()
    assert shown == []


def test_a_librarys_warnings_about_itself_are_only_shown(
    library: ModuleType, shown: list[warnings.WarningMessage]
) -> None:
    library.calls_itself()
    library.gives_advice()
    library.leaves_a_file_open()
    assert len(shown) == 7


def test_other_messages_are_logged_as_usual(
    caplog: pytest.LogCaptureFixture, shown: list[warnings.WarningMessage]
) -> None:
    logging.getLogger("library").warning("%d files", 3)
    (record,) = caplog.records
    assert (record.getMessage(), record.filename) == ("3 files", "test_deprecations.py")
    assert shown == []
