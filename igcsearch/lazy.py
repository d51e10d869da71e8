"""Public names that are imported at their first use, so that importing a package costs none of its libraries. Bottom floor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: imports a name from its module when it is first asked for, and keeps it.

    Args:
        package: `__name__` of the package.
        homes: public name to its module, absolute ("igcsearch.spec") or relative to the package (".facts"); a name whose home
            is the package is one of its modules.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        value = import_module(f"{package}.{name}") if home == package else getattr(import_module(home, package), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
