"""Small pieces of HTML that the page's parts share. Text is escaped here; what is HTML already is marked by `Html`. Floor 7."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> str:
    """Text for HTML, quotes included; `Html` as it is."""
    return value if isinstance(value, Html) else escape(str(value), quote=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], dim: Iterable[bool] = ()) -> str:
    """A table that scrolls sideways where it is too wide; columns whose name starts with '>' are right-aligned.

    Args:
        columns: names.
        rows: cells, `Html` or plain.
        dim: for each row whether it is shown less strongly; none where it is left out.
    """
    marks = [" class=n" if name.startswith(">") else "" for name in columns]
    head = "".join(f"<th{mark}>{text(name.removeprefix('>'))}</th>" for mark, name in zip(marks, columns, strict=True))
    faint = list(dim)
    body = "".join(
        f"<tr{' class=dim' if faint and faint[number] else ''}>"
        + "".join(f"<td{mark}>{text(cell)}</td>" for mark, cell in zip(marks, row, strict=True))
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
