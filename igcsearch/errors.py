"""Errors that a user can mend: one line that names the value, the rule and the cure.

The command line prints them without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the caller gave cannot be used; the message says what, which rule it breaks and what would work."""


def near(name: str, options: Iterable[str]) -> str:
    """`" (did you mean 'a' or 'b'?)"` for the options closest to `name`, or an empty string where none is close."""
    matches = difflib.get_close_matches(name, list(options), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(match) for match in matches)}?)" if matches else ""
