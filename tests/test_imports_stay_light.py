"""Nothing is imported before it is needed: torch costs seconds, transformers more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "numpy"}


def heavy_after(code: str, *arguments: str) -> set[str]:
    """The heavy packages that are loaded once `code` has run in a process of its own."""
    report = "import sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )
    return HEAVY & set(done.stdout.splitlines()[-1].split())


RUN = "import sys; from genlm.cli.main import run; sys.stderr.write(str(run(sys.argv[1:])))"


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
