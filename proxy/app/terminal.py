"""What may reach a terminal or a log line, and how a table is laid out.

The voice: what people ask for goes to standard output; everything else goes to
standard error as ``tillie: error: ...`` or ``tillie: warning: ...``, starts
small and ends without a full stop; a hint follows on a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence


def escaped(text: str) -> str:
    """Return *text* as one line that cannot drive a terminal or imitate another.

    Control characters, line ends, bidi controls, invisible and unassigned
    characters and lone surrogates become ``\\x1b``, ``\\u202e`` and so on; so do
    spaces other than the plain one.  Letters of every script stay.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii")
        for one in text
    )


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> str:
    """Lay out *rows* under *titles*; every cell is escaped here.

    :param width: columns of the terminal, None where there is none: the text is
        then aligned but never wrapped or cut, so that scripts can read it.
    :returns: lines joined by newlines, without one at the end.
    """
    cells = [[escaped(cell) for cell in row] for row in rows]
    if width is None:
        return _aligned([list(titles), *cells])
    return _wrapped(titles, cells, width)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(size) for cell, size in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _wrapped(titles: Sequence[str], rows: list[list[str]], width: int) -> str:
    # Only wide and combining characters need rich, and it takes longer to import
    # than a question to a running Tillie takes to be answered.
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        grid.add_column(title, overflow="fold")
    for row in rows:
        # Text, not str: brackets in a name are a name, not rich's markup.
        grid.add_row(*(Text(cell) for cell in row))
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
