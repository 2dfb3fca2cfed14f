"""A table of the page that is no table of scores: a caption, headings and rows of text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"–|(< )?[-−+\d\[][-−+\d.,e\[\] –]*†?")


@dataclass(frozen=True)
class PlainTable:
    """A table of text.

    Attributes:
        name: unique in the page.
        caption: what it shows.
        heads: of the columns; the first one names the row.
        rows: cells as text.
        doubtful: rows to look at.
    """

    name: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    doubtful: frozenset[int] = frozenset()

    @property
    def numeric(self) -> list[bool]:
        """Of every column, whether all of its cells are numbers or intervals."""
        return [
            all(_NUMBER.fullmatch(cell) for cell in cells) for cells in zip(*self.rows, strict=True)
        ]
