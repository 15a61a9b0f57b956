"""What can be checked of a plan before a cluster is there."""

from __future__ import annotations

from genlm.errors import OutputError
from genlm.formats.folder import LocalFolder, RemoteFolder
from genlm.tasks.cluster.manifest import NAME, Manifest, check_same, made_with, read_manifest, settled
from genlm.tasks.cluster.parts import UNFINISHED
from genlm.tasks.cluster.plan import Plan


def check_output(plan: Plan, folder: LocalFolder | RemoteFolder) -> Manifest | None:
    """The manifest of parts to go on with, or None where all begins anew. Nothing is changed.

    Raises:
        OutputError: a folder that holds something else, or parts that are not to be gone on with, or that were made
            with other settings.
    """
    held = [name for name in folder.names() if not name.startswith(".")]
    manifest = read_manifest(folder) if held and not plan.overwrites else None
    if held and manifest is None and not _is_ours(folder, held):
        raise OutputError(f"{plan.output} holds files that are no parts of genlm batch: give another folder")
    if held and manifest is None and not plan.overwrites:
        raise OutputError(f"{plan.output} holds parts without {NAME}", hint="--overwrite begins anew")
    if manifest is None:
        return None
    if not plan.resumes:
        raise OutputError(f"{plan.output} is there already", hint="--resume continues it, --overwrite begins anew")
    settings = settled(plan.settings, manifest, has_seed=plan.has_seed)
    check_same(manifest.made_with, made_with(settings, plan.model.known), plan.output)
    return manifest


def _is_ours(folder: LocalFolder | RemoteFolder, held: list[str]) -> bool:
    """Whether nothing is there but what a run leaves."""
    return all(name in (NAME, UNFINISHED) or name.startswith("part-") for name in held)
