"""Files of prompts and of human texts, in which any bad row is an error."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from support.driving import piped

from genlm.errors import InputError
from genlm.formats.rows import read_human_texts, read_prompts


def save(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "The fox\n\nThe 狐\r\n"),
        ("a.unknown", "The fox\nThe 狐"),
        ("a", "The fox\nThe 狐"),
        ("a.txt.gz", "The fox\nThe 狐"),
        ("a.jsonl", '{"prompt": "The fox", "id": 1}\n{"prompt": "The 狐"}\n'),
        ("a.csv", "id,prompt\n1,The fox\n2,The 狐\n"),
        ("a.tsv", "prompt\tid\nThe fox\t1\nThe 狐\t2\n"),
    ],
)
def test_prompts_are_lines_or_a_column(tmp_path: Path, name: str, text: str) -> None:
    assert read_prompts(save(tmp_path, name, text)) == ("The fox", "The 狐")


def test_prompts_can_be_piped_in() -> None:
    with piped(b"The fox\nThe wolf\n"):
        assert read_prompts(Path("-")) == ("The fox", "The wolf")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "One.\n\nTwo.\n", ("One.", "Two.")),
        ("a.jsonl", '{"text": "One."}\n{"text": ""}\n{"text": "Two."}', ("One.", "Two.")),
        ("a.jsonl", '{"prompt": "The fox", "text": " ran."}\n{"text": "Two."}', ("The fox ran.", "Two.")),
        ("a.csv", "prompt,text\nThe fox, ran.\n", ("The fox ran.",)),
    ],
)
def test_human_texts_follow_their_prompts(tmp_path: Path, name: str, text: str, expected: tuple[str, ...]) -> None:
    assert read_human_texts(save(tmp_path, name, text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "holds no prompt"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": 5}', "line 2: no text under 'prompt'"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt"', "line 2: not valid JSON"),
        ("a.csv", "text\nfox\n", "line 2: no text under 'prompt'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prompts(save(tmp_path, name, text))


def test_a_file_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no text"):
        read_human_texts(save(tmp_path, "a.jsonl", '{"text": ""}'))
