"""What a panel of the page is made of, without any HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure, and what it shows in words, for readers who don't see it."""

    figure: Figure
    alt: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts under titles of columns; the first column names its row."""

    label: str
    columns: Sequence[str]
    rows: Iterable[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A text with its own line breaks."""

    label: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One section of the page: title, a sentence, then drawings, tables and listings in this order."""

    title: str
    note: str = ""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    listings: Sequence[Listing] = ()
