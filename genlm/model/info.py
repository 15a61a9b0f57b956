"""The model that made a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# Which code decodes: genlm's own loops, or the `generate` of transformers.
Engine: TypeAlias = Literal["genlm", "transformers"]
ENGINES: tuple[Engine, ...] = ("genlm", "transformers")
DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
DtypeChoice: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]
# Where a model was found.
ModelSource: TypeAlias = Literal["bundled", "local", "hub"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that has been loaded.

    `parameters` counts every weight once. `revision` is the commit of a Hub model; `fingerprint` identifies the files
    of any other model, if genlm.model.fingerprint computed it.
    """

    name: str
    source: ModelSource
    revision: str | None
    parameters: int
    dtype: str
    device: str
    fingerprint: str | None = None

    @property
    def version(self) -> str:
        """Which weights these are: "revision 607a30d…" or "fingerprint f57c81219ae65b56"; empty if unknown."""
        known = {"revision": self.revision, "fingerprint": self.fingerprint}
        return next((f"{name} {value}" for name, value in known.items() if value is not None), "")
