"""`genlm env`: its report, the secrets that it leaves out, and broken packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from support.driving import call, genlm

import genlm as package

ROOT = Path(__file__).parents[2]
SECTIONS = ["genlm", "python", "packages", "machine", "environment", "hub_cache", "terminal", "torch"]


def report() -> dict[str, Any]:
    """Return the report as JSON."""
    done = call("env", "--format", "json")
    assert (done.code, done.err) == (0, "")
    record: dict[str, Any] = json.loads(done.out)
    return record


def values(text: str, section: str) -> dict[str, str]:
    """Return the names and values of a section of the text."""
    lines = text.partition(f"{section}\n")[2].splitlines()
    indented = lines[: next((at for at, line in enumerate(lines) if not line.startswith(" ")), None)]
    return {name: value.strip() for name, _, value in (line.strip().partition(" ") for line in indented)}


class TestReport:
    def test_names_the_versions_that_run(self) -> None:
        found = report()
        assert list(found) == SECTIONS
        assert found["genlm"]["version"] == package.__version__
        assert found["python"]["executable"].endswith(Path(sys.executable).name)
        assert found["packages"]["typer"] == importlib.metadata.version("typer")
        assert found["torch"]["version"] == torch.__version__
        assert found["torch"]["threads"] == torch.get_num_threads()
        assert found["torch"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()

    def test_lists_every_dependency(self) -> None:
        dependencies = (
            (ROOT / "pyproject.toml").read_text("utf-8").partition("\ndependencies = [")[2].partition("\n]")[0]
        )
        assert set(re.findall(r'^ *"([\w-]+)[^;]*",$', dependencies, re.MULTILINE)) <= set(report()["packages"])

    def test_as_text_is_plain_and_aligned(self) -> None:
        done = call("env")
        assert (done.code, done.err) == (0, "")
        assert [line for line in done.out.splitlines() if not line.startswith("  ")] == SECTIONS
        assert done.out.replace("\n", "").isprintable()
        starts = {re.match(r"  \S+ +", line).end() for line in done.out.split("packages\n")[1].splitlines()[:10]}  # type: ignore[union-attr]
        assert len(starts) == 1

    def test_as_text_fits_80_columns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LD_LIBRARY_PATH", "many words " * 20)
        monkeypatch.setenv("PYTHONPATH", "/long" * 30)
        lines = call("env").out.splitlines()
        # A path longer than that stays whole.
        assert all(len(line) <= 80 for line in lines if len(line.split()) > 2)
        assert sum("many" in line for line in lines) > 1
        assert any("/long" * 30 in line for line in lines)

    def test_counts_cached_models(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for kind, size in (("models--org--one", 1_500_000), ("models--two", 500_000), ("datasets--three", 1_000_000)):
            repository = tmp_path / kind
            snapshot = repository / "snapshots" / ("a" * 40)
            snapshot.mkdir(parents=True)
            (snapshot / "weights").write_bytes(bytes(size))
            (repository / "refs").mkdir()
            (repository / "refs" / "main").write_text("a" * 40)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        assert values(call("env").out, "hub_cache") == {"folder": str(tmp_path), "models": "2", "size": "3.0 MB"}

    def test_a_cache_that_does_not_exist_is_empty(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
        assert values(call("env").out, "hub_cache") == {
            "folder": str(tmp_path / "none"),
            "models": "0",
            "size": "0.0 MB",
        }

    def test_names_the_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        device = SimpleNamespace(name="Tesla T4", total_memory=16e9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
        assert report()["torch"]["gpus"] == ["Tesla T4, 16.0 GB"] * 2

    def test_does_not_import_packages_to_learn_their_versions(self, tmp_path: Path) -> None:
        (tmp_path / "torch.py").touch()
        environment = {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        imported = {line.rpartition("|")[2].strip() for line in genlm("env", env=environment).stderr.splitlines()}
        assert {"torch", "huggingface_hub"} <= imported
        assert not {"transformers", "tokenizers", "numpy", "pyarrow", "matplotlib", "ray"} & imported


class TestEnvironment:
    def test_shows_the_variables_that_are_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("GENLM_MODEL", "distilgpt2")
        monkeypatch.delenv("HF_ENDPOINT", raising=False)
        found = report()["environment"]
        assert found["OMP_NUM_THREADS"] == "1"
        assert found["GENLM_MODEL"] == "distilgpt2"
        assert found["HF_HUB_OFFLINE"] == "1"
        assert "HF_ENDPOINT" not in found

    @pytest.mark.parametrize("format", ["text", "json"])
    def test_never_shows_a_secret(self, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_sesame")
        monkeypatch.setenv("https_proxy", "jane:sesame@proxy:3128")
        monkeypatch.setenv("HF_ENDPOINT", "https://jane:se@same/sesame@hub.example/path")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame")
        shown = call("env", "--format", format).out
        assert "sesame" not in shown
        assert "jane" not in shown
        assert "https://***@hub.example/path" in shown
        assert len(re.findall(r'(HF_TOKEN|HTTPS_PROXY)"?:? +"?set\b', shown)) == 2

    def test_shortens_the_home_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "jane"))
        monkeypatch.setenv("USERPROFILE", str(tmp_path / "jane"))
        monkeypatch.setenv("GENLM_MODEL", str(tmp_path / "jane" / "model"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "janet"))
        found = report()["environment"]
        assert Path(found["GENLM_MODEL"]) == Path("~", "model")
        assert found["HF_HOME"] == str(tmp_path / "janet")

    def test_leaves_paths_whole_when_home_is_the_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/")
        monkeypatch.setenv("USERPROFILE", "C:\\")
        monkeypatch.setenv("GENLM_MODEL", "/models/C:\\mine")
        assert report()["environment"]["GENLM_MODEL"] == "/models/C:\\mine"

    def test_makes_control_characters_visible(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GENLM_MODEL", "[bold]\x1b[2J\nx")
        assert values(call("env").out, "environment")["GENLM_MODEL"] == "[bold]␛[2J x"


class TestBroken:
    def test_torch_that_cannot_be_imported_is_one_line(self, tmp_path: Path) -> None:
        message = "libcudart.so.13: cannot open shared object file\\n\\nsome advice"
        (tmp_path / "torch.py").write_text(f"raise OSError('{message}')\n")
        done = genlm("env", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
        assert (done.returncode, done.stderr) == (0, "")
        assert [line for line in done.stdout.splitlines() if not line.startswith("  ")] == SECTIONS
        last = " ".join(done.stdout.partition("\ntorch\n")[2].split())
        assert last == "import error: OSError: libcudart.so.13: cannot open shared object file some advice"

    def test_torch_that_crashes_leaves_the_other_sections(self, tmp_path: Path) -> None:
        (tmp_path / "torch.py").write_text("import os\nos.abort()\n")
        done = genlm("env", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
        assert done.returncode != 0
        assert [line for line in done.stdout.splitlines() if not line.startswith("  ")] == SECTIONS[:-1]

    def test_a_package_that_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(name: str) -> str:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        assert set(values(call("env").out, "packages").values()) == {"not installed"}
        assert set(report()["packages"].values()) == {None}

    def test_a_package_whose_files_are_missing_has_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find_spec(name))
        found = report()["packages"]
        assert "the package is missing" in found["rich"]["error"]
        assert found["typer"] == importlib.metadata.version("typer")

    def test_a_value_that_cannot_be_read_leaves_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> int:
            raise RuntimeError("no threads\nhere")

        monkeypatch.setattr(torch, "get_num_threads", fail)
        found = report()["torch"]
        assert found["threads"] == {"error": "RuntimeError: no threads here"}
        assert found["version"] == torch.__version__

    def test_a_warning_of_torch_about_the_gpu_driver_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def is_available() -> bool:
            warnings.warn("The NVIDIA driver on your system is too old", stacklevel=2)
            return False

        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        assert "driver on your system is too old" in report()["torch"]["gpus"]["error"]
