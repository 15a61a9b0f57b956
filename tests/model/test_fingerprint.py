"""A fingerprint identifies the contents of a model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.gpt2 import edit_json

from genlm.errors import ModelError
from genlm.model.fingerprint import fingerprinted
from genlm.model.source import ModelFolder, find_model


def of(folder: Path) -> str:
    fingerprint = fingerprinted(find_model(str(folder))).fingerprint
    assert fingerprint is not None
    return fingerprint


def test_a_copy_has_the_same_fingerprint(tiny: Path, copied: Path) -> None:
    assert of(copied) == of(tiny)
    assert len(of(tiny)) == 16


def flip_last_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change_config(folder: Path) -> None:
    edit_json(folder / "config.json", n_head=8)


def swap_two_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    contents = json.loads(path.read_text())
    words = contents["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize("change", [flip_last_byte, change_config, swap_two_tokens])
def test_any_change_that_affects_texts_changes_it(tiny: Path, copied: Path, change: Callable[[Path], None]) -> None:
    change(copied)
    assert of(copied) != of(tiny)


def test_other_files_do_not_change_it(tiny: Path, copied: Path) -> None:
    (copied / "README.md").write_text("a card")
    (copied / "log.jsonl").write_text("{}")
    assert of(copied) == of(tiny)


def test_sharded_weights_count_too(copied: Path) -> None:
    shutil.move(copied / "model.safetensors", copied / "part-1.safetensors")
    (copied / "model.safetensors.index.json").write_text('{"weight_map": {"wte.weight": "part-1.safetensors"}}')
    before = of(copied)
    with (copied / "part-1.safetensors").open("ab") as stream:
        stream.write(b"x")
    assert of(copied) != before


def test_the_bundled_model_has_a_fingerprint_and_a_hub_commit_needs_none(tmp_path: Path) -> None:
    assert fingerprinted(find_model("fable")).fingerprint is not None
    published = ModelFolder("gpt2", "hub", tmp_path, "607a30d")
    assert fingerprinted(published) is published


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights in"):
        fingerprinted(find_model(str(tmp_path)))
