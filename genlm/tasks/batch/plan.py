"""What a batch run is to do, as plain data that can be sent to other machines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import ModelError
from genlm.formats.remote import is_remote
from genlm.formats.rows import InputFile
from genlm.model.fingerprint import fingerprinted
from genlm.model.source import ModelFolder, find_model
from genlm.records.batch import BatchModel, Provenance
from genlm.tasks.batch.jobs import BatchSettings, Columns

if TYPE_CHECKING:
    from genlm.model.load import DeviceChoice, DtypeChoice, Model

# After Ctrl-C, running prompts get this long to finish.
FINISH_WITHIN_S = 10.0


@dataclass(frozen=True)
class ModelChoice:
    """A model's folder and how to load it. A local folder is at the same path on every machine."""

    folder: ModelFolder
    device: DeviceChoice = "auto"
    dtype: DtypeChoice = "auto"
    allow_pickle: bool = False

    @property
    def known(self) -> BatchModel:
        """What records will say about the model, as far as it is known before loading."""
        dtype = None if self.dtype == "auto" else self.dtype
        return BatchModel(self.folder.name, self.folder.revision, self.folder.fingerprint, dtype)

    def load(self) -> Model:
        """Load the model. Raise ModelError if that fails."""
        from genlm.model.load import load_model

        return load_model(self.folder, device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle)

    def on_this_machine(self) -> ModelChoice:
        """Return the same model as it is on this machine, which may not be the one where it was chosen.

        Raises:
            ModelError: a folder that does not exist here, or a model that cannot be downloaded.
        """
        folder = self.folder
        if folder.source != "local":
            folder = find_model(folder.name, revision=folder.revision, allow_pickle=self.allow_pickle)
        elif not Path(folder.path).is_dir():
            raise ModelError(
                f"model {folder.name}: there is no folder {folder.path} on a machine of the cluster",
                hint="every machine needs it at the same path, as in a shared folder",
            )
        return replace(self, folder=fingerprinted(folder, allow_pickle=self.allow_pickle))


@dataclass(frozen=True)
class Plan:
    """A batch: its input files, its settings, and where the result goes.

    `output` is a file, or on a cluster a folder of part files. `has_seed` is false if the seed was drawn; a resumed
    run then takes the seed of the output. `batch_size` None means automatic.
    """

    files: tuple[InputFile, ...]
    columns: Columns
    settings: BatchSettings
    model: ModelChoice
    output: str
    has_seed: bool = True
    batch_size: int | None = None
    resume: bool = False
    overwrite: bool = False
    retry_errors: bool = False
    redo_changed: bool = False
    stop_on_error: bool = False
    csv_safe: bool = False

    @property
    def provenance(self) -> Provenance:
        """The provenance of rows without overrides; the dtype is None unless it was chosen."""
        return self.settings.provenance(self.model.known)

    def with_absolute_paths(self) -> Plan:
        """Return a plan that means the same on every machine and in every working directory."""
        files = tuple(
            replace(file, path=file.path.absolute()) if isinstance(file.path, Path) else file for file in self.files
        )
        folder = self.model.folder
        if folder.source == "local":
            folder = replace(folder, path=folder.path.absolute())
        output = self.output.rstrip("/") if is_remote(self.output) else str(Path(self.output).absolute())
        return replace(self, files=files, model=replace(self.model, folder=folder), output=output)
