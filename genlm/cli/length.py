"""From the options to how much is generated."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.cli import options
from genlm.formats.prompt import check_utf8
from genlm.tasks.generate import DEFAULT_NEW_TOKENS, Limits


@dataclass(frozen=True)
class LengthOptions:
    """How long completions may get, how many there are, and where they end."""

    max_new_tokens: options.MaxNewTokens = DEFAULT_NEW_TOKENS
    num_return_sequences: options.NumReturnSequences = 1
    stop: options.Stop = None
    overflow: options.OnOverflow = "error"

    def limits(self) -> Limits:
        """The limits. Raises UsageError for a number that makes no sense, InputError for a text that is not UTF-8."""
        stops = tuple(check_utf8(text, "a stop text") for text in self.stop or ())
        return Limits(self.max_new_tokens, self.num_return_sequences, stops, self.overflow)
