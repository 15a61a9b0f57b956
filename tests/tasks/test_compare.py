"""`genlm compare`: its cells are those of `genlm generate`, its numbers are fair, and it can be shown again."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from support.batch import fingerprint_of
from support.driving import Done, FakeTerminal, Terminal, call, call_in_terminal, save_endless
from support.gpt2 import save_gpt2
from support.models import load, save_three_words
from support.networks import Recording, with_network

import genlm
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, ModelError, UsageError
from genlm.model.info import ModelInfo
from genlm.model.load import Model
from genlm.records.compare import METRICS, Cell, Estimate, StrategyComparison, StrategyRow
from genlm.records.made_by import MadeBy
from genlm.tasks import compare
from genlm.tasks.compare import Comparer, ComparisonSettings, Contender
from genlm.tasks.saved import read_comparison
from genlm.views.compare import (
    NAME_WIDTH,
    SHOWN,
    comparison_json,
    comparison_markdown,
    marked,
    metric_columns,
    repeated,
    show_comparison,
)

PROMPTS = ("Once upon a time", "The king")
HUMAN = (f"{PROMPTS[0]} there was a wolf who had three sons.", "It was dark in the wood, and nobody heard them.")
SPECS = ("greedy", "beam:num_beams=3", "top-k:top_k=20", "top-p", "contrastive")
# The keys that differ between equal runs.
TIMED = {"seconds", "tokens_per_s", "made_by"}


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


@pytest.fixture(scope="module")
def three_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_three_words(tmp_path_factory.mktemp("models") / "three")


@pytest.fixture(scope="module")
def compared(model: Model) -> StrategyComparison:
    return run(model, human=HUMAN, judge=model)


def contenders(*specs: str) -> list[Contender]:
    return [Contender(Strategy.parse(spec), {}) for spec in specs]


def run(model: Model, *specs: str, prompts: tuple[str, ...] = PROMPTS, **options: Any) -> StrategyComparison:
    settings = ComparisonSettings(
        options.pop("new", 12), options.pop("samples", 4), 7, options.pop("overflow", "error")
    )
    comparing = Comparer(model, prompts, contenders(*(specs or SPECS)), settings, **options)
    assert len(list(comparing)) == len(comparing)
    return comparing.result


def untimed(record: Any) -> Any:
    """Return a record without the keys that differ between equal runs."""
    if isinstance(record, dict):
        return {key: untimed(value) for key, value in record.items() if key not in TIMED}
    return [untimed(value) for value in record] if isinstance(record, list) else record


def as_json(done: Done) -> Any:
    assert done.code == 0, done.err
    return json.loads(done.out)


class Bounded(Recording):
    """A network that raises `error` if a prompt has more than `most` tokens."""

    def __init__(self, network: Any, most: int, error: Exception) -> None:
        super().__init__(network)
        self.most, self.error = most, error

    def prefill(self, prompts: Any, room: int) -> Any:
        if len(prompts[0]) > self.most:
            raise self.error
        return super().prefill(prompts, room)


class TestCells:
    def test_every_cell_has_the_completions_of_generate(self, compared: StrategyComparison, tiny: Path) -> None:
        lm = genlm.load(str(tiny))
        for row in compared.strategies:
            for cell, prompt in zip(row.cells, PROMPTS, strict=True):
                count = len(cell.samples)
                alone = lm.generate(prompt, strategy=row.spec, max_new_tokens=12, num_return_sequences=count, seed=7)
                assert [sample.text for sample in cell.samples] == [each.text for each in alone.completions]
                assert [sample.token_ids for sample in cell.samples] == [each.token_ids for each in alone.completions]
                for sample, each in zip(cell.samples, alone.completions, strict=True):
                    assert math.fsum(number or 0 for number in sample.logprobs) == pytest.approx(each.logprob, rel=1e-4)

    def test_a_deterministic_strategy_has_fewer_samples(self, compared: StrategyComparison) -> None:
        assert [len(row.cells[0].samples) for row in compared.strategies] == [1, 3, 4, 4, 1]

    def test_a_prompt_is_prefilled_once_for_all_strategies(self, model: Model) -> None:
        network = Recording(model.network)
        run(with_network(model, network))
        assert len(network.prefills) == len(PROMPTS)

    def test_the_samples_of_a_strategy_are_decoded_together(self, model: Model) -> None:
        network = Recording(model.network)
        run(with_network(model, network), "sample", prompts=PROMPTS[:1], new=6)
        assert network.rows == [4] * 5

    def test_equal_seeds_give_equal_tables(self, model: Model, compared: StrategyComparison) -> None:
        again = run(model, human=HUMAN, judge=model)
        assert untimed(json.loads(comparison_json(again))) == untimed(json.loads(comparison_json(compared)))

    def test_a_model_that_judges_itself_finds_the_same_perplexity(self, compared: StrategyComparison) -> None:
        # For human text only: encoding a completion need not give back its tokens.
        assert compared.reference is not None
        own, judged = (compared.reference.metrics[name] for name in ("perplexity", "judge_perplexity"))
        assert own is not None
        assert judged is not None
        assert judged.mean == pytest.approx(own.mean, rel=1e-4)

    def test_only_the_tokens_that_fit_a_page_have_a_trace(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compare, "MOST_TRACED", 2 * 30)
        found = run(model, "sample", "top-k", prompts=PROMPTS[:1])
        for row in found.rows:
            assert [sample.trace is not None for sample in row.samples] == [True, True, False, False]
            assert all(len(sample.logprobs) == len(sample.token_ids) for sample in row.samples)


class TestProgress:
    def test_it_names_the_strategy_and_advances_with_its_tokens(self, model: Model) -> None:
        reported: list[tuple[str, float]] = []
        run(model, "greedy", "sample", "contrastive", human=HUMAN, on_progress=lambda *each: reported.append(each))
        assert {name for name, _ in reported} == {"greedy", "sample", "contrastive:penalty_alpha=0.6", "reference"}
        done = [number for _, number in reported]
        assert done == sorted(done)
        for name, _ in reported:
            steps = {number % 1 for each, number in reported if each == name}
            assert len(steps) > 5 or name == "reference"

    def test_a_terminal_shows_it_as_a_bar(self, tmp_path: Path) -> None:
        endless = save_endless(tmp_path / "endless")
        with Terminal("compare", "Once", "-m", endless, "-s", "top-k:top_k=7", "--max-new-tokens", "15000") as terminal:
            terminal.wait_for("top-k:top_k=7")
            terminal.wait_for("━")
            terminal.press(b"\x03")
            assert terminal.end() == 130


class TestHumanText:
    def test_a_text_that_continues_a_prompt_is_scored_after_it(self, compared: StrategyComparison, tiny: Path) -> None:
        assert compared.reference is not None
        first, second = compared.reference.samples
        assert (first.prompt, first.text) == (0, " there was a wolf who had three sons."[: len(first.text)])
        assert (second.prompt, second.text[:6]) == (None, "It was")
        scored = genlm.load(str(tiny)).score(HUMAN[1]).tokens or ()
        assert [token.logprob for token in scored[:12]] == pytest.approx(list(second.logprobs), rel=1e-4)

    def test_it_is_cut_to_the_maximum_length_of_a_completion(self, compared: StrategyComparison) -> None:
        assert compared.reference is not None
        assert [len(sample.token_ids) for sample in compared.reference.samples] == [12, 12]

    def test_it_has_all_metrics_except_speed_and_endings(self, compared: StrategyComparison) -> None:
        assert compared.reference is not None
        undefined = {name for name, each in compared.reference.metrics.items() if each is None}
        assert undefined == {"ended", "tokens_per_s"}

    def test_distances_are_differences_from_it(self, compared: StrategyComparison) -> None:
        assert compared.reference is not None
        for row in compared.strategies:
            for name, distance in (row.distances or {}).items():
                one, other = row.metrics[name], compared.reference.metrics[name]
                expected = None if one is None or other is None else abs(one.mean - other.mean)
                assert distance == expected

    def test_without_a_start_token_its_first_token_is_not_scored(self, three_words: Path) -> None:
        model = load(three_words)
        assert model.start_id is None
        found = run(model, "greedy", prompts=("wolf",), human=["fox king wolf"], judge=model).reference
        assert found is not None
        (sample,) = found.samples
        assert (sample.logprobs[0], sample.entropies[0], sample.trace) == (None, None, None)
        assert None not in sample.logprobs[1:]
        assert sample.judgement is not None
        assert sample.judgement.tokens == 2
        assert sample.judgement.logprob == pytest.approx(sum(number or 0 for number in sample.logprobs), rel=1e-4)

    def test_it_continues_the_longest_prompt_that_it_begins_with(self, model: Model) -> None:
        found = run(model, "greedy", prompts=("The", "The king"), human=["The king had", "The king", "The"]).reference
        assert found is not None
        assert [(sample.prompt, sample.text) for sample in found.samples] == [(1, " had"), (0, " king"), (None, "The")]


class TestFailures:
    def test_a_prompt_with_an_error_for_one_strategy_is_a_failed_cell(self, three_words: Path, tmp_path: Path) -> None:
        (tmp_path / "prompts.txt").write_text("fox\nfox wolf\n")
        strict = "greedy:no_repeat_ngram_size=1"
        options = ("-m", three_words, "--file", tmp_path / "prompts.txt", "--max-new-tokens", "2", "--seed", "1")
        done = call("compare", *options, "-s", strict, "-s", "sample", "--format", "json")
        assert done.code == 3
        assert done.error() == (
            f"1 of 4 cells failed, the first {strict}, prompt 2: {strict} leaves no token to choose at new token 2"
        )
        rows = {row["strategy"]: row for row in json.loads(done.out)["rows"]}
        assert rows[strict]["error"] == f"{strict} leaves no token to choose at new token 2"
        assert [cell["completions"] for cell in rows[strict]["cells"]] == [1, 0]
        assert rows["sample"]["error"] is None
        assert [cell["completions"] for cell in rows["sample"]["cells"]] == [1, 1]
        assert rows[strict]["metrics"]["perplexity"]["mean"] > 1, "of the other prompt"
        text = call("compare", *options, "-s", strict, "-s", "sample")
        assert text.code == 3
        assert f"failed: {strict}, prompt 2: " in " ".join(text.out.split())
        (tmp_path / "saved.json").write_text(done.out)
        again = call("compare", "--from", tmp_path / "saved.json", "--format", "json")
        assert (again.code, again.out, again.error()) == (3, done.out, done.error())

    def test_a_strategy_that_fails_on_its_only_prompt_is_a_row_of_dashes(self, three_words: Path) -> None:
        strict = "greedy:no_repeat_ngram_size=1"
        options = ("fox wolf", "-m", three_words, "--max-new-tokens", "2", "--seed", "1", "-s", strict, "-s", "sample")
        done = call("compare", *options)
        assert done.code == 3
        assert f"{strict}:\nfailed: {strict} leaves no token" in done.out
        (row,) = [line for line in done.out.splitlines() if line.startswith(f"{strict} ")][:1]
        assert set(row.removeprefix(strict).split()) == {"0", "–"}

    def test_if_every_cell_fails_the_first_failure_is_the_error(self, tiny: Path) -> None:
        done = call("compare", "fox " * 60, "-m", tiny, "--seed", "1", "-s", "greedy", "-s", "sample")
        assert (done.code, done.out) == (1, "")
        assert "beyond the model's context of 64" in done.error()

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
    def test_a_cell_that_runs_out_of_memory_leaves_the_others(self, model: Model, error: Exception) -> None:
        full = Bounded(model.network, 4, error)
        found = run(with_network(model, full), "sample", prompts=("The king", "fox " * 9))
        (alone,), (row,) = run(model, "sample", prompts=("The king",)).rows, found.rows
        assert [cell.error for cell in row.cells] == [None, "out of memory"]
        assert row.cells[0].samples == alone.cells[0].samples

    def test_if_every_cell_runs_out_of_memory_that_is_the_error(self, model: Model) -> None:
        full = Bounded(model.network, 0, MemoryError())
        with pytest.raises(ModelError, match="out of memory"):
            run(with_network(model, full), "sample")

    def test_other_errors_of_the_model_are_not_reported_as_out_of_memory(self, model: Model) -> None:
        broken = Bounded(model.network, 0, RuntimeError("shapes"))
        with pytest.raises(RuntimeError, match="shapes"):
            run(with_network(model, broken), "sample")

    def test_an_interrupt_keeps_the_finished_cells(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prompts, out, page = tmp_path / "prompts.txt", tmp_path / "out.json", tmp_path / "page.html"
        prompts.write_text("The king\nfox\nwolf\n")
        model = ("-m", tiny, "--file", prompts, "--max-new-tokens", "3", "--seed", "1")
        options = (*model, "-s", "greedy", "-s", "sample")
        whole = as_json(call("compare", *options, "--format", "json"))
        continue_prompt, left = compare.continue_prompt, iter([True, True, True])

        def press(*args: Any, **options: Any) -> Any:
            if not next(left, False):
                raise KeyboardInterrupt
            return continue_prompt(*args, **options)

        monkeypatch.setattr(compare, "continue_prompt", press)
        done = call("compare", *options, "--format", "json", "-o", out, "--html", page)
        assert (done.code, done.out) == (130, "")
        assert "interrupted: 3 of 6 cells are complete" in done.err.splitlines()[-1]
        greedy, sample = json.loads(out.read_text())["rows"]
        assert [cell["error"] for cell in greedy["cells"]] == [None, None, "interrupted"]
        assert [cell["error"] for cell in sample["cells"]] == [None, "interrupted", "interrupted"]
        kept = [untimed(completion) for completion in greedy["completions"]]
        assert kept == [untimed(completion) for completion in whole["rows"][0]["completions"][:2]]
        assert "interrupted" in page.read_text()
        assert call("compare", "--from", out).code == 3

    def test_an_interrupt_before_the_first_cell_leaves_no_file(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def press(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(compare, "continue_prompt", press)
        done = call("compare", "The king", "-m", tiny, "--seed", "1", "-o", tmp_path / "out.txt")
        assert (done.code, done.out) == (130, "")
        assert not list(tmp_path.iterdir())

    def test_human_text_that_is_too_long_is_a_failed_cell(self, model: Model) -> None:
        long = "fox " * 60
        found = run(model, "greedy", prompts=("The king", long), human=[f"{long}wolf", "It was"])
        assert found.reference is not None
        assert [cell.error is None for cell in found.reference.cells] == [False, True]

    def test_an_invalid_strategy_ends_the_comparison(self, tiny: Path) -> None:
        done = call("compare", "The", "-m", tiny, "-s", "greedy", "-s", "greedy:logit_bias=9999:1")
        assert done.code == 2
        assert "logit_bias has token 9999" in done.error()

    def test_invalid_options_are_refused_before_a_model_is_loaded(self, tmp_path: Path) -> None:
        (tmp_path / "empty.txt").write_text("\n\n")
        (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": 5}\n')
        for arguments, message in [
            (("x", "-n", "0"), "num_return_sequences must be at least 1"),
            (("x", "--max-new-tokens", "0"), "max_new_tokens must be at least 1"),
            (("x", "--file", "y"), "PROMPT and --file cannot be combined"),
            (("--file", tmp_path / "no.txt"), "no such file"),
            (("--file", tmp_path / "empty.txt"), "holds no prompt"),
            (("--file", tmp_path / "bad.jsonl"), "line 2: no text under 'prompt'"),
            (("x", "--reference", tmp_path / "empty.txt"), "holds no text"),
            (("x", "--reference", tmp_path / "bad.jsonl"), "line 2: no text under 'text'"),
            (("x", "--presets", tmp_path / "p.toml", "-s", "greedy"), "no preset is used"),
            (("x", "--html", "-"), "--html needs a file"),
        ]:
            done = call("compare", *arguments, "-m", "nowhere")
            assert done.code in (1, 2), arguments
            assert message in done.error()


class TestJson:
    def test_it_has_the_documented_keys(self, tiny: Path) -> None:
        found = as_json(
            call(
                "compare", PROMPTS[0], "-m", tiny, "-n", "2", "--seed", "3", "--max-new-tokens", "5", "--format", "json"
            )
        )
        assert {"model", "seed", "prompts", "rows"} <= found.keys()
        assert (found["seed"], found["prompts"]) == (3, [PROMPTS[0]])
        assert [row["strategy"] for row in found["rows"]] == [
            "greedy",
            "beam:num_beams=4",
            "top-k:top_k=50",
            "top-p:top_p=0.9",
        ]
        for row in found["rows"]:
            assert {"strategy", "metrics", "completions", "error"} <= row.keys()
            assert tuple(row["metrics"]) == METRICS
            assert all(each.keys() == {"mean", "low", "high"} for each in row["metrics"].values())
            for completion in row["completions"]:
                assert len(completion["logprobs"]) == len(completion["token_ids"]) == len(completion["entropies"])
            logprobs = [number for completion in row["completions"] for number in completion["logprobs"]]
            assert row["metrics"]["perplexity"]["mean"] == pytest.approx(math.exp(-sum(logprobs) / len(logprobs)))

    def test_a_saved_comparison_is_read_unchanged(self, compared: StrategyComparison, tmp_path: Path) -> None:
        path = tmp_path / "saved.json"
        path.write_text(comparison_json(compared), encoding="utf-8")
        assert read_comparison(path) == compared

    def test_whole_numbers_are_read_as_floats_and_booleans_are_refused(
        self, compared: StrategyComparison, tmp_path: Path
    ) -> None:
        record = json.loads(comparison_json(compared))
        completion = record["rows"][0]["completions"][0]
        completion["logprobs"] = [-1, None, *completion["logprobs"][2:]]
        path = tmp_path / "saved.json"
        path.write_text(json.dumps(record))
        one, none, *_ = read_comparison(path).rows[0].cells[0].samples[0].logprobs
        assert (one, type(one), none) == (-1.0, float, None)
        completion["logprobs"] = [-1.0, True]
        path.write_text(json.dumps(record))
        assert (
            "rows[0].completions[0].logprobs[1]: expected float | null, got bool"
            in call("compare", "--from", path).error()
        )

    def test_a_saved_comparison_is_shown_without_a_model(self, compared: StrategyComparison, tmp_path: Path) -> None:
        path = tmp_path / "saved.json"
        path.write_text(comparison_json(compared), encoding="utf-8")
        for format in ("json", "markdown", "text"):
            done = call("compare", "--from", path, "--format", format)
            assert (done.code, done.err) == (0, "")
            stream = io.StringIO()
            show_comparison(stream, compared, texts=False)
            shown = {"json": comparison_json(compared), "markdown": comparison_markdown(compared)}
            assert done.out == shown.get(format, stream.getvalue())

    def test_options_that_a_saved_comparison_fixes_are_refused(self, tmp_path: Path) -> None:
        for arguments in (("x",), ("-s", "greedy"), ("--seed", "1"), ("--judge", "gpt2")):
            done = call("compare", "--from", tmp_path / "saved.json", *arguments)
            assert done.code == 2
            assert done.error().startswith("--from and ")
            assert done.error().endswith(" cannot be combined")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda record: [], "not a saved comparison: expected object, got array"),
            (lambda record: record | {"rows": []}, "rows: empty"),
            (lambda record: record | {"prompts": []}, "prompts: empty"),
            (lambda record: record | {"seed": "1"}, "seed: expected int, got str"),
            (lambda record: {key: value for key, value in record.items() if key != "model"}, "model is missing"),
            (
                lambda record: record | {"rows": [record["rows"][0] | {"metrics": {}}], "amounts": {}},
                "rows[0].metrics: not",
            ),
            (lambda record: record | {"amounts": {"x": {"texts": 1, "tokens": 1}}}, "amounts: of a metric that"),
            (
                lambda record: record | {"rows": [record["rows"][0] | {"best": ["x"]}]},
                "rows[0]: metrics, distances and",
            ),
            (lambda record: record | {"rows": [record["rows"][0] | {"distances": {}}]}, "rows[0]: metrics, distances"),
            (
                lambda record: record | {"rows": [record["rows"][0] | {"cells": []}]},
                "rows[0].cells: 0 completions, but the row has 2",
            ),
            (
                lambda record: record | {"rows": [record["rows"][0] | {"completions": []}]},
                "rows[0].cells: 2 completions, but the row has 0",
            ),
            (lambda record: record | {"rows": [{"strategy": 1}]}, "rows[0].strategy: expected str, got int"),
            (lambda record: record | {"prompts": ["only one"]}, "cells: one names a prompt that is not in the file"),
        ],
    )
    def test_a_file_that_is_no_comparison_is_refused(
        self, compared: StrategyComparison, tmp_path: Path, change: Callable[[Any], Any], message: str
    ) -> None:
        path = tmp_path / "saved.json"
        path.write_text(json.dumps(change(json.loads(comparison_json(compared)))))
        done = call("compare", "--from", path)
        assert (done.code, done.out) == (1, "")
        assert message in done.error()
        assert done.hint() == "genlm compare --format json writes one"

    def test_a_file_that_cannot_be_read_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot read"):
            read_comparison(tmp_path / "no.json")
        (tmp_path / "half.json").write_text('{"rows": [')
        with pytest.raises(InputError, match="not valid JSON"):
            read_comparison(tmp_path / "half.json")


class TestTables:
    def test_csv_has_a_line_per_row_and_a_column_per_number(self, compared: StrategyComparison, tmp_path: Path) -> None:
        path = tmp_path / "saved.json"
        path.write_text(comparison_json(compared), encoding="utf-8")
        lines = list(csv.DictReader(io.StringIO(call("compare", "--from", path, "--format", "csv").out)))
        assert [line["strategy"] for line in lines] == [row.name for row in compared.rows]
        for line, row in zip(lines, compared.rows, strict=True):
            for name in METRICS:
                estimate = row.metrics[name]
                assert line[name] == ("" if estimate is None else str(estimate.mean))
                assert line[f"{name}_low"] == ("" if estimate is None or estimate.low is None else str(estimate.low))
                distance = (row.distances or {}).get(name)
                assert line[f"{name}_distance"] == ("" if distance is None else str(distance))
            assert line["completions"] == str(len(row.samples))

    def test_markdown_marks_the_best_and_escapes_names(self, compared: StrategyComparison) -> None:
        odd = replace(compared.rows[0], name="a|b*c\n<i>", best=("perplexity",))
        others = (replace(row, best=()) for row in compared.rows[1:])
        lines = comparison_markdown(replace(compared, rows=(odd, *others))).splitlines()
        assert lines[0].count("|") == lines[1].count("|") == 1 + 1 + 2 + len(METRICS)
        assert lines[2].startswith("| a\\|b\\*c \\<i\\> | 2 | 24 | **")
        assert sum(line.count("**") for line in lines) == 2

    def test_the_table_fits_eighty_columns(self, compared: StrategyComparison) -> None:
        stream = io.StringIO()
        show_comparison(stream, compared)
        assert max(map(cell_len, stream.getvalue().splitlines())) <= 80

    def test_no_heading_or_number_is_cut_beside_long_names(self, compared: StrategyComparison) -> None:
        for length in range(1, NAME_WIDTH + 1):
            stream = io.StringIO()
            rows = tuple(replace(row, name="x" * length) for row in compared.rows)
            show_comparison(stream, replace(compared, rows=rows))
            assert "…" not in stream.getvalue()

    def test_a_number_that_rounds_to_zero_has_no_sign(self) -> None:
        (value,) = values_of("zipf", Estimate(-0.004, -0.2, -0.001))
        assert (value.text, value.interval) == ("0.00", "[-0.20, 0.00]")
        (value,) = values_of("tokens_per_s", Estimate(1234.6, None, None))
        assert (value.text, value.interval) == ("1,235", "")

    def test_each_metric_has_a_column(self) -> None:
        assert tuple(SHOWN) == METRICS


def values_of(name: str, *estimates: Estimate | None) -> list[Any]:
    """Return the last column of a table of strategies with one metric each."""
    rows = tuple(
        StrategyRow(f"s{at}", "greedy", {}, (Cell(0),), {name: estimate}) for at, estimate in enumerate(estimates)
    )
    info = ModelInfo("tiny", "local", None, 1, "float32", "cpu")
    return metric_columns(StrategyComparison(MadeBy.now(), info, None, 0, 1, 1, ("x",), {}, rows))[-1].values


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("abcdabcd", "....####"),
        ("abcdxabcdex", ".....####.."),
        ("aaaaaa", ".#####"),
        ("abcabd", "......"),
        ("", ""),
    ],
)
def test_repeated_passages_are_marked(tokens: str, expected: str) -> None:
    assert "".join(".#"[mark] for mark in repeated(list(map(ord, tokens)))) == expected


def test_only_the_first_of_many_failures_are_shown(compared: StrategyComparison) -> None:
    row = compared.rows[0]
    failed = replace(row, cells=(*row.cells, *(Cell(0, error="interrupted") for _ in range(14))))
    shown = io.StringIO()
    show_comparison(shown, replace(compared, rows=(failed, *compared.rows[1:])))
    lines = [line for line in shown.getvalue().splitlines() if line.startswith("failed: ")]
    assert len(lines) == 11
    assert lines[-1] == "failed: 4 more"


class TestUnequalAmounts:
    """Strategies with different numbers of texts are compared on equal amounts."""

    OPENINGS, TALES = (Path(__file__).parents[2] / "prompts" / name for name in ("openings.txt", "tales.txt"))

    @pytest.fixture(scope="class")
    @classmethod
    def saved(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Contrastive search with one text for each of five prompts, sampling with four, and four human texts."""
        path = tmp_path_factory.mktemp("saved") / "compared.json"
        files = ("--file", cls.OPENINGS, "--reference", cls.TALES)
        specs = ("-s", "contrastive", "-s", "top-p:top_p=0.95", "-s", "top-k:top_k=50")
        options = ("-n", "4", "--seed", "1", "-m", "fable", "--format", "json", "-o", path)
        assert call("compare", *files, *specs, *options).code == 0
        return path

    def test_metrics_that_depend_on_the_amount_of_text_are_computed_on_equal_amounts(self, saved: Path) -> None:
        record = json.loads(saved.read_text())
        contrastive, top_p, _, human = record["rows"]
        assert [(row["texts"], row["tokens"]) for row in record["rows"]] == [(5, 250), (20, 1000), (20, 1000), (4, 200)]
        names = ("self_bleu_4", "self_bleu_5", "distinct_1", "distinct_2", "distinct_3", "zipf")
        assert record["amounts"] == {name: {"texts": 4, "tokens": 200} for name in names}
        for name in ("self_bleu_4", "distinct_1", "zipf"):
            # On all texts of each, contrastive search would be nearer.
            assert top_p["distances"][name] < contrastive["distances"][name]
        assert human["distances"] is None

    def test_a_star_needs_intervals_that_support_it(self, saved: Path) -> None:
        record = json.loads(saved.read_text())
        contrastive, top_p, top_k, _ = record["rows"]
        assert contrastive["best"] == top_k["best"] == []
        assert not {*record["amounts"], "repetition", "seq_rep_4", "length"} & set(top_p["best"])
        for name in top_p["best"]:
            assert all(top_p["distances"][name] < row["distances"][name] for row in (contrastive, top_k))
        shown = " ".join(call("compare", "--from", saved, "--metrics", "self_bleu_4,distinct_1,zipf").out.split())
        assert "*" not in shown
        assert "these texts do not show which value is nearest to the human text, so none is marked" in shown

    @pytest.mark.parametrize("format", ["text", "markdown", "csv", "json"])
    def test_every_table_has_the_number_of_texts_and_tokens(self, saved: Path, format: str) -> None:
        shown = call("compare", "--from", saved, "--format", format, "--metrics", "zipf").out
        expected = {
            "text": (r"top-k:top_k=50 +20 +1,000 ", r"Zipf: of 4 texts with 200 tokens from each row"),
            "markdown": (r"\| top-k:top\\_k=50 \| 20 \| 1,000 \|", r"Zipf: of 4 texts with 200 tokens from each row"),
            "csv": (r"\ntop-k:top_k=50,[^\n]*,20,1000,,",),
            "json": (r'"texts": 20,\s*"tokens": 1000,', r'"texts": 4,\s*"tokens": 200'),
        }
        for pattern in expected[format]:
            assert re.search(pattern, shown)
        if format == "text":
            below = shown.split("distance to the human text:")[1]
            assert re.search(r"top-k:top_k=50 +20 +1,000 ", below)

    def test_without_human_text_only_speed_has_a_best_value(self, tiny: Path) -> None:
        prompts = ("--file", self.OPENINGS, "-m", tiny, "--max-new-tokens", "20", "--seed", "1")
        found = as_json(call("compare", *prompts, "-s", "greedy", "-s", "beam", "-s", "sample", "--format", "json"))
        assert {name for row in found["rows"] for name in row["best"]} <= {"tokens_per_s"}


class TestChoice:
    """The options that choose what is computed and shown."""

    def test_only_the_chosen_metrics_are_computed_and_shown(self, tiny: Path) -> None:
        options = ("-m", tiny, "--seed", "1", "--max-new-tokens", "4", "--metrics", "zipf, perplexity", "-s", "greedy")
        found = as_json(call("compare", "Once", *options, "--format", "json"))
        assert list(found["rows"][0]["metrics"]) == ["perplexity", "zipf"]
        table = call("compare", "Once", *options, "--no-texts").out
        assert table.split("\n")[0].split() == ["texts", "tokens", "perplexity", "Zipf"]

    def test_the_metrics_of_a_saved_comparison_can_be_chosen(
        self, compared: StrategyComparison, tmp_path: Path
    ) -> None:
        path = tmp_path / "saved.json"
        path.write_text(comparison_json(compared), encoding="utf-8")
        found = as_json(call("compare", "--from", path, "--metrics", "length,zipf", "--format", "json"))
        assert all(list(row["metrics"]) == ["zipf", "length"] for row in found["rows"])
        assert list(found["amounts"]) == ["zipf"]
        path.write_text(json.dumps(found))
        done = call("compare", "--from", path, "--metrics", "entropy")
        assert (done.code, done.error()) == (2, "--metrics: the saved comparison has none of these")
        assert done.hint() == "it has zipf, length"

    def test_an_unknown_metric_is_refused_before_a_model_is_loaded(self, tiny: Path) -> None:
        for given, unknown in (("zipf,perplexty", "perplexty"), ("", "")):
            done = call("compare", "x", "-m", "nowhere", "--metrics", given)
            assert (done.code, done.error()) == (2, f"--metrics: no metric {unknown!r}")
            assert done.hint().startswith("choose from perplexity, judge_perplexity, ")
        with pytest.raises(UsageError, match="no metric 'perplexty'"):
            genlm.load(str(tiny)).compare("x", metrics=["perplexty"])

    @pytest.mark.parametrize(
        ("strategies", "option", "has_texts"),
        [(4, None, True), (5, None, False), (5, "--texts", True), (4, "--no-texts", False)],
    )
    def test_texts_follow_the_table_if_they_are_few_or_requested(
        self, tiny: Path, strategies: int, option: str | None, has_texts: bool
    ) -> None:
        specs = [part for k in range(1, strategies + 1) for part in ("-s", f"top-k:top_k={k}")]
        options = ("-m", tiny, "--seed", "1", "--max-new-tokens", "4", "--metrics", "length")
        shown = call("compare", "Once", *options, *specs, *([option] if option else [])).out
        assert shown.split()[:3] == ["texts", "tokens", "length"]
        assert ("\ntop-k:top_k=1:\n" in shown) == has_texts

    def test_texts_of_several_prompts_are_shown_on_request(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "prompts.txt").write_text("The king\nThe fox\n")
        options = ("--file", tmp_path / "prompts.txt", "-m", tiny, "--seed", "1", "--max-new-tokens", "4")
        assert "greedy:\n" not in call("compare", *options, "-s", "greedy").out
        assert "greedy:\n" in call("compare", *options, "-s", "greedy", "--texts").out


class TestMadeBy:
    """Every format has the versions, the command, the model and the seed."""

    COMMAND = ("compare", "The fox", "--seed", "5", "--max-new-tokens", "3", "-s", "greedy", "--metrics", "zipf,length")

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        page = tmp_path_factory.mktemp("page") / "page.html"
        assert call(*cls.COMMAND, "-m", tiny, "--html", page, "-o", page.with_suffix(".txt")).code == 0
        return page

    def test_in_json(self, tiny: Path) -> None:
        found = as_json(call(*self.COMMAND, "-m", tiny, "--format", "json"))
        made_by = found["made_by"]
        assert made_by.keys() == {"genlm", "torch", "transformers", "command", "date"}
        assert made_by["genlm"] == genlm.__version__
        assert made_by["command"].startswith("genlm compare 'The fox' --seed 5")
        assert found["model"]["fingerprint"] == fingerprint_of(tiny)
        assert found["seed"] == 5

    def test_in_csv(self, tiny: Path) -> None:
        (line,) = csv.DictReader(io.StringIO(call(*self.COMMAND, "-m", tiny, "--format", "csv").out))
        assert line["command"].startswith("genlm compare 'The fox'")
        assert (line["genlm"], line["seed"], line["model"]) == (genlm.__version__, "5", str(tiny))
        assert line["fingerprint"] == fingerprint_of(tiny)
        assert all(line[name] for name in ("torch", "transformers", "date"))

    def test_in_markdown_and_the_page(self, tiny: Path, page: Path) -> None:
        markdown = call(*self.COMMAND, "-m", tiny, "--format", "markdown").out.replace("\\", "")
        footer = html.unescape(page.read_text().split("<footer")[1].split("</footer>")[0])
        for shown in (markdown, footer):
            assert f"made by genlm {genlm.__version__}, torch " in shown
            assert f"(fingerprint {fingerprint_of(tiny)}, float32, cpu), seed 5" in shown
            assert "command: genlm compare 'The fox' --seed 5" in shown

    def test_a_saved_comparison_keeps_its_original_command(self, page: Path, tiny: Path, tmp_path: Path) -> None:
        saved, again = tmp_path / "saved.json", tmp_path / "again.html"
        assert call(*self.COMMAND, "-m", tiny, "--format", "json", "-o", saved).code == 0
        assert call("compare", "--from", saved, "--html", again).code == 0
        assert "command: genlm compare &#x27;The fox&#x27; --seed 5" in again.read_text()

    def test_a_comparison_from_python_has_no_command(self, tiny: Path) -> None:
        lm = genlm.load(str(tiny))
        # A fresh context has no command line that ran before.
        found = Context().run(lambda: lm.compare("The fox", ["greedy"], max_new_tokens=2))
        assert found.made_by.command is None
        assert found.made_by.genlm == genlm.__version__


class TestRefusals:
    def test_more_completions_than_memory_can_hold_are_refused_at_once(self, tiny: Path) -> None:
        done = call("compare", "Once", "-m", tiny, "-n", "100000000000", "-s", "sample")
        assert (done.code, done.out) == (1, "")
        assert done.error().startswith("a comparison of 100,000,000,000 completions of up to 50 tokens needs about ")
        assert done.hint() == "lower num_return_sequences or max_new_tokens, or use fewer prompts"

    @pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999", "1" + "0" * 400, "1" + "0" * 5000])
    @pytest.mark.parametrize("key", ["mean", "seconds", "tokens"])
    def test_a_number_that_is_out_of_range_is_one_clear_line(
        self, compared: StrategyComparison, tmp_path: Path, number: str, key: str
    ) -> None:
        path = tmp_path / "saved.json"
        saved = re.sub(rf'"{key}": [\d.]+', f'"{key}": {number}', comparison_json(compared), count=1)
        assert number in saved
        path.write_text(saved)
        done = call("compare", "--from", path, "--format", "json", "--html", tmp_path / "page.html")
        if key == "tokens" and len(number) == 401:
            # JSON allows whole numbers of any size.
            assert done.code == 0
            return
        assert (done.code, done.out) == (1, "")
        assert done.error().startswith(f"{path}: not ")
        assert len(done.err.splitlines()) <= 2
        assert "unexpected" not in done.err

    @pytest.mark.parametrize("format", ["text", "json", "csv", "markdown"])
    def test_half_of_a_surrogate_pair_is_written_in_every_format(
        self, compared: StrategyComparison, tmp_path: Path, format: str
    ) -> None:
        path, out = tmp_path / "saved.json", tmp_path / "out"
        saved = json.loads(comparison_json(compared))
        saved["model"]["name"] = saved["prompts"][0] = "half \ud800"
        path.write_text(json.dumps(saved))
        assert call("compare", "--from", path, "--format", format).code == 0
        assert (
            call("compare", "--from", path, "--format", format, "-o", out, "--html", tmp_path / "page.html").code == 0
        )
        assert out.read_text("utf-8")

    def test_the_hint_for_a_missing_judge_names_no_other_option(self, tiny: Path) -> None:
        done = call("compare", "Once", "-m", tiny, "--judge", "nobody/nothing")
        assert done.code == 1
        assert done.hint().endswith("the bundled model fable needs no download")
        assert "-m fable" not in done.err


class TestHostileNames:
    NAME = "=1+1\x1b[31m\u202e\x9b\r"

    @pytest.fixture
    def saved(self, compared: StrategyComparison, tmp_path: Path) -> Path:
        path = tmp_path / "saved.json"
        odd = replace(compared.rows[0], name=self.NAME)
        path.write_text(comparison_json(replace(compared, rows=(odd, *compared.rows[1:]))), encoding="utf-8")
        return path

    @pytest.mark.parametrize("format", ["text", "json", "csv", "markdown"])
    def test_names_never_act_on_a_terminal(self, saved: Path, format: str) -> None:
        terminal = call_in_terminal("compare", "--from", saved, "--format", format, "--metrics", "zipf", "--no-texts")
        shown = terminal.shown.decode()
        assert "1+1" in shown
        assert "\x1b[31m\u202e" not in shown
        assert not {"\u202e", "\x9b"} & set(shown)

    def test_names_are_unchanged_in_csv(self, saved: Path) -> None:
        lines = list(csv.DictReader(io.StringIO(call("compare", "--from", saved, "--format", "csv").out, newline="")))
        assert lines[0]["strategy"] == self.NAME

    def test_csv_safe_keeps_a_spreadsheet_from_running_names(self, saved: Path) -> None:
        shown = call("compare", "--from", saved, "--format", "csv", "--csv-safe").out
        lines = list(csv.DictReader(io.StringIO(shown, newline="")))
        assert lines[0]["strategy"] == f"'{self.NAME}"
        assert [line["strategy"] for line in lines[1:]] == [
            row["strategy"] for row in json.loads(saved.read_text())["rows"][1:]
        ]
        assert float(lines[0]["mean_logprob"]) < 0, "numbers stay numbers"


class TestTerminal:
    def test_each_strategy_has_a_panel(self, compared: StrategyComparison) -> None:
        stream = FakeTerminal()
        show_comparison(stream, compared)
        shown = stream.getvalue()
        assert shown.count("╭") == shown.count("╰") == len(compared.rows)

    def test_marking_repeated_text_keeps_all_of_it(self, model: Model) -> None:
        found = run(model, "greedy", "top-p", prompts=PROMPTS[:1], new=40)
        for row in found.rows:
            for sample in row.samples:
                pieces = list(marked(sample))
                assert "".join(text for text, _ in pieces) == sample.text
        again = replace(found.rows[0].samples[0], trace=None)
        assert list(marked(again)) == [(again.text, False)]

    def test_texts_and_names_never_act_on_the_terminal(self, compared: StrategyComparison) -> None:
        row = compared.rows[0]
        hostile = "\x1b[31m[bold]x[/bold]\u202e"
        sample = replace(row.cells[0].samples[0], text=hostile, trace=None)
        cells = (replace(row.cells[0], samples=(sample,)), *row.cells[1:])
        for stream in (io.StringIO(), FakeTerminal()):
            changed = replace(compared, prompts=(hostile, "b"), rows=(replace(row, name=hostile, cells=cells),))
            show_comparison(stream, changed)
            shown = stream.getvalue()
            assert "␛[31m[bold]x[/bold]<U+202E>" in shown
            assert "\x1b[31m" not in shown
            assert "\u202e" not in shown

    def test_a_bar_counts_the_cells_and_leaves_no_trace(self, tiny: Path) -> None:
        options = ("--max-new-tokens", "3", "--seed", "1", "-s", "greedy")
        terminal = call_in_terminal("compare", "Once", "-m", tiny, *options)
        assert terminal.code == 0
        shown = terminal.shown.decode()
        assert "comparing" in shown
        assert "greedy" in shown.split("╭")[0], "the bar names the strategy"
        assert "0/1" in shown
        assert shown.rindex("\x1b[2K") < shown.index("╭"), "the bar is gone before the texts are shown"
        assert "1 strategy" in shown

    def test_an_interrupt_removes_the_bar_and_leaves_no_file(self, tmp_path: Path) -> None:
        endless, out = save_endless(tmp_path / "endless"), tmp_path / "out.json"
        options = ("--max-new-tokens", "15000", "--seed", "1", "--format", "json", "-o", out)
        with Terminal("compare", "Once", "-m", endless, "-s", "greedy", *options) as terminal:
            terminal.wait_for("0/1")
            terminal.press(b"\x03")
            assert terminal.end() == 130
        assert terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(b"\x1b[?25l"), "the cursor is visible again"
        assert not out.exists()


def test_the_page_and_the_result_can_be_written_together(tiny: Path, tmp_path: Path) -> None:
    page, out = tmp_path / "page.html", tmp_path / "out.json"
    options = ("--seed", "1", "--max-new-tokens", "4", "--format", "json")
    done = call("compare", "Once", "-m", tiny, *options, "-o", out, "--html", page)
    assert (done.code, done.out) == (0, "")
    again = tmp_path / "again.html"
    assert call("compare", "--from", out, "--html", again).code == 0
    assert page.read_text() == again.read_text()


def test_a_judge_scores_the_texts_in_its_own_tokens(tiny: Path, tmp_path: Path) -> None:
    judge = save_gpt2(tmp_path / "judge", seed=9)
    options = ("--seed", "1", "--max-new-tokens", "8", "-s", "top-p", "-s", "greedy", "--format", "json")
    found = as_json(call("compare", "Once", "-m", tiny, "--judge", judge, *options))
    assert found["judge"]["name"] == str(judge)
    lm = genlm.load(str(judge))
    for row in found["rows"]:
        (completion,) = row["completions"]
        whole, prompt = (lm.score(text, bos=False) for text in ("Once" + completion["text"], "Once"))
        new = (whole.tokens or ())[len(prompt.tokens or ()) :]
        assert completion["judgement"]["tokens"] == len(new)
        assert completion["judgement"]["logprob"] == pytest.approx(sum(token.logprob or 0 for token in new), rel=1e-3)
        assert row["metrics"]["judge_perplexity"]["mean"] == pytest.approx(
            math.exp(-completion["judgement"]["logprob"] / len(new))
        )


def test_python_gives_the_same_result(compared: StrategyComparison, tiny: Path) -> None:
    lm = genlm.load(str(tiny))
    found = lm.compare(PROMPTS, SPECS, num_return_sequences=4, max_new_tokens=12, seed=7, reference=HUMAN, judge=lm)
    assert untimed(json.loads(comparison_json(found))) == untimed(json.loads(comparison_json(compared)))
    alone = lm.compare(PROMPTS[0], ["greedy"], max_new_tokens=3)
    assert (alone.prompts, len(alone.rows), len(alone.rows[0].samples)) == (PROMPTS[:1], 1, 1)


@pytest.mark.parametrize(("prompts", "specs"), [([], SPECS), (PROMPTS, [])])
def test_a_comparison_needs_a_prompt_and_a_strategy(tiny: Path, prompts: Sequence[str], specs: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="at least one prompt and one strategy"):
        genlm.load(str(tiny)).compare(prompts, specs)


def test_without_a_seed_one_is_drawn_and_recorded(tiny: Path) -> None:
    options = ("--max-new-tokens", "2", "-s", "sample", "--format", "json")
    seeds = {as_json(call("compare", "Once", "-m", tiny, *options))["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_a_comparison_without_cells_has_no_result(model: Model) -> None:
    with pytest.raises(UsageError):
        ComparisonSettings(0, 1, 0)
    comparing = Comparer(model, ["fox " * 90], contenders("greedy"), ComparisonSettings(2, 1, 0))
    list(comparing)
    with pytest.raises((InputError, ModelError)):
        _ = comparing.result
