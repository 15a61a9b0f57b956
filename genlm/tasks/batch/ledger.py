"""Which rows there are and what became of them, in a database on disk that is gone with the program.

However many rows there are, the memory that this takes stays the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from genlm.errors import OutputError
from genlm.records.batch import BatchCounts

# In KiB. What does not fit lies in a temporary file.
CACHE_KIB = 16_000
AT_ONCE = 4096
ROWS = """
CREATE TABLE rows (
    position INTEGER PRIMARY KEY, id TEXT, strategy INTEGER, seed TEXT, new TEXT,
    place INTEGER, size INTEGER, failed INTEGER, made INTEGER, made_seed TEXT, made_new TEXT
)
"""


class Entry(NamedTuple):
    """A row of the input. What it has of its own is None where the run's settings hold; `strategy` is a number."""

    position: int
    id: str
    strategy: int | None
    seed: str | None
    new: str | None


class Written(NamedTuple):
    """A record of the output: where it lies, and with what it was made; `made` is a number."""

    place: int
    size: int
    failed: bool
    made: int
    seed: str
    new: str
    id: str


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """An empty ledger. Raises OutputError where the disk for temporary files is full."""
    database = sqlite3.connect("", isolation_level=None)
    try:
        yield Ledger(database)
    except sqlite3.OperationalError as error:
        raise OutputError(f"the list of rows cannot be kept: {error}", hint="TMPDIR names a disk with room") from error
    finally:
        database.close()


class Ledger:
    """The rows by their position in the input, from 0, and by id."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            database.execute(f"PRAGMA {setting}")
        database.execute(ROWS)

    def fill(self, entries: Iterable[Entry]) -> None:
        """Take in the rows of the input, once."""
        with _transaction(self._database):
            self._database.executemany(
                "INSERT INTO rows (position, id, strategy, seed, new) VALUES (?,?,?,?,?)", entries
            )
        self._database.execute("CREATE INDEX ids ON rows (id)")

    def duplicate(self) -> tuple[str, int, int] | None:
        """An id that two rows have, with the positions of the first two of them."""
        row = self._one("SELECT id FROM rows GROUP BY id HAVING count(*) > 1 ORDER BY min(position) LIMIT 1")
        if row is None:
            return None
        query = "SELECT position FROM rows WHERE id = ? ORDER BY position LIMIT 2"
        (first,), (second,) = self._database.execute(query, row)
        return row[0], first, second

    def note(self, written: Iterable[Written]) -> int:
        """Take in records; of several with one id the last counts. Returns how many have an id that no row has."""
        query = """
            UPDATE rows SET place = ?, size = ?, failed = ?, made = ?, made_seed = ?, made_new = ? WHERE id = ?
        """
        count = 0

        def counted() -> Iterator[Written]:
            nonlocal count
            for each in written:
                count += 1
                yield each

        with _transaction(self._database):
            known = self._database.executemany(query, counted()).rowcount
        return count - max(0, known)

    def counts(self) -> BatchCounts:
        """How many rows there are, and what became of them."""
        return BatchCounts(*self._one("SELECT count(*), count(place), count(nullif(failed, 0)) FROM rows") or (0, 0, 0))

    def seeds(self) -> list[str]:
        """Up to two seeds that rows without a seed of their own were done with."""
        query = "SELECT DISTINCT made_seed FROM rows WHERE place IS NOT NULL AND seed IS NULL LIMIT 2"
        return [seed for (seed,) in self._database.execute(query)]

    def makings(self, *, with_failed: bool) -> Iterator[tuple[int | None, int, str]]:
        """The strategies of rows, what those that are done were made with, and the id of one for each pair."""
        where = "place IS NOT NULL" + ("" if with_failed else " AND NOT failed")
        return self._database.execute(f"SELECT strategy, made, min(id) FROM rows WHERE {where} GROUP BY strategy, made")

    def other(self, seed: str, new: str, *, with_failed: bool) -> tuple[str, str, str, str, str] | None:
        """A row that was done with another seed or length than is asked for now: id, seeds then and now, lengths."""
        where = "place IS NOT NULL" + ("" if with_failed else " AND NOT failed")
        row: tuple[str, str, str, str, str] | None = self._one(
            f"""
            SELECT id, made_seed, coalesce(seed, :seed), made_new, coalesce(new, :new) FROM rows
            WHERE {where} AND (made_seed != coalesce(seed, :seed) OR made_new != coalesce(new, :new)) LIMIT 1
            """,
            {"seed": seed, "new": new},
        )
        return row

    def left(self, *, with_failed: bool) -> Iterator[bool]:
        """For each row in the order of the input whether it is still to be done; `with_failed`, failed ones too."""
        left = "place IS NULL OR failed" if with_failed else "place IS NULL"
        query = f"SELECT {left} FROM rows WHERE position >= ? AND position < ? ORDER BY position"
        for start in range(0, self.counts().rows, AT_ONCE):
            for (is_left,) in self._database.execute(query, (start, start + AT_ONCE)).fetchall():
                yield bool(is_left)

    def places(self, *, by_position: bool) -> Iterator[tuple[int, int]]:
        """Where the record of each row that has one lies, and its size: in the order of the input, or as written."""
        order = "position" if by_position else "place"
        return self._database.execute(f"SELECT place, size FROM rows WHERE place IS NOT NULL ORDER BY {order}")

    def _one(self, query: str, values: Any = ()) -> Any:
        return self._database.execute(query, values).fetchone()


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN")
    yield
    database.execute("COMMIT")
