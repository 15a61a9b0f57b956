"""Token ids in, text out as it is made: whole characters only, cut exactly before a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

# Enough of the prompt for a tokenizer whose text of a token depends on the token before it.
CONTEXT_TOKENS = 6
# The mark that decoding puts for bytes that are not (or not yet) a character.
INCOMPLETE = "\ufffd"


class TextStream:
    """The text of one completion, token by token.

    `push` returns the text that is certain: never half a character, never the beginning of what may turn out to
    be a stop text. `finish` returns what was held back. All returned texts together are the completion.
    """

    def __init__(self, decode: Decode, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._ids = list(prompt_ids[-CONTEXT_TOKENS:])
        self._shown = len(self._ids)
        self._start = 0
        self._shown_text = decode(self._ids)
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain now that `token_id` is there; sets `stopped` at a stop text."""
        self._ids.append(token_id)
        text = self._decode(self._ids[self._start :])
        if text.endswith(INCOMPLETE) or len(text) <= len(self._shown_text):
            return self._release("")
        return self._release(self._advance(text))

    def finish(self) -> str:
        """The rest of the text, once no token follows."""
        if self.stopped:
            return ""
        released = self._release(self._advance(self._decode(self._ids[self._start :])))
        if self.stopped:
            return released
        rest, self._held = released + self._held, ""
        return rest

    def _advance(self, text: str) -> str:
        """Note `text`, the window's, as seen, and return what is new in it; later windows start where it did."""
        new = text[len(self._shown_text) :]
        self._start, self._shown = self._shown, len(self._ids)
        self._shown_text = self._decode(self._ids[self._start : self._shown])
        return new

    def _release(self, new: str) -> str:
        """Of the held text and `new`, what no stop text can begin in any more."""
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = longest_beginning(text, self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def longest_beginning(text: str, stop: Sequence[str]) -> int:
    """How many of the last characters of `text` may be the beginning of one of the stop texts."""
    longest = max((len(text_) - 1 for text_ in stop), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(text_.startswith(text[-size:]) for text_ in stop):
            return size
    return 0
