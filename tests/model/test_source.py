from __future__ import annotations

from pathlib import Path

import pytest

from genlm.errors import HubUnreachable, ModelError
from genlm.model.source import BUNDLED_FOLDER, ModelFolder, find_model


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No Hub and nothing in the cache; the names that were asked for."""
    asked: list[str] = []

    def fetch(name: str, *_: object) -> ModelFolder:
        asked.append(name)
        raise HubUnreachable(name, "the Hub is asleep")

    monkeypatch.setattr("genlm.model.hub.fetch", fetch)
    return asked


def test_the_bundled_model(unreachable: list[str]) -> None:
    assert find_model("fable") == ModelFolder("fable", "bundled", BUNDLED_FOLDER / "fable")
    assert unreachable == []


def test_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreachable: list[str]) -> None:
    assert find_model(str(tmp_path)) == ModelFolder(str(tmp_path), "local", tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("mine") == ModelFolder("mine", "local", Path("mine"))
    assert find_model("~/mine").path == tmp_path / "mine"
    assert unreachable == []


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere", "~/nowhere", "~nobody-of-this-name/x", "a/b/c", "C:/nowhere", "C:nowhere"]
)
def test_a_folder_that_is_not_there(name: str, unreachable: list[str]) -> None:
    with pytest.raises(ModelError, match=f"^model {name}: no such folder$") as caught:
        find_model(name)
    assert caught.value.hint == "a local model is a folder in Hugging Face format"
    assert unreachable == []


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelError, match=r"model\.safetensors: a file, not a folder$"):
        find_model(str(path))


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name(name: str, unreachable: list[str]) -> None:
    with pytest.raises(ModelError, match="the model's name is empty"):
        find_model(name)
    assert unreachable == []


def test_only_models_of_the_hub_have_revisions(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the bundled model fable has no revisions"):
        find_model("fable", revision="main")
    with pytest.raises(ModelError, match="is a local folder, which has no revisions"):
        find_model(str(tmp_path), revision="main")


def test_without_a_name_and_without_gpt2_the_bundled_model_runs_and_says_so(unreachable: list[str]) -> None:
    notices: list[str] = []
    assert find_model(None, notify=notices.append).name == "fable"
    assert notices == ["gpt2 is not in the cache and the Hub is asleep: using the bundled model fable"]
    assert unreachable == ["gpt2"]


@pytest.mark.parametrize("name", ["gpt2", "someone/tiny"])
def test_a_name_that_was_given_is_never_replaced(name: str, unreachable: list[str]) -> None:
    notices: list[str] = []
    with pytest.raises(HubUnreachable, match=f"{name} is not in the cache, and the Hub is asleep") as caught:
        find_model(name, notify=notices.append)
    assert caught.value.code == "hub-unreachable"
    assert notices == []
    assert unreachable == [name]


def test_a_revision_that_was_given_is_never_replaced(unreachable: list[str]) -> None:
    with pytest.raises(HubUnreachable, match="gpt2 is not in the cache"):
        find_model(None, revision="main")


@pytest.mark.parametrize("name", ["no spaces allowed", "-x", "a--b", "x" * 100])
def test_a_name_that_no_model_can_have(name: str) -> None:
    with pytest.raises(ModelError, match=f"^no model is called '{name}'$") as caught:
        find_model(name)
    assert caught.value.hint == "a model is fable, a local folder, or a Hub id such as gpt2"
