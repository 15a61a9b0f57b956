"""`genlm score`."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.driving import Terminal, as_json, call, read_first, start
from support.systems import needs_unix


def test_json_has_the_documented_keys(tiny: Path) -> None:
    found = as_json("score", "Once upon a time", "-m", tiny)
    assert found["model"]["source"] == "local"
    assert (found["bos"], found["window"], found["stride"]) == (True, 64, 32)
    (item,) = found["items"]
    assert item["text"] == "Once upon a time"
    assert set(item["tokens"][0]) == {"id", "text", "logprob", "rank", "entropy"}
    assert item["num_tokens"] == len(item["tokens"])
    assert item["num_bytes"] == 16
    assert item["logprob"] == pytest.approx(sum(token["logprob"] for token in item["tokens"]))
    assert item["perplexity"] == pytest.approx(math.exp(-item["logprob"] / item["num_tokens"]))
    assert item["bits_per_byte"] == pytest.approx(-item["logprob"] / math.log(2) / 16)
    assert found["total"]["num_texts"] == 1
    assert found["total"]["logprob"] == item["logprob"]
    assert sum(found["total"]["ranks"].values()) == item["num_tokens"]


def test_files_are_scored_by_line_or_whole(tiny: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "one.txt", tmp_path / "two.txt"
    first.write_text("fox\n\nwolf and fox\n")
    second.write_text("king" * 100)
    files = ["--file", first, "--file", second]
    found = as_json("score", *files, "-m", tiny)
    assert [(item["source"], item["line"], item["text"]) for item in found["items"]] == [
        (str(first), 1, "fox"),
        (str(first), 2, ""),
        (str(first), 3, "wolf and fox"),
        (str(second), 1, "king" * 100),
    ]
    assert found["items"][1]["perplexity"] is None
    assert found["total"]["num_bytes"] == sum(item["num_bytes"] for item in found["items"])
    whole = as_json("score", *files, "--per", "file", "--no-tokens", "-m", tiny)
    assert [item["num_bytes"] for item in whole["items"]] == [18, 400]
    assert "tokens" not in whole["items"][0]
    shown = call("score", *files, "--per", "file", "-m", tiny)
    assert str(second) in shown.out
    assert "2 texts, " in shown.out


def test_tokens_of_a_whole_file_are_shown_on_request(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("fox\nfox")
    for options in (["--file", path, "--per", "file"], ["fox\nfox"]):
        assert "␊" in call("score", *options, "--tokens", "-m", tiny).out


def test_jsonl_has_one_object_per_line(tiny: Path) -> None:
    done = call("score", "--per", "line", "-m", tiny, "--format", "jsonl", stdin=b"fox\n\nwolf\n")
    items = [json.loads(line) for line in done.out.splitlines()]
    assert [item["text"] for item in items] == ["fox", "", "wolf"]
    assert done.err.startswith(str(tiny))
    assert "a start token before each text" in done.err


def test_a_token_that_is_part_of_a_character_has_its_bytes(tiny: Path) -> None:
    (item,) = as_json("score", "é🦊", "-m", tiny)["items"]
    parts = [token.get("bytes") for token in item["tokens"] if "bytes" in token]
    assert b"".join(map(bytes, parts)).decode().endswith("🦊")


def test_without_a_start_token_the_first_token_has_no_score(tiny: Path) -> None:
    done = call("score", "fox", "--no-bos", "--tokens", "-m", tiny)
    assert "–" in done.out.splitlines()[3]
    assert "no start token" in done.err
    assert as_json("score", "f", "--no-bos", "-m", tiny)["items"][0]["tokens"][0]["logprob"] is None


def test_an_empty_file_has_empty_totals(tiny: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    found = as_json("score", "--file", empty, "-m", tiny)
    assert found["items"] == []
    assert (found["total"]["num_texts"], found["total"]["perplexity"]) == (0, None)
    assert "0 texts" in call("score", "--file", empty, "-m", tiny).out


def test_invalid_utf8_is_an_error_before_any_output(tiny: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\nno\xfft\n")
    done = call("score", "--file", bad, "-m", tiny)
    assert (done.code, done.out, done.error()) == (1, "", f"{bad}: not valid UTF-8 at byte 7")


@pytest.mark.parametrize("format", ["text", "json", "jsonl"])
def test_damaged_weights_are_an_error_without_partial_output(copied: Path, format: str) -> None:
    weights = load_file(copied / "model.safetensors")
    save_file(
        {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}, copied / "model.safetensors"
    )
    done = call("score", "Once upon a time", "-m", copied, "--format", format)
    assert (done.code, done.out) == (1, "")
    assert done.error().startswith("the model's logits are not numbers")


@pytest.mark.parametrize("stride", ["0", "65"])
def test_a_stride_beyond_the_context_is_an_error(tiny: Path, stride: str) -> None:
    done = call("score", "x", "-m", tiny, "--stride", stride)
    assert (done.code, done.error()) == (2, f"the stride must be from 1 to the model's context of 64, not {stride}")


def test_html_writes_a_page_and_shows_the_result(tiny: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = call("score", "Once", "-m", tiny, "--html", page)
    assert done.code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert "perplexity" in done.out


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--html", "-"], 2, "--html needs a file: standard output carries the result"),
        (["--html", "same", "-o", "same"], 2, "--output and --html are the same file, same"),
        (["--html", "absent/page.html"], 1, "cannot write absent/page.html: No such file or directory"),
    ],
)
def test_a_page_that_cannot_be_written_is_an_error(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("score", "x", "-m", tiny, *options)
    assert (done.code, done.error()) == (code, error)
    assert list(tmp_path.iterdir()) == []


@needs_unix("no symbolic links")
@pytest.mark.parametrize("output", ["out.txt", "loop"])
def test_a_loop_of_symbolic_links_cannot_be_a_page(tiny: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "loop").symlink_to("other")
    (tmp_path / "other").symlink_to("loop")
    done = call("score", "x", "-m", tiny, "--html", tmp_path / "loop", "-o", tmp_path / output)
    assert (done.code, done.out) == (1, "")
    assert done.error() == f"cannot write {tmp_path / 'loop'}: {os.strerror(errno.ELOOP)}"


def test_lines_are_scored_as_they_arrive(tiny: Path) -> None:
    process = start("score", "--file", "-", "-m", tiny, "--format", "jsonl", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"fox\n" * 600)
    assert read_first(process, 16) == b'{"text": "fox", '
    process.kill()
    process.communicate()


def test_a_terminal_shows_colours_and_visible_control_characters(tiny: Path) -> None:
    with Terminal("score", "fox \x1b]0;title\x07 [red]wolf[/red]", "-m", tiny) as terminal:
        assert terminal.end() == 0
    shown = terminal.shown.decode()
    assert "\x1b]0" not in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "fox ␛]0;title␇ [red]wolf[/red]" in plain
    assert "\x1b[32m" in shown, "something is in the top ten"
    assert re.search(r"top 10 +\d+ ", plain)
