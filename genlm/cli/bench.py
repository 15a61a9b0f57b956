"""`genlm bench`."""

from __future__ import annotations

from typing import Annotated, get_args

from genlm.cli import options
from genlm.errors import UsageError
from genlm.model.info import DtypeChoice
from genlm.tasks.bench import Workload, bench
from genlm.views.bench import BenchView
from genlm.views.progress import Spinner
from genlm.views.terminal import notices

work_option = options.panel("Work")


def bench_command(
    model: options.ModelName = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str, work_option(metavar="LIST", help="Dtypes to measure, such as float32,int8; auto as in generate.")
    ] = "auto",
    batch_size: Annotated[
        str, work_option(metavar="LIST", help="Numbers of sequences to decode together, such as 1,16,64.")
    ] = "1,16,64",
    prompt_tokens: Annotated[
        int, work_option(metavar="N", help="Number of tokens in each prompt.")
    ] = Workload.prompt_tokens,
    new_tokens: Annotated[int, work_option(metavar="N", help="Number of decode steps.")] = Workload.new_tokens,
    allow_pickle: options.AllowPickle = False,
    format: options.Format = "text",
    quiet: options.Quiet = False,
) -> None:
    """Measure how fast a model runs on this machine.

    genlm bench -m fable
    genlm bench -m gpt2 --dtype float32,int8 --batch-size 1,4,16
    """
    workload = Workload(_numbers(batch_size), prompt_tokens, new_tokens)
    dtypes = [_dtype(name) for name in dtype.split(",")]
    notify = notices(quiet=quiet)
    view = BenchView(format)
    for name in dtypes:
        with Spinner(enabled=not quiet) as spinner:
            loaded = options.ModelOptions(model, revision, device, name, allow_pickle).load(notify, spinner)
        for row in bench(loaded, workload):
            view.show(row)
    view.finish(notify)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"--batch-size: {text!r} is not a list of whole numbers such as 1,16,64") from None


def _dtype(name: str) -> DtypeChoice:
    for choice in get_args(DtypeChoice):
        if choice == name.strip():
            return choice  # type: ignore[no-any-return]
    raise UsageError(f"--dtype: no dtype {name!r}", hint="the dtypes are " + ", ".join(get_args(DtypeChoice)))
