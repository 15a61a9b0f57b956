"""Text to token ids and back, with the model's own tokenizer and the `tokenizers` library."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import InputError, ModelError, first_line, is_panic
from genlm.model.files import read_json

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
# The files that may hold a vocabulary, as transformers names them.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")

# Texts up to this many characters are always encoded whole; longer ones are encoded in parts of about this size.
PART = 1 << 17
# A text beyond this many characters is refused if all of it would have to be encoded to keep only its end.
LONGEST_UNCUT = 1 << 21
# A place to cut is searched for in at most this many characters from the end of a text for each token that is kept.
LONGEST_WORDS = 64
# The letters and digits after which a text may be cut: those that every version of Unicode classes as such.
WORD_END = (
    "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0388-\u038a\u038e-\u03a1\u03a3-\u03ce\u0400-\u0481\u048a-\u052f"
    "\u05d0-\u05ea\u0620-\u064a\u0904-\u0939\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
CUT_AT_SPACE = re.compile(f"(?<=[{WORD_END}])(?= )")
CUT_AT_SPACE_OR_LINE = re.compile(f"(?<=[{WORD_END}])(?=[ \n])")
# No apostrophe: some tokenizers keep "it's" together.
CUT_AT_PUNCTUATION = re.compile(f"(?<=[{WORD_END}])(?=[ \n.,;:!?\u3001\u3002\uff01\uff0c\uff1f])")
# The patterns by which byte-level tokenizers split a text. Each ends a match after a letter or digit that is followed
# by a character of CUT_AT_PUNCTUATION, and none looks back. Llama 3 and Qwen 2 differ in how they group digits.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
# The patterns of the tokenizers that genlm trains: a word with the space before it, as GPT-2 splits a text, but a
# Chinese character is a word by itself; and single characters.
WORDS = r" ?(?:(?!\p{Han})[\p{L}\p{M}\p{N}_])+|\p{Han}| ?[^\s\p{L}\p{M}\p{N}_]+|\s+?(?= [^\s\p{Han}])|\s+"
CHARACTERS = r"[\s\S]"
KNOWN_PATTERNS = frozenset({LLAMA_3, QWEN_2, WORDS, CHARACTERS})
# Normalizers that change characters regardless of what is on the other side of a cut.
LOCAL_NORMALIZERS = frozenset(
    {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled"}
)


class Tokenizer:
    """Converts text to ids and back exactly: nothing is cleaned up, padded or truncated."""

    def __init__(self, backend: tokenizers.Tokenizer, specials: Sequence[str] = ()) -> None:
        self.backend = backend
        self.specials = tuple(specials)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with the special tokens that the tokenizer adds around it.

        Raises:
            InputError: the tokenizer cannot encode the text.
        """
        ids: list[int] = self.encoding(text).ids
        return ids

    def encoding(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """Return the `tokenizers.Encoding` of a text. Raise as `encode` does."""
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens)
        # `tokenizers` raises plain Exception, for example for a word outside a vocabulary without an unknown token.
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            raise InputError(f"the model's tokenizer cannot encode the text: {first_line(error)}") from error

    def parts(self, text: str, size: int = PART) -> Iterator[str]:
        """Yield the parts of a text that can be encoded one by one: their tokens are those of the whole text.

        A part has `size` characters or some more. A text is one part if no safe place to cut it is known.
        """
        start = 0
        while self._cut is not None and len(text) - start > size:
            match = self._cut.search(text, start + size)
            if match is None:
                break
            yield text[start : match.start()]
            start = match.start()
        yield text[start:] if start else text

    def end_of(self, text: str, most: int, size: int = PART) -> str:
        """Return an end of the text whose last `most` tokens are those of the whole text.

        It takes time and memory in proportion to `most` if a safe place to cut the text is known. Otherwise, and if the
        text has at most `size` characters, it returns the whole text.

        Raises:
            InputError: the tokenizer cannot encode the end, or the text is far too long and cannot be cut.
        """
        while self._cut is not None and size < min(len(text), max(LONGEST_UNCUT, LONGEST_WORDS * most)):
            match = self._cut.search(text, len(text) - size)
            end = text[match.start() :] if match else ""
            if len(self.encoding(end, add_special_tokens=False)) >= most:
                return end
            size *= 4
        if len(text) > LONGEST_UNCUT:
            raise InputError(
                f"the text has {len(text)} characters and cannot be cut between two words",
                hint=f"shorten it to at most {LONGEST_UNCUT} characters",
            )
        return text

    def least_tokens(self, text: str, size: int = PART) -> int:
        """Return a lower bound on the number of the text's tokens, without encoding it.

        It is 0 if the text has at most `size` characters, so that short texts cost nothing, or if no bound is known.
        """
        return len(text) // self._longest if len(text) > size and self._longest else 0

    @cached_property
    def _cut(self) -> re.Pattern[str] | None:
        """The places at which a text can be cut into parts that are encoded one by one; None if they are not known.

        Each part but the first starts with a space if the tokenizer adds one to texts that start without a space.
        """
        normalizers = [each["type"] for each in _steps(self.backend, "normalizer")]
        cut = _cut_of(_steps(self.backend, "pre_tokenizer"))
        if cut is None or not LOCAL_NORMALIZERS.issuperset(normalizers):
            return None
        if normalizers and cut is CUT_AT_PUNCTUATION:
            cut = CUT_AT_SPACE_OR_LINE
        return None if any(_spans(cut, token) for token in _added_tokens(self.backend)) else cut

    @cached_property
    def _longest(self) -> int:
        """The most characters of a text that one token can hold; 0 if that is not known."""
        backend = self.backend
        steps = _steps(backend, "pre_tokenizer")
        is_byte_bpe = _cut_of(steps) and steps[-1]["type"] == "ByteLevel" and type(backend.model).__name__ == "BPE"
        strips = any(token.lstrip or token.rstrip for token in _added_tokens(backend))
        if not is_byte_bpe or strips or backend.normalizer is not None:
            return 0
        vocabulary = backend.get_vocab(with_added_tokens=True)
        # A byte that is not in the vocabulary may have no token at all.
        return max(map(len, vocabulary)) if vocabulary.keys() >= BYTE_OF.keys() else 0

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self.backend.decode(list(ids))

    def start_id(self) -> int | None:
        """Return the id that a text starts from: the tokenizer's BOS, else its end of text, else None."""
        ids = (self.backend.token_to_id(token) for token in (*self.specials, END_OF_TEXT))
        return next((token_id for token_id in ids if token_id is not None), None)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of a byte-level vocabulary such as GPT-2's."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def _steps(backend: Any, part: str) -> list[dict[str, Any]]:
    """Return the settings of each step of a tokenizer's normalizer or pre-tokenizer."""
    if getattr(backend, part) is None:
        return []
    settings: dict[str, Any] = json.loads(getattr(backend, part).__getstate__())
    # The steps of a sequence are under the key "normalizers" or "pretokenizers".
    return settings[f"{part.replace('_', '')}s"] if settings["type"] == "Sequence" else [settings]


def _added_tokens(backend: Any) -> list[Any]:
    return list(backend.get_added_tokens_decoder().values())


def _cut_of(pre_tokenizers: Sequence[dict[str, Any]]) -> re.Pattern[str] | None:
    """Return the places at which pre-tokenizers always split, in any context; None if they are not known.

    The first one must split there. Later ones see only what is between two splits.
    """
    # It splits digits from everything else, which depends on adjacent characters only.
    rest = [each for each in pre_tokenizers if each["type"] != "Digits"]
    kind = rest[0]["type"] if rest else None
    if kind == "ByteLevel" and rest[0].get("use_regex", True) and len(rest) == 1:
        return CUT_AT_SPACE if rest[0]["add_prefix_space"] else CUT_AT_PUNCTUATION
    if kind == "Split" and [each["type"] for each in rest[1:]] == ["ByteLevel"]:
        step = rest[0]
        keeps_everything = step["behavior"] == "Isolated" and not step["invert"]
        return CUT_AT_PUNCTUATION if keeps_everything and step["pattern"].get("Regex") in KNOWN_PATTERNS else None
    if kind == "Metaspace" and rest[0].get("split", True):
        return CUT_AT_SPACE
    return CUT_AT_SPACE_OR_LINE if kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer") else None


def _spans(cut: re.Pattern[str], token: Any) -> bool:
    """Return whether an added token can extend across a cut, or whether a cut can hide its neighbour from it."""
    first, last = token.content[:1], token.content[-1:]
    return bool(
        cut.search(token.content) or (token.rstrip and last.isalnum()) or (token.single_word and not first.isalnum())
    )


def names_hold_tokenizer(names: Iterable[str]) -> bool:
    """Return whether a folder with files of these names can hold a tokenizer."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in VOCABULARIES if "/" not in name)


def load_tokenizer(folder: Path, model_type: str | None) -> Tokenizer:
    """Return the tokenizer of a model folder.

    Raises:
        ModelError: the tokenizer files are missing or damaged.
    """
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    specials = [_token(path, key, settings[key]) for key in ("bos_token", "eos_token") if settings.get(key)]
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer(_from_json(folder / "tokenizer.json"), specials)
        if model_type == "gpt2" and (folder / "vocab.json").is_file():
            return Tokenizer(_from_gpt2_files(folder, settings), specials)
    except ModelError:
        raise
    # `tokenizers` raises plain Exception for files that it cannot read, or panics.
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ModelError(f"{folder}: the tokenizer files are damaged: {first_line(error)}") from error
    return Tokenizer(_from_transformers(folder), specials)


def _token(path: Path, key: str, setting: Any) -> str:
    """Return the text of a special token. Raise ModelError if it holds lone surrogates, which no tokenizer takes."""
    token = str(setting.get("content")) if isinstance(setting, dict) else str(setting)
    if not token.isascii() and re.search("[\ud800-\udfff]", token):
        raise ModelError(f"{path}: {key} is not valid Unicode: {token!r}")
    return token


def _from_json(path: Path) -> tokenizers.Tokenizer:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _from_gpt2_files(folder: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """Build the tokenizer of GPT-2's first file format, from before `tokenizer.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    if not (folder / "merges.txt").is_file():
        raise ModelError(f"{folder} has vocab.json but no merges.txt")
    backend = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    # A special token that is not in the vocabulary would get an id that the model does not have.
    if backend.token_to_id(END_OF_TEXT) is not None:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def _from_transformers(folder: Path) -> tokenizers.Tokenizer:
    """Let transformers build a fast tokenizer from other files, such as SentencePiece's."""
    if not names_hold_tokenizer(path.name for path in folder.iterdir()):
        raise ModelError(
            f"no tokenizer in {folder}",
            hint="a model folder needs tokenizer.json, or vocab.json with merges.txt",
        )
    from transformers import AutoTokenizer

    from genlm.model.adapter import silence_transformers

    silence_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # transformers raises all kinds of errors for files that it cannot load.
    except Exception as error:
        raise ModelError(f"transformers cannot load the tokenizer of {folder}: {first_line(error)}") from error
    backend: tokenizers.Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder}: its tokenizer ({type(tokenizer).__name__}) has no fast version")
    return backend
