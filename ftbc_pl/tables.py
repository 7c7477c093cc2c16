"""Tables of text, for terminals and logs."""

import codecs
import io
import sys
from collections.abc import Container, Iterable, Sequence

from rich.box import Box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

# A line of dashes below the titles, blanks between columns: nothing that an encoding could lack.
_BOX = Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)
_ASCII = str.maketrans({"±": "+/-", "×": "x", "≤": "<=", "–": "-", "…": "..."})
_WIDTH = 100_000  # wider than any table, so that nothing is cut


def text_table(
    titles: Iterable[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Container[str] = (),
    last: str = "",
    encoding: str | None = None,
) -> str:
    """A table as text, of the width that it needs, whatever the terminal's: logs and tests read it too.

    Args:
        titles: Titles of the columns.
        rows: The cells of each row.
        left: Titles of the columns that are aligned to the left, as text is.
        last: A line below the table.
        encoding: Encoding that the text must fit into; that of the process's output unless given.
    """
    plain = not _is_unicode(encoding)
    table = Table(box=_BOX, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for name in titles:
        justify: JustifyMethod = "left" if name in left else "right"
        table.add_column(_cell(name, plain), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(text, plain) for text in row))
    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None, force_jupyter=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, "", _cell(last, plain).plain]).rstrip()


def _cell(text: str, plain: bool) -> Text:
    """A `Text`, so that a name in brackets is not read as markup; in ASCII characters only if it is to be `plain`."""
    text = text.replace("\u00a0", " ")  # nothing breaks lines here, and who searches a log types a blank
    return Text(text.translate(_ASCII).encode("ascii", "backslashreplace").decode() if plain else text)


def _is_unicode(encoding: str | None) -> bool:
    """Whether an encoding, that of the process's output unless given, has every character."""
    # Logging writes to stderr, `print` to stdout; either is None where a process has no console.
    streams = (sys.stdout, sys.stderr) if encoding is None else ()
    names = [encoding] if encoding else [getattr(stream, "encoding", None) or "utf-8" for stream in streams]
    return all(codecs.lookup(name).name.startswith("utf-") for name in names)
