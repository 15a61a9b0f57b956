"""Fuzz the commands: make fuzz FUZZ_SECONDS=600.

The targets take turns, a few examples at a time. The first case of a target that breaks the contract is reduced to a
small one, and its files are kept; the other targets continue. Equal seeds give equal cases.
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


class Target:
    """A target, and the results of its examples so far."""

    def __init__(self, name: str, fixtures: Fixtures) -> None:
        self.cases = TARGETS[name](fixtures)
        self.examples = 0
        self.last: Case | None = None
        self.has_failed = False

    def run(self, number: int, deadline: float) -> None:
        """Check some examples, with `number` as their seed. Raise the first failure."""

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
        targets = {name: Target(name, fixtures) for name in options.targets or TARGETS}
        limit_memory()
        fuzz(targets, options.seed, time.monotonic() + options.seconds)
    for name, target in targets.items():
        print(f"{name:10} {target.examples:6,} examples{'  BROKEN' if target.has_failed else ''}")
    return int(any(target.has_failed for target in targets.values()))


def fuzz(targets: dict[str, Target], number: int, deadline: float) -> None:
    """Run the targets in turns until the deadline, with seeds from `number` on. Show their failures."""
    while time.monotonic() < deadline:
        for name, target in targets.items():
            if target.has_failed:
                continue
            try:
                target.run(number, deadline)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                target.has_failed = True
                show(name, number, target.last, error)
        if all(target.has_failed for target in targets.values()):
            break
        number += 1


def show(name: str, number: int, case: Case | None, error: BaseException) -> None:
    """Print a failure, and keep the files of its case."""
    # Hypothesis raises several different failures as a group.
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
