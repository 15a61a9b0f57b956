"""Which rows a batch has and which have a record, in a temporary database on disk.

Memory use does not grow with the number of rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from genlm.errors import OutputError
from genlm.records.batch import BatchCounts

# What does not fit in the cache goes to a temporary file.
CACHE_KIB = 16_000
ROWS_PER_QUERY = 4096
# A seed may not fit a 64-bit integer, so seeds and lengths are text.
ROWS = """
CREATE TABLE rows (
    position INTEGER PRIMARY KEY, id TEXT, strategy INTEGER, seed TEXT, length TEXT, prompt BLOB, offset INTEGER,
    size INTEGER, failed INTEGER, provenance INTEGER, made_seed TEXT, made_length TEXT, made_prompt BLOB
)
"""


class InputEntry(NamedTuple):
    """A row of the input. `strategy` is a number; it, `seed` and `length` are None unless the row overrides them.

    `prompt` is a digest.
    """

    position: int
    id: str
    strategy: int | None
    seed: str | None
    length: str | None
    prompt: bytes | None = None


class OutputEntry(NamedTuple):
    """A record of the output: its location, and the settings that made it. `provenance` is a number.

    `prompt` is a digest.
    """

    offset: int
    size: int
    failed: bool
    provenance: int
    seed: str
    length: str
    prompt: bytes | None
    id: str


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """Yield an empty ledger. Raise OutputError if the disk for temporary files is full."""
    database = sqlite3.connect("", isolation_level=None)
    try:
        yield Ledger(database)
    except sqlite3.OperationalError as error:
        raise OutputError(
            f"cannot keep the list of rows: {error}", hint="set TMPDIR (TEMP on Windows) to a disk with free space"
        ) from error
    finally:
        database.close()


class Ledger:
    """The rows by position in the input, from 0, and by id."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            database.execute(f"PRAGMA {setting}")
        database.execute(ROWS)

    def fill(self, entries: Iterable[InputEntry]) -> None:
        """Add the rows of the input. Call this once."""
        with _transaction(self._database) as cursor:
            cursor.executemany(
                "INSERT INTO rows (position, id, strategy, seed, length, prompt) VALUES (?,?,?,?,?,?)", entries
            )
        self._database.execute("CREATE INDEX ids ON rows (id)")

    def duplicate(self) -> tuple[str, int, int] | None:
        """Return an id that two rows have, with the positions of the first two of them, or None."""
        row = self._one("SELECT id FROM rows GROUP BY id HAVING count(*) > 1 ORDER BY min(position) LIMIT 1")
        if row is None:
            return None
        query = "SELECT position FROM rows WHERE id = ? ORDER BY position LIMIT 2"
        (first,), (second,) = self._database.execute(query, row)
        return row[0], first, second

    def note(self, entries: Iterable[OutputEntry]) -> int:
        """Add records; of several with the same id the last counts. Return how many have an id that no row has."""
        query = """
            UPDATE rows
            SET offset = ?, size = ?, failed = ?, provenance = ?, made_seed = ?, made_length = ?, made_prompt = ?
            WHERE id = ?
        """
        with _transaction(self._database) as cursor:
            return sum(cursor.execute(query, entry).rowcount == 0 for entry in entries)

    def forget(self, *, failed: bool, changed: bool) -> None:
        """Forget records so that they are made again: those with an error, or those made from another prompt."""
        self._database.execute(
            """
            UPDATE rows SET offset = NULL, failed = NULL
            WHERE (:failed AND failed) OR (:changed AND prompt IS NOT made_prompt)
            """,
            {"failed": failed, "changed": changed},
        )

    def changed_prompts(self, most: int) -> tuple[int, list[str]]:
        """Return how many rows have another prompt than their record, and the ids of the first ones."""
        where = "offset IS NOT NULL AND prompt IS NOT made_prompt"
        (count,) = self._one(f"SELECT count(*) FROM rows WHERE {where}")
        query = f"SELECT id FROM rows WHERE {where} ORDER BY position LIMIT ?"
        return count, [id for (id,) in self._database.execute(query, (most,))] if count else []

    def counts(self) -> BatchCounts:
        """Return how many rows there are, how many have a record, and how many of those an error."""
        return BatchCounts(*self._one("SELECT count(*), count(offset), count(nullif(failed, 0)) FROM rows"))

    def seeds(self) -> list[str]:
        """Return up to two seeds that made the records of rows that do not override the seed."""
        query = "SELECT DISTINCT made_seed FROM rows WHERE offset IS NOT NULL AND seed IS NULL LIMIT 2"
        return [seed for (seed,) in self._database.execute(query)]

    def provenances(self) -> Iterator[tuple[int | None, int, str]]:
        """Yield each pair of a row's strategy and its record's provenance, with the id of one such row."""
        return self._database.execute(
            "SELECT strategy, provenance, min(id) FROM rows WHERE offset IS NOT NULL GROUP BY strategy, provenance"
        )

    def changed(self, seed: str, length: str) -> tuple[str, str, str, str, str] | None:
        """Return a row whose record has another seed or length than the row has now, or None.

        Returns its id, the seed then and now, and the length then and now; `seed` and `length` are the defaults.
        """
        row: tuple[str, str, str, str, str] | None = self._one(
            """
            SELECT id, made_seed, coalesce(seed, :seed), made_length, coalesce(length, :length) FROM rows
            WHERE offset IS NOT NULL
                AND (made_seed != coalesce(seed, :seed) OR made_length != coalesce(length, :length))
            LIMIT 1
            """,
            {"seed": seed, "length": length},
        )
        return row

    def left(self) -> Iterator[bool]:
        """Yield for each row, in the order of the input, whether it has no record."""
        query = "SELECT offset IS NULL FROM rows WHERE position >= ? AND position < ? ORDER BY position"
        for start in range(0, self.counts().rows, ROWS_PER_QUERY):
            for (is_left,) in self._database.execute(query, (start, start + ROWS_PER_QUERY)).fetchall():
                yield bool(is_left)

    def records(self, *, by_position: bool) -> Iterator[tuple[int, int]]:
        """Yield the offset and size of every row's record, in the order of the input or as they were written."""
        order = "position" if by_position else "offset"
        return self._database.execute(f"SELECT offset, size FROM rows WHERE offset IS NOT NULL ORDER BY {order}")

    def _one(self, query: str, values: Any = ()) -> Any:
        return self._database.execute(query, values).fetchone()


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Cursor]:
    cursor = database.execute("BEGIN")
    yield cursor
    cursor.execute("COMMIT")
