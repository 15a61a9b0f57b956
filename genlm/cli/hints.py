"""What the command line adds to the hints of errors, which never name its options."""

from __future__ import annotations

from genlm.errors import GenlmError

# The `code` of an error, and the option that helps.
HINTS = {
    "hub-unreachable": "-m fable runs the bundled model",
    "pickled-weights": "--allow-pickle loads them, if you trust their source",
    "device-unavailable": "--device auto picks the best available",
    "int8-unsupported": "--dtype auto works with every model",
    "int8-needs-genlm": "--engine genlm runs GPT-2 models in int8 on the CPU",
}


def hint_of(error: GenlmError) -> str | None:
    """Return the hint to show for an error, or None."""
    parts = (error.hint, HINTS.get(error.code or ""))
    return "; ".join(part for part in parts if part) or None
