"""From a model's name to a folder on disk: the bundled model, a local folder, the cache or the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal, TypeAlias

from genlm.errors import HubUnreachable, ModelError

Source: TypeAlias = Literal["bundled", "local", "hub"]
Notify: TypeAlias = Callable[[str], None]

BUNDLED = "fable"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"
# What runs where no model is named, if it can be had.
PREFERRED = "gpt2"


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, and where it came from. `revision` is the commit of a Hub model.

    `fingerprint` tells what it holds, as genlm.model.fingerprint has it, where that was asked for.
    """

    name: str
    source: Source
    path: Path
    revision: str | None = None
    fingerprint: str | None = None


def find_model(
    name: str | None, *, revision: str | None = None, allow_pickle: bool = False, notify: Notify = lambda _: None
) -> ModelFolder:
    """The folder of the model called `name`; without a name gpt2, or the bundled model where gpt2 cannot be had.

    A name that was given is never replaced by another model.

    Raises:
        ModelError: no such model, or one that cannot be had.
    """
    if name is None:
        return _find_default(revision, allow_pickle, notify)
    if name == BUNDLED:
        return _bundled(revision)
    if not name.strip():
        raise ModelError("the model's name is empty", hint="without -m the model is gpt2, or the bundled fable")
    if _means_folder(name):
        return _local(name, revision)
    from genlm.model.hub import fetch

    return fetch(name, revision, allow_pickle, notify)


def locate_model(name: str | None, revision: str | None) -> tuple[str, str | None]:
    """The folder or Hub id that transformers knows a model by, and the revision; nothing is fetched.

    Raises:
        ModelError: a folder that is not there.
    """
    if name is None:
        return PREFERRED, revision
    if name == BUNDLED:
        return str(_bundled(revision).path), None
    return (str(_local(name, revision).path), None) if _means_folder(name) else (name, revision)


def _find_default(revision: str | None, allow_pickle: bool, notify: Notify) -> ModelFolder:
    from genlm.model.hub import fetch

    try:
        return fetch(PREFERRED, revision, allow_pickle, notify)
    except HubUnreachable as error:
        if revision is not None:
            raise
        notify(f"{PREFERRED} is not in the cache and {error.reason}: using the bundled model {BUNDLED}")
        return _bundled(None)


def _bundled(revision: str | None) -> ModelFolder:
    if revision is not None:
        raise ModelError(f"the bundled model {BUNDLED} has no revisions")
    return ModelFolder(BUNDLED, "bundled", BUNDLED_FOLDER / BUNDLED)


def _means_folder(name: str) -> bool:
    has_drive = PureWindowsPath(name).drive != ""
    return has_drive or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or Path(name).is_dir()


def _local(name: str, revision: str | None) -> ModelFolder:
    path = Path(os.path.expanduser(name))
    if not path.is_dir():
        kind = "a file, not a folder" if path.exists() else "no such folder"
        raise ModelError(f"model {name}: {kind}", hint="a local model is a folder in Hugging Face format")
    if revision is not None:
        raise ModelError(f"model {name} is a local folder, which has no revisions")
    return ModelFolder(name, "local", path)
