"""`genlm bench`: its numbers, as a table and as JSON, and its errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.driving import call

import genlm
from genlm.errors import UsageError
from genlm.model.gpt2 import GPT2
from genlm.model.graph import Graphs
from genlm.tasks.bench import Workload, bench
from genlm.views.bench import BenchView

SMALL = Workload((1, 3), prompt_tokens=5, new_tokens=4)


def test_the_numbers_of_a_row_are_consistent(tiny: Path) -> None:
    rows = list(bench(genlm.load(str(tiny))._model, SMALL))
    assert [row.rows for row in rows] == [1, 3]
    for row in rows:
        assert row.decode_tokens_per_s == pytest.approx(row.rows / row.ms_per_step * 1e3)
        assert row.roofline_share == pytest.approx(row.step_bytes / row.bandwidth / row.ms_per_step * 1e3)
        assert row.peak_bytes is not None
        assert row.peak_bytes > 1e7
        assert row.prefill_tokens_per_s > 0


def test_a_step_reads_every_weight_once_and_the_cache_of_each_row(tiny: Path) -> None:
    network = genlm.load(str(tiny))._model.network
    weights = network.step_bytes(0, 0)
    parameters = genlm.load(str(tiny)).info.parameters
    positions = 64 * 32
    assert weights == 4 * (parameters - positions)
    assert network.step_bytes(3, 10) - weights == 3 * 10 * 2 * 2 * 32 * 4


def test_the_table_has_a_line_for_every_dtype_and_batch(tiny: Path) -> None:
    done = call("bench", "-m", str(tiny), "--dtype", "float32,int8", "--batch-size", "1,2", "--new-tokens", "3")
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[d, b] for d in ("float32", "int8") for b in "12"]
    assert lines[0].split()[:2] == ["dtype", "rows"]
    assert "GB/s" in done.err


def test_an_unknown_peak_of_memory_is_a_dash(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlm.tasks.bench.peak_bytes", lambda device: None)
    done = call("bench", "-m", str(tiny), "--batch-size", "1", "--new-tokens", "3")
    assert done.out.splitlines()[1].split()[-2] == "-"


def test_json_is_one_object(tiny: Path) -> None:
    done = call("bench", "-m", str(tiny), "--batch-size", "2", "--new-tokens", "3", "--format", "json")
    record = json.loads(done.out)
    assert record["model"]["source"] == "local"
    assert [row["rows"] for row in record["rows"]] == [2]
    assert record["rows"][0]["dtype"] == "float32"
    assert record["made_by"]["command"].startswith("genlm bench -m ")
    assert record["made_by"]["genlm"] == genlm.__version__


def test_a_row_records_whether_decode_steps_ran_as_a_cuda_graph(tiny: Path) -> None:
    model = genlm.load(str(tiny))._model
    assert isinstance(model.network, GPT2)
    assert [row.cuda_graph for row in bench(model, SMALL)] == [None, None]
    model.network.graphs = Graphs(lambda run: run)
    rows = list(bench(model, Workload((2,), prompt_tokens=5, new_tokens=20)))
    model.network.graphs.give_up("no such kernel")
    rows += bench(model, SMALL)
    assert [row.cuda_graph for row in rows] == ["replayed", *["given up: no such kernel"] * 2]
    notes: list[str] = []
    view = BenchView("text")
    for row in rows:
        view.show(row)
    view.finish(notes.append)
    assert notes[1:] == [f"decode steps as a CUDA graph: {note}" for note in ("replayed", "given up: no such kernel")]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_batch_that_cannot_fit_is_refused_before_it_is_allocated(tiny: Path, dtype: str) -> None:
    done = call("bench", "-m", str(tiny), "--dtype", dtype, "--batch-size", "1,1000000000", "--new-tokens", "3")
    assert (done.code, done.out) == (1, "")
    assert re.match(
        r"a batch of 1,000,000,000 rows of 38 tokens needs about [\d,]+\.\d GB of memory, and [\d.]+ GB are free",
        done.error(),
    )
    assert re.match(r"at most [\d,]+ rows fit", done.hint())


def test_the_largest_batch_that_fits_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = genlm.load(str(tiny))._model.network.row_bytes(5 + 3 + 3)
    monkeypatch.setattr("genlm.tasks.bench.free_bytes", lambda device: 2 * row)
    arguments = ("bench", "-m", str(tiny), "--prompt-tokens", "5", "--new-tokens", "3", "--batch-size")
    assert call(*arguments, "3").hint() == "at most 2 rows fit"
    assert call(*arguments, "2").code == 0


def test_the_table_fits_in_80_columns(tiny: Path) -> None:
    done = call("bench", "-m", str(tiny), "--dtype", "float32,bfloat16", "--batch-size", "1,64", "--new-tokens", "3")
    lines = done.out.splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "at least 1 row, not 0"),
        (["--batch-size", "one"], "--batch-size: 'one' is not a list of whole numbers"),
        (["--batch-size", "1" + "0" * 400], "at most 2,147,483,647"),
        (["--dtype", "int7"], "no dtype 'int7'"),
        (["--new-tokens", "0"], "at least 1"),
        (["--new-tokens", "900"], "exceed the model's context of 64"),
    ],
)
def test_invalid_options_are_errors(tiny: Path, arguments: list[str], message: str) -> None:
    done = call("bench", "-m", str(tiny), *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_workload_without_batches_is_refused() -> None:
    with pytest.raises(UsageError):
        Workload(())
