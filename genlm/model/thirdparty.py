"""Manners for the libraries that load models: they keep quiet, and their errors are told in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error says first, with its name where that alone says little."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return " ".join([type(error).__name__, *lines[:1]])
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def silence_transformers() -> None:
    """No progress bars and no advice from transformers: what matters to the user genlm says itself."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
