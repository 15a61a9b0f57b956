"""Nothing is imported before it is needed: torch costs seconds, transformers more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from genlm.cli.main import COMMANDS

HEAVY = {"torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "numpy"}


# What the list of commands is made of.
FOR_HELP = {
    "genlm",
    "genlm.cli",
    "genlm.cli.command",
    "genlm.cli.hints",
    "genlm.cli.main",
    "genlm.cli.signals",
    "genlm.errors",
    "genlm.views",
    "genlm.views.terminal",
}


def loaded_after(code: str, *arguments: str) -> set[str]:
    """The modules that are loaded once `code` has run in a process of its own."""
    report = "import sys; print('loaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def heavy_after(code: str, *arguments: str) -> set[str]:
    """The heavy packages among them."""
    return HEAVY & loaded_after(code, *arguments)


RUN = "import sys; from genlm.cli.main import run; sys.stderr.write(str(run(sys.argv[1:])))"


def test_the_list_of_commands_imports_none_of_them() -> None:
    loaded = loaded_after(RUN, "--help")
    assert {name for name in loaded if name.partition(".")[0] == "genlm"} == FOR_HELP
    # Typer reads arguments with pydantic, and there are none to read.
    assert not (HEAVY | {"pydantic"}) & loaded


def test_a_command_imports_no_other() -> None:
    loaded = loaded_after(RUN, "generate", "--help")
    commands = {row.place.partition(":")[0] for row in COMMANDS.values()}
    assert commands & loaded == {"genlm.cli.generate"}
    assert not {"genlm.cli.replay", "genlm.views.pages.trace", "genlm.views.python"} & loaded


def test_help_and_wrong_usage_load_none() -> None:
    assert heavy_after(f"{RUN}; run(['generate', '--help']); run(['generate', 'x', '-s', 'nope'])", "--help") == set()


def test_the_list_of_strategies_loads_none() -> None:
    assert heavy_after(f"{RUN}; run(['strategies', 'show', 'mirostat'])", "strategies") == set()


def test_the_package_loads_none_until_a_model_is_loaded() -> None:
    assert heavy_after("import genlm; genlm.Strategy, genlm.Generation, genlm.load") == set()


def test_a_local_gpt2_needs_no_transformers_and_no_hub(tiny: Path) -> None:
    loaded = heavy_after(RUN, "generate", "-m", str(tiny), "Once", "--max-new-tokens", "2", "--format", "json")
    assert {"torch", "tokenizers", "safetensors"} <= loaded
    assert not {"transformers", "huggingface_hub"} & loaded
