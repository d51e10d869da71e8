"""Small pieces of HTML that the page's parts share. Text is escaped here; what is HTML already is marked by `Html`. Floor 7."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def figures(*tiles: tuple[str, str, str]) -> str:
    """The figures that one looks for first, as tiles: name, value, what is to be said of it. The first one stands out."""
    items = "".join(
        f'<div class="tile{"" if number else " lead-tile"}"><dt>{text(name)}</dt>'
        f"<dd>{text(value)}<small>{text(small)}</small></dd></div>"
        for number, (name, value, small) in enumerate(tiles)
    )
    return f'<dl class="tiles">{items}</dl>'


def settings(facts: Mapping[str, object]) -> str:
    """Names and values, several to a line."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="settings">{items}</dl>'
