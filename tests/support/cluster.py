"""Plans for a cluster, and the work of a single worker, without a cluster."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from genlm.decoding.strategy import Strategy
from genlm.formats.folder import LocalFolder, RemoteFolder, open_folder
from genlm.formats.rows import open_inputs
from genlm.model.fingerprint import fingerprinted
from genlm.model.source import find_model
from genlm.records.batch import BatchModel
from genlm.records.made_by import Versions
from genlm.tasks.batch.jobs import BatchSettings, Columns
from genlm.tasks.batch.run import ModelChoice, Plan
from genlm.tasks.cluster.parts import Manifest, read_chunks
from genlm.tasks.cluster.worker import PartResult, Report, Worker
from genlm.tasks.generate import Limits
from support.driving import call

ROWS = 10
SIZE = 4


class FakeCoordinator:
    """A coordinator that records every call."""

    def __init__(self) -> None:
        self.models: list[BatchModel] = []
        self.reports: list[Report] = []
        self.must_stop = False

    def check_model(self, model: BatchModel) -> None:
        """See Coordinator."""
        self.models.append(model)

    def report(self, report: Report) -> bool:
        """See Coordinator."""
        self.reports.append(report)
        return self.must_stop


def make_plan(model: Path, paths: list[Path], output: Path, **choices: Any) -> Plan:
    """Return a plan as the command makes it."""
    settings = BatchSettings(Strategy.parse("top-p:top_p=0.9"), 3, Limits(5), deterministic=True)
    choice = ModelChoice(fingerprinted(find_model(str(model))), "cpu")
    with open_inputs(paths) as files:
        return Plan(tuple(files), Columns(), settings, choice, str(output), **choices).with_absolute_paths()


def folder_of(plan: Plan) -> LocalFolder | RemoteFolder:
    """Return the folder of a plan's parts."""
    return open_folder(plan.output)


def make_all(plan: Plan, coordinator: FakeCoordinator | None = None) -> list[PartResult]:
    """Return the results of one worker for all chunks, and write them as the pipeline does."""
    worker, results = Worker(plan, coordinator or FakeCoordinator()), []
    for file in range(len(plan.files)):
        for chunk in read_chunks(plan, file, SIZE):
            result = worker.make(pickle.loads(pickle.dumps(chunk)))
            results.append(result)
            if result.data is not None:
                folder_of(plan).write(result.part, result.data)
    return results


def write_manifest(plan: Plan) -> Manifest:
    """Write the manifest of a finished run."""
    rows = tuple(sum(len(chunk.jobs) for chunk in read_chunks(plan, file, SIZE)) for file in range(len(plan.files)))
    manifest = Manifest(
        tuple(file.name for file in plan.files), rows, SIZE, plan.provenance, Versions.installed(), sum(rows), 1
    )
    manifest.write(folder_of(plan))
    return manifest


def run_locally(plan: Plan, tmp_path: Path) -> bytes:
    """Return what `genlm batch` writes for a plan without a cluster."""
    output = tmp_path / "alone.jsonl"
    paths = [str(file.path) for file in plan.files]
    done = call("batch", *paths, "-o", output, "-m", plan.model.folder.name, "--seed", "3", "--max-new-tokens", "5",
                "--deterministic", "--device", "cpu")  # fmt: skip
    assert done.code == 3, done.err
    return output.read_bytes()
