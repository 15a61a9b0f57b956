"""The model that the options name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genlm.cli import options
from genlm.cli.signals import insistent_interrupts
from genlm.model.info import Engine
from genlm.model.source import ModelFolder, Notify, find_model
from genlm.views.spinner import Spinner

if TYPE_CHECKING:
    from genlm.model.load import Model


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    name: options.ModelName = None
    revision: options.Revision = None
    device: options.Device = "auto"
    dtype: options.Dtype = "auto"
    allow_pickle: options.AllowPickle = False

    def find(self, notify: Notify) -> ModelFolder:
        """Its folder, which may mean to download it. Raises ModelError where it cannot be had."""
        return find_model(self.name, revision=self.revision, allow_pickle=self.allow_pickle, notify=notify)

    def load(self, notify: Notify, spinner: Spinner, engine: Engine = "genlm") -> Model:
        """Find it and load it. Raises ModelError where it cannot be had or loaded."""
        with insistent_interrupts():
            return self.load_found(self.find(notify), spinner, engine)

    def load_found(self, folder: ModelFolder, spinner: Spinner, engine: Engine = "genlm") -> Model:
        """Load it from where it was found. Raises ModelError where that fails."""
        with insistent_interrupts():
            # Only now, for a download shows bars of its own.
            spinner.say(f"loading {folder.name}")
            from genlm.model.load import load_model

            return load_model(
                folder, device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle, engine=engine
            )
