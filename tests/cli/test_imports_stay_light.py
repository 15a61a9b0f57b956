"""Nothing is imported before it is needed: torch costs seconds, transformers more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genlm.cli.main import COMMANDS

HEAVY = {
    *("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "numpy"),
    *("matplotlib", "sacrebleu", "pyarrow", "ray"),
}
# Everything of genlm that the list of commands needs.
FOR_HELP = {
    "genlm",
    "genlm.cli",
    "genlm.cli.command",
    "genlm.cli.errors",
    "genlm.cli.main",
    "genlm.cli.signals",
    "genlm.errors",
    "genlm.records",
    "genlm.records.made_by",
    "genlm.records.serialize",
    "genlm.version",
    "genlm.views",
    "genlm.views.terminal",
}
RUN = "import sys; from genlm.cli.main import run; code = run(sys.argv[1:]); sys.stderr.write(str(code))"


def loaded_after(code: str, *arguments: str | Path) -> set[str]:
    """Return the modules that are loaded after `code` has run in its own process."""
    report = "import sys; print('\\nloaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def heavy_after(code: str, *arguments: str | Path) -> set[str]:
    """Return the heavy packages among them."""
    return HEAVY & loaded_after(code, *arguments)


def test_the_list_of_commands_imports_no_command() -> None:
    loaded = loaded_after(RUN, "--help")
    assert {name for name in loaded if name.partition(".")[0] == "genlm"} == FOR_HELP
    # Typer needs pydantic only to read arguments.
    assert not (HEAVY | {"pydantic"}) & loaded


def test_a_command_imports_no_other_command() -> None:
    loaded = loaded_after(RUN, "generate", "--help")
    commands = {row.place.partition(":")[0] for row in COMMANDS.values()}
    assert commands & loaded == {"genlm.cli.generate"}
    assert not {"genlm.tasks.saved", "genlm.views.pages", "genlm.views.python"} & loaded


def test_help_and_wrong_usage_import_nothing_heavy() -> None:
    helps = "; ".join(f"run(['{name}', '--help'])" for name in COMMANDS)
    assert heavy_after(f"{RUN}; {helps}; run(['generate', 'x', '-s', 'nope'])", "--help") == set()


def test_the_list_of_strategies_imports_nothing_heavy() -> None:
    assert heavy_after(f"{RUN}; run(['strategies', 'show', 'mirostat'])", "strategies") == set()


def test_the_package_imports_nothing_heavy_until_a_model_is_loaded() -> None:
    assert heavy_after("import genlm; genlm.Strategy, genlm.Generation, genlm.load") == set()


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (("generate", "Once", "--format", "json"), set()),
        (("compare", "Once", "-s", "greedy"), set()),
        (("compare", "Once", "-s", "sample", "-n", "2"), {"sacrebleu"}),
        (("batch", "prompts.txt", "-o", "out.jsonl"), set()),
        (("batch", "prompts.txt", "-o", "out.parquet"), {"pyarrow"}),
    ],
    ids=["generate", "compare", "compare-self-bleu", "batch", "parquet"],
)
def test_a_command_imports_only_the_heavy_packages_it_needs(
    command: tuple[str, ...], needed: set[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("Once\n")
    loaded = heavy_after(RUN, *command, "-m", tiny, "--max-new-tokens", "2")
    assert loaded - {"numpy"} == {"torch", "tokenizers", "safetensors"} | needed


def test_training_imports_matplotlib_for_its_curve_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("Once upon a time\n")
    options = ("--n-layer", "1", "--n-embd", "16", "--n-positions", "16", "--max-steps", "1", "--device", "cpu")
    loaded = heavy_after(RUN, "train", "corpus.txt", "-o", "model", *options)
    assert "matplotlib" in loaded
    assert not {"sacrebleu", "pyarrow", "ray"} & loaded
