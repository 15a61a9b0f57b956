"""Named strategies in a TOML file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from genlm.decoding.kinds.shared import BAD_WORDS
from genlm.decoding.presets import read_presets
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError


def write(folder: Path, contents: str | bytes) -> Path:
    path = folder / "presets.toml"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return path


def test_a_preset_has_the_strategy_of_its_kind_and_fields(tmp_path: Path) -> None:
    path = write(tmp_path, '["dry run"]\nkind = "beam"\nnum_beams = 3\nearly_stopping = true\n\n[p]\nkind = "greedy"\n')
    presets = {name: preset.strategy for name, preset in read_presets(path).items()}
    assert presets == {
        "dry run": Strategy.parse("beam:num_beams=3,early_stopping=true"),
        "p": Strategy.parse("greedy"),
    }
    assert presets["dry run"].name == "dry run"


def test_a_whole_number_is_accepted_as_a_number(tmp_path: Path) -> None:
    presets = read_presets(write(tmp_path, '[warm]\nkind = "sample"\ntemperature = 2\n'))
    assert presets["warm"].strategy == Strategy.parse("sample:temperature=2.0")


def test_a_list_is_accepted_as_its_text(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[a]\nkind = "greedy"\nbad_words = ["king", "50%, or so"]\nlogit_bias = ["7:1", "5:-2"]\n'
        '[b]\nkind = "greedy"\nbad_words = "king|50%25%2C or so"\nlogit_bias = "5:-2.0;7:1.0"\n',
    )
    presets = read_presets(path)
    assert presets["a"].strategy == presets["b"].strategy
    assert presets["a"].strategy[BAD_WORDS] == ("king", "50%, or so")


def test_an_empty_file_has_no_presets(tmp_path: Path) -> None:
    assert read_presets(write(tmp_path, "")) == {}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('[a]\nkind = "top-k"\nnum_beams = 4\n', "preset 'a': field 'num_beams' does not apply to kind 'top-k'"),
        ('[a]\nkind = "top-k"\ntop_k = "4"\n', "preset 'a': top_k must be a whole number at least 1, not '4'"),
        ('[a]\nkind = "top-k"\ntop_k = inf\n', "preset 'a': top_k must be a whole number at least 1, not inf"),
        (
            '[a]\nkind = "top-k"\nbad_words = ["a", ""]\n',
            "preset 'a': bad_words must be words separated by |, not ['a', '']",
        ),
        ('[a]\nkind = "nucleus"\n', "preset 'a': no strategy kind 'nucleus'"),
        ("[a]\ntop_k = 4\n", "preset 'a' needs a table with a kind"),
        ("[a]\nkind = 4\n", "preset 'a' needs a table with a kind"),
        ('kind = "greedy"\n', "preset 'kind' needs a table with a kind"),
        ("[a\n", "not a TOML file"),
        (b"[caf\xe9]\n", "not a TOML file"),
        ("a = " + "[" * 100_000, "values are nested too deeply"),
        ("a = " + "{a = " * 100_000, "values are nested too deeply"),
        ('[a]\nkind = "top-k"\ntop_k = ' + "1" * 5000, "a number has too many digits"),
        ('[a]\nkind = "top-k"\ntop_k = 0x' + "f" * 5000, "preset 'a': top_k must be a whole number at least 1, not a"),
        (".".join(["a"] * 20_000) + " = 1", "a key with more than 50 parts"),
        ("[" + ' . "a"' * 20_000 + "]", "not a TOML file"),
        ('["a"' + ' . "a"' * 20_000 + "]", "a key with more than 50 parts"),
        ("#" * (1 << 20) + "#", "a file of presets has at most 1,048,576 bytes"),
        (f'["{"a" * 9000}"]\nkind = "greedy"\n{"b" * 9000} = 1', f"preset '{'a' * 59}…: no field '{'b' * 59}…"),
    ],
)
def test_an_error_names_the_file_and_the_preset(tmp_path: Path, contents: str | bytes, message: str) -> None:
    path = write(tmp_path, contents)
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_presets(path)
    assert time.monotonic() - started < 5
    assert str(caught.value).startswith(f"{path}: {message}")
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read presets .*: No such file or directory"):
        read_presets(tmp_path / "absent.toml")
    with pytest.raises(InputError, match=r"cannot read presets .*: Is a directory"):
        read_presets(tmp_path)
