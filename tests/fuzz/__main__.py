"""Fuzz the commands for as long as you like: make fuzz FUZZ_SECONDS=600.

Each target gets its turn, a few examples at a time, until the time is over. The first case of a target that breaks the
contract is reduced to a small one and its files are kept; the other targets go on. The same seed gives the same cases.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CONFIG_HOME": os.devnull, "COLUMNS": "80"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, Phase, given, seed, settings
from support.gpt2 import save_gpt2

from fuzz.contract import check, limit_memory
from fuzz.targets import TARGETS, Case, Fixtures

EXAMPLES_PER_TURN = 20


class Turn:
    """The examples of a target in one turn; `last` is the case that was checked last."""

    def __init__(self, name: str, fixtures: Fixtures) -> None:
        self.cases = TARGETS[name](fixtures)
        self.examples = 0
        self.last: Case | None = None
        self.has_failed = False

    def run(self, number: int, deadline: float) -> None:
        """Check the examples that `number` seeds. Raise what breaks the contract."""

        @seed(number)
        @settings(
            max_examples=EXAMPLES_PER_TURN,
            phases=(Phase.generate, Phase.shrink),
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(self.cases)
        def examine(case: Case) -> None:
            # A failing case is reduced even after the deadline.
            if time.monotonic() > deadline and not self.has_failed:
                return
            self.last = case
            self.examples += 1
            try:
                check(case)
            except BaseException:
                self.has_failed = True
                raise

        examine()


def main() -> int:
    """Fuzz until the time is over. Return 1 if a command broke the contract."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        fixtures = Fixtures(save_gpt2(Path(folder, "model")), Path(folder))
        turns = {name: Turn(name, fixtures) for name in options.targets or TARGETS}
        limit_memory()
        broken = fuzz(turns, options.seed, time.monotonic() + options.seconds)
    for name, turn in turns.items():
        print(f"{name:10} {turn.examples:6,} examples{'  BROKEN' if name in broken else ''}")
    return 1 if broken else 0


def fuzz(turns: dict[str, Turn], first_seed: int, deadline: float) -> set[str]:
    """Give each target its turns until the deadline. Return the targets that broke the contract."""
    broken: set[str] = set()
    number = first_seed
    while time.monotonic() < deadline and len(broken) < len(turns):
        for name, turn in turns.items():
            if name in broken:
                continue
            try:
                # Reducing a case takes some time of its own.
                turn.run(number, deadline)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                broken.add(name)
                show(name, number, turn.last, error)
        number += 1
    return broken


def show(name: str, number: int, case: Case | None, error: BaseException) -> None:
    """Print what broke the contract, and keep the files of the case."""
    # Hypothesis groups them if it finds several.
    for each in getattr(error, "exceptions", [error]):
        print(f"{name}, seed {number}: {type(each).__name__}: {str(each)[:3000]}")
    if case is None:
        return
    folder = Path(tempfile.mkdtemp(prefix=f"genlm-fuzz-{name}-"))
    for path, data in case.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "stdin").write_bytes(case.stdin)
    print(f"  in {folder}: {str(case).encode('utf-8', 'backslashreplace').decode()}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
