"""`genlm tokenize`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.driving import as_json, call


def test_text_is_a_table_with_one_row_per_token(tiny: Path) -> None:
    done = call("tokenize", "fox\n狐", "-m", tiny)
    assert done.out.splitlines()[0].split() == ["#", "token", "id", "characters", "bytes", "mask"]
    assert "␊" in done.out
    assert "<E7>" in done.out
    assert "part of a character" in done.out
    assert done.out.splitlines()[-1].startswith("6 tokens, 5 characters, 7 bytes")


def test_a_table_of_a_hundred_thousand_tokens_is_not_much_slower_than_json(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("the king had three sons and a fox " * 6000)
    seconds = {}
    for format in ("json", "text"):
        started = time.process_time()
        done = call("tokenize", "--file", path, "-m", tiny, "--format", format)
        seconds[format] = time.process_time() - started
    lines = done.out.splitlines()
    assert len(lines) > 100_000
    assert len({len(line) for line in lines[2:-2]}) == 1
    assert lines[-1].startswith(f"{len(lines) - 4:,} tokens, ")
    assert seconds["text"] < 5 * seconds["json"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_long_line_takes_memory_in_proportion_to_its_bytes(tmp_path: Path, format: str) -> None:
    path = tmp_path / "line.txt"
    path.write_text("the king had three sons and a fox, naïve " * 20_000)
    arguments = ("tokenize", "--file", path, "-m", "fable", "--format", format, "-o", tmp_path / "out")
    code = "import sys; from genlm.cli.main import run; run(sys.argv[1:]); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True, text=True)
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    # The interpreter with its packages, and 100 bytes for each byte of the text.
    assert int(peak) * 1024 < 120e6 + 100 * path.stat().st_size


@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_narrow_terminal_shortens_only_tokens(tiny: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = call("tokenize", "fox 狐", "-m", tiny)
    found = as_json("tokenize", "fox 狐", "-m", tiny)["items"][0]["tokens"]
    rows = [line.split() for line in done.out.splitlines()[1 : 1 + len(found)]]
    assert [(int(row[2]), row[3], row[4]) for row in rows] == [
        (token["id"], f"{token['start']}-{token['end']}", f"{token['byte_start']}-{token['byte_end']}")
        for token in found
    ]


def test_json_has_the_offsets_of_every_token(tiny: Path) -> None:
    found = as_json("tokenize", "fox 狐", "-m", tiny)
    (item,) = found["items"]
    assert item["ids"] == [token["id"] for token in item["tokens"]]
    assert item["attention_mask"] == [1] * item["num_tokens"]
    assert (item["num_characters"], item["num_bytes"]) == (5, 7)
    last = item["tokens"][-1]
    assert (last["start"], last["end"], last["byte_start"], last["byte_end"]) == (4, 5, 6, 7)
    assert last["bytes"] == [0x90]
    assert found["total"] == {"num_texts": 1, "num_tokens": item["num_tokens"], "num_characters": 5, "num_bytes": 7}


def test_decoding_the_ids_restores_the_text(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("fox 狐\n\nthe <|endoftext|> end\n")
    ids = call("tokenize", "--file", path, "-m", tiny, "--format", "ids").out
    assert len(ids.splitlines()) == 3
    back = call("tokenize", "--decode", "--per", "line", "-m", tiny, stdin=ids.encode())
    assert back.out == path.read_text()


@pytest.mark.parametrize("ids", ["1.5", "1\n2\n1.5"])
def test_an_error_writes_no_partial_json(tiny: Path, ids: str) -> None:
    done = call("tokenize", "--decode", "--per", "line", "-m", tiny, "--format", "json", stdin=ids.encode())
    assert (done.code, done.out, done.error()) == (1, "", "not a token id: '1.5'")


def test_json_of_an_empty_file_is_an_object_without_items(tiny: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    found = as_json("tokenize", "--file", empty, "-m", tiny)
    assert (found["items"], found["total"]["num_texts"]) == ([], 0)


def test_jsonl_of_decoded_ids(tiny: Path) -> None:
    done = call("tokenize", f"[1, {'0' * 5000}2]", "--decode", "-m", tiny, "--format", "jsonl")
    assert json.loads(done.out)["ids"] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--decode", "1 two"], 1, "not a token id: 'two'"),
        (["--decode", "300"], 1, "the tokenizer has no token 300"),
        (["--decode", "9" * 5000], 1, f"the tokenizer has no token {'9' * 40}…"),
        (["--decode", "x" * 5000], 1, f"not a token id: '{'x' * 40}…'"),
        (["--decode", "1", "--format", "ids"], 2, "--decode and --format ids cannot be combined"),
    ],
)
def test_wrong_ids_are_errors(tiny: Path, arguments: list[str], code: int, error: str) -> None:
    done = call("tokenize", "-m", tiny, *arguments)
    assert (done.code, done.out, done.error()) == (code, "", error)
