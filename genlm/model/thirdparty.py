"""Manners for the libraries that load models: they keep quiet, and their errors are told in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error says first, or its name where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def silence_transformers() -> None:
    """No progress bars and no advice from transformers: what matters to the user genlm says itself."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
