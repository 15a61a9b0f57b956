"""The progress of a batch, on this machine and on a cluster."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.batch import rows, write_lines
from support.driving import Done, FakeTerminal, call

from genlm.decoding.completion import Completion
from genlm.records.batch import BatchCounts, BatchModel, BatchRecord, ClusterState, RowError
from genlm.records.made_by import Versions
from genlm.views import batch as views
from genlm.views.batch import BatchProgress, ClusterProgress, format_duration


def record(*completions: Completion, error: RowError | None = None) -> BatchRecord:
    return BatchRecord(
        id=1,
        prompt="fox",
        completions=completions,
        model=BatchModel("tiny", None, None, "float32"),
        strategy="greedy",
        seed=0,
        max_new_tokens=3,
        num_return_sequences=1,
        stop=(),
        overflow="error",
        deterministic=False,
        made_by=Versions("1", "2", "5"),
        columns={},
        error=error,
    )


@pytest.fixture
def run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call("batch", *arguments, "-m", tiny, "--device", "cpu")


def test_without_a_terminal_lines_show_the_progress(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlm.views.batch.LINE_EVERY_S", 0.0)
    write_lines("in.jsonl", *rows(4))
    lines = run("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "3").err.splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("3 of 4 prompts  ")
    assert "tokens/s" in lines[2]
    assert lines[4].startswith("4 of 4 prompts are in out.jsonl  ")


def test_quiet_is_quiet(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *rows(2), "nope")
    done = run("in.jsonl", "-o", "out.jsonl", "-q")
    assert (done.code, done.out, done.err) == (3, "", "")


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5, 3.0, 4.0), ("", "", "", "", "", "47 s left", "53 s left")),
        ((10.0, 20.0, 30.0, 40.0, 50.0), ("", "", "", "", "15 min 50 s left")),
    ],
)
def test_the_time_left_is_shown_once_it_can_be_estimated(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    times: tuple[float, ...],
    shown: tuple[str, ...],
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(views.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(views, "LINE_EVERY_S", 0.0)
    with BatchProgress(BatchCounts(100, 0, 0)) as progress:
        for clock.now in times:
            progress.show(record())
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("tokens/s")[2].strip() for line in lines] == list(shown)


def test_loading_the_model_does_not_count_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 102.0])
    monkeypatch.setattr(views.time, "monotonic", lambda: next(clock))
    with BatchProgress(BatchCounts(2, 0, 0)) as progress:
        assert progress.seconds == 2.0


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeTerminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    with BatchProgress(BatchCounts(20, 5, 0)) as progress:
        progress.show(record(Completion(0, "abc", (1, 2, 3), "length", -1.0)))
        progress.show(record(error=RowError("bad \x1b[31m", "in.jsonl", 1, 4)))
    shown = screen.getvalue()
    assert "7/20" in shown
    assert "tokens/s" in shown
    assert "in.jsonl, line 4: bad ␛[31m" in shown
    assert progress.tokens == 3


def test_durations_are_short() -> None:
    seconds = [0.24, 9.9, 59.4, 61, 3599, 3661, 200_000]
    assert [format_duration(each) for each in seconds] == [
        "0.2 s",
        "9.9 s",
        "59 s",
        "1 min 01 s",
        "59 min 59 s",
        "1 h 01 min",
        "55 h 33 min",
    ]


def cluster_state(**changes: object) -> ClusterState:
    state = {"rows": 10, "done": 0, "made": 0, "tokens": 0, "seconds": 0.0, "workers": 0, "busy": 0, "errors": []}
    return ClusterState(**(state | changes))  # type: ignore[arg-type]


def test_a_cluster_without_workers_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("genlm.views.batch.time.monotonic", lambda: clock[0])
    progress = ClusterProgress()

    def warns_after(seconds: float, workers: int) -> bool:
        clock[0] += seconds
        progress.see(cluster_state(workers=workers))
        return "no worker is running" in capsys.readouterr().err

    assert not warns_after(0, workers=0)
    assert not warns_after(29, workers=0)
    assert not warns_after(1, workers=1)
    assert not warns_after(100, workers=0)
    assert not warns_after(29, workers=0)
    assert warns_after(2, workers=0)
    assert not warns_after(60, workers=0)


def test_a_cluster_shows_rows_speed_and_workers() -> None:
    with contextlib.redirect_stderr(FakeTerminal()) as screen, ClusterProgress() as progress:
        progress.see(cluster_state(rows=1000, done=600, made=500, tokens=20_000, seconds=10.0, workers=3, busy=3))
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    assert "600/1000 prompts 2,000 tokens/s  3 workers 8.0 s left" in shown
    assert progress.summary("parts", 2) == (
        "600 of 1,000 prompts are in parts  2 of them with an error  20,000 tokens in 10 s (2,000 tokens/s)"
    )
