"""The progress of `genlm train`."""

from __future__ import annotations

import contextlib
import io
import sys
from unittest import mock

from support.driving import FakeTerminal

from genlm.records.train import TrainFacts, TrainReport, TrainResult
from genlm.views.train import TrainView, bar_numbers, report_line

FACTS = TrainFacts(
    *(None, "GPT2LMHeadModel", 8_900_000, 6, 320, 5, 512, "bpe", 4096, 63, 63, 21_500_000, 5_800_000, "file"),
    *(2, 724_699, None, {"dtype": "bfloat16"}, "float16", "cpu"),
)
REPORT = TrainReport(
    **{"step": 1200, "epoch": 1, "tokens": 4_915_200, "seconds": 1800.0, "progress": 0.25, "loss": 3.91234},
    **{"bits_per_byte": 1.52, "learning_rate": 1e-3, "tokens_per_s": 3236.5},  # type: ignore[arg-type]
)
EVALUATED = TrainReport(**{**vars(REPORT), "valid_loss": 3.8, "valid_bits_per_byte": 1.47, "sample": "a\x1b[2J king\n"})


def test_a_line_without_a_bar_has_all_numbers() -> None:
    assert report_line(REPORT, alone=True) == (
        "step 1,200  25%  loss 3.9123 (1.520 bits/byte)  3,236 tok/s  1:30:00 left"
    )
    assert report_line(EVALUATED, alone=True) == (
        "step 1,200  25%  loss 3.9123  valid 3.8000 (1.470 bits/byte)  3,236 tok/s  1:30:00 left"
    )


def test_the_numbers_beside_the_bar_fit_a_terminal() -> None:
    numbers = bar_numbers(REPORT, EVALUATED)
    assert numbers == "loss 3.912 valid 3.800 1.47 bits/byte 3,236 tok/s 1:30:00 left"
    assert len(numbers) + len("━" * 10 + " 100% ") <= 80


def test_control_characters_of_a_sample_are_made_visible() -> None:
    screen = FakeTerminal()
    with mock.patch.object(sys, "stderr", screen), TrainView(FACTS) as view:
        view.show(EVALUATED)
        view.show(TrainResult(4800, 19_660_800, 7000.0, 4400, True, 3.7, 1.43))
    shown = screen.getvalue()
    assert "a␛[2J king" in shown
    assert "\x1b[2J" not in shown
    assert "4,800 steps, 19,660,800 tokens in 1:56:40, ended early" in shown
    assert "kept step 4,400: on all the held-out text loss 3.7000 (1.4300 bits/byte)" in shown


def test_without_a_terminal_there_are_few_lines() -> None:
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream), TrainView(FACTS) as view:
        for step in range(1, 1001):
            view.show(TrainReport(**{**vars(REPORT), "step": step, "progress": step / 1000}))
    assert len(stream.getvalue().splitlines()) == 1 + 20 + 1
