"""Which command-line option helps with which error.

Code outside genlm/cli is used from Python too, so its errors never name a command-line option. Where an option helps,
they carry a `code`, and this table adds the option to the hint.
"""

from __future__ import annotations

from genlm.errors import GenlmError

# From the `code` of an error to what the command line adds to its hint.
HINTS = {
    # Models and devices.
    "hub-unreachable": "-m fable runs the bundled model",
    "pickled-weights": "--allow-pickle loads them, if you trust their source",
    "device-unavailable": "--device auto picks the best available",
    "int8-unsupported": "--dtype auto works with every model",
    "int8-needs-genlm": "--engine genlm runs GPT-2 models in int8 on the CPU",
    # Prompts and texts.
    "prompt-too-long": "--overflow truncate-left drops the start of the prompt",
    "no-start-token": "--no-bos scores without one",
    "input-format": "--input-format FORMAT sets it",
    "prompt-column": "--prompt-field NAME selects another",
    "id-column": "--id-field NAME selects another",
    "text-field": "--text-field NAME selects another",
    # Saved results.
    "not-a-result": "genlm generate --format json writes one",
    "not-a-comparison": "genlm compare --format json writes one",
    "page-too-large": "select one with --layer or --head, or shorten the prompt",
    # Runs that can be continued.
    "resumable": "--resume continues",
    "output-exists": "--resume continues it, --overwrite starts over",
    "output-unusable": "--overwrite starts over",
    "parts-missing": "the same command with --resume generates the missing records",
    # Clusters.
    "too-many-workers": "lower --workers, --cpus-per-worker or --gpus-per-worker; fractions share a device",
    "ray-failed": "--verbose shows Ray's output",
    # Training.
    "needs-held-out-text": "--valid FILE or --valid-share X provides it",
    "corpus-too-short": "--valid-share 0 holds nothing out",
    "run-finished": "--overwrite trains again, --base DIR continues with its model",
    "run-differs": "--resume -o DIR alone continues with the original settings",
    # Benchmarks.
    "bench-too-long": "lower --prompt-tokens or --new-tokens",
}


def hint_of(error: GenlmError) -> str | None:
    """Return the hint to show for an error on the command line, or None."""
    parts = (error.hint, HINTS.get(error.code or ""))
    return "; ".join(part for part in parts if part) or None
