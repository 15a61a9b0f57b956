"""The model that the options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genlm.cli.signals import insistent_interrupts
from genlm.model.engine import Engine
from genlm.model.source import Notify, find_model
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
        # Only now, for a download shows bars of its own.
        spinner.say(f"loading {folder.name}")
        from genlm.model.load import load_model

        return load_model(folder, device=device, dtype=dtype, allow_pickle=allow_pickle, engine=engine)
