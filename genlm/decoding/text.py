"""Token ids in, text out as it is made: whole characters only, cut exactly before a stop text."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

# The tokens that are decoded again with each new one: enough for a character of four bytes in as many tokens, and
# for a tokenizer whose text of a token depends on those before it.
WINDOW = 8
# The mark that decoding puts for bytes that are not (or not yet) a character.
INCOMPLETE = "\ufffd"
# A character has four bytes at most, so after three tokens that leave it incomplete it will never be one.
MOST_INCOMPLETE = 3


class TextStream:
    """The text of one completion, token by token.

    `push` returns the text that is certain: never half a character, never the beginning of what may turn out to
    be a stop text. `finish` returns what was held back. `text` is all that was returned.
    """

    def __init__(self, decode: Decode, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._decode = decode
        self._ids = list(prompt_ids[-WINDOW:])
        # How many characters of the window's text are dealt with.
        self._done = len(decode(self._ids))
        # How many tokens were pushed since the text last ended in a whole character.
        self._waited = 0
        self._stop = tuple(stop)
        # Text that may be the beginning of a stop text.
        self._held = ""

    def fork(self) -> TextStream:
        """A stream that goes on from here by itself."""
        forked = copy.copy(self)
        forked._ids = list(self._ids)
        return forked

    def push(self, token_id: int) -> str:
        """The text that is certain now that `token_id` is there; sets `stopped` at a stop text."""
        self._ids.append(token_id)
        window = self._decode(self._ids)
        incomplete = len(window) - len(window.rstrip(INCOMPLETE))
        self._waited = self._waited + 1 if incomplete else 0
        is_invalid = self._waited > MOST_INCOMPLETE
        certain = len(window) - (min(incomplete, MOST_INCOMPLETE) if is_invalid else incomplete)
        new = window[self._done : certain]
        self._done += len(new)
        if len(self._ids) > 2 * WINDOW and (is_invalid or not incomplete):
            self._shorten(window)
        return self._release(new)

    def finish(self) -> str:
        """The rest of the text, once no token follows."""
        if self.stopped:
            return ""
        released = self._release(self._decode(self._ids)[self._done :])
        rest, self._held = self._held, ""
        self.text += rest
        return released + rest

    def _shorten(self, window: str) -> None:
        """Forget the first tokens, from a border between characters on, where the others give the same text."""
        left = len(window) - self._done
        for start in range(len(self._ids) - WINDOW, WINDOW // 2, -1):
            shorter = self._decode(self._ids[start:])
            if window.endswith(shorter) and len(shorter) >= left:
                self._ids = self._ids[start:]
                self._done = len(shorter) - left
                return

    def _release(self, new: str) -> str:
        """Of the held text and `new`, what no stop text can begin in any more."""
        text = self._held + new
        end = first_stop(text, self._stop)
        self.stopped = end is not None
        if end is None:
            end = len(text) - longest_beginning(text, self._stop)
        self._held = "" if self.stopped else text[end:]
        self.text += text[:end]
        return text[:end]


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop text begins that is complete first: the same wherever the borders between tokens lie."""
    found = [(text.index(each) + len(each), text.index(each)) for each in stop if each in text]
    return min(found)[1] if found else None


def longest_beginning(text: str, stop: Sequence[str]) -> int:
    """How many of the last characters of `text` may be the beginning of one of the stop texts."""
    longest = max((len(each) - 1 for each in stop), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(each.startswith(text[-size:]) for each in stop):
            return size
    return 0
