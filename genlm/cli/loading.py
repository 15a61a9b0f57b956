"""The model that the options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genlm.cli.signals import insistent_interrupts
from genlm.model.engine import Engine
from genlm.model.source import ModelFolder, Notify, find_model
from genlm.views.spinner import Spinner

if TYPE_CHECKING:
    from genlm.model.load import DeviceChoice, DtypeChoice, Model


def load(
    name: str | None,
    *,
    revision: str | None,
    device: DeviceChoice,
    dtype: DtypeChoice,
    allow_pickle: bool,
    notify: Notify,
    spinner: Spinner,
    engine: Engine = "genlm",
) -> Model:
    """Find a model, which may mean to download it, and load it. Raises ModelError where it cannot be had or loaded."""
    with insistent_interrupts():
        folder = find_model(name, revision=revision, allow_pickle=allow_pickle, notify=notify)
        return load_found(folder, device=device, dtype=dtype, allow_pickle=allow_pickle, spinner=spinner, engine=engine)


def load_found(
    folder: ModelFolder,
    *,
    device: DeviceChoice,
    dtype: DtypeChoice,
    allow_pickle: bool,
    spinner: Spinner,
    engine: Engine = "genlm",
) -> Model:
    """Load a model that was found. Raises ModelError where that fails."""
    with insistent_interrupts():
        # Only now, for a download shows bars of its own.
        spinner.say(f"loading {folder.name}")
        from genlm.model.load import load_model

        return load_model(folder, device=device, dtype=dtype, allow_pickle=allow_pickle, engine=engine)
