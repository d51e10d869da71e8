"""What a space is, and how it is found by name: one of this folder's, or a function in a file of the user's. Floor 2.

A space is a function `space(trial, problem)` that asks the trial for its parameters and returns an Architecture, and, if it
has one, `smallest(problem)`. The search (igcsearch.search) asks `get_space` for it and knows nothing else of spaces.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from igcsearch.blocks import FAMILIES
from igcsearch.errors import UsageError, near
from igcsearch.spec import Architecture, Budget, Problem

from . import staged
from .choices import Limited, Trial
from .plans import Layout

#: The spaces that come with the package: modules of this folder with `space`, `smallest` and a first line that says what for.
SPACES = ("digits", "cifar", "mobile", "igcv2_figure3")
REGROUP = "regroup"  # the space of a given network's group counts (regroup.py)
ALL = "all"  # every family of blocks.FAMILIES


@dataclass(frozen=True)
class Space:
    """A search space.

    Args:
        name: as it was asked for: "digits", "file.py:function".
        propose: `propose(trial, problem)` gives an Architecture; its parameters and their distributions are the same in
            every trial of one problem, and it is within the problem's budget where `smallest(problem)` is.
        summary: one line.
    """

    name: str
    propose: Callable[[Trial, Problem], Architecture]
    summary: str = ""
    _smallest: Callable[[Problem], Architecture] | None = None
    _layout: Layout | None = None

    @property
    def families(self) -> tuple[str, ...] | None:
        """The block families that its parameter "family" chooses from; None where the space does not say."""
        return None if self._layout is None else self._layout.families

    def with_families(self, families: Sequence[str]) -> Space:
        """The space with these block families, in the order of `blocks.FAMILIES`; what else it proposes keeps its names and ranges.

        Args:
            families: names of `blocks.FAMILIES`, or ("all",).

        Raises:
            UsageError: an unknown name, none at all, or a space that is made of no layout.
        """
        if self._layout is None:
            raise UsageError(
                f"space {self.name!r} has block families of its own, which cannot be chosen: leave --families out, or choose "
                "them in the space digits, cifar or mobile"
            )
        for name in families or ("",):
            if name not in (*FAMILIES, ALL):
                raise UsageError(
                    f"unknown family {name!r}{near(name, FAMILIES)}; families: {', '.join(FAMILIES)}; or {ALL}"
                )
        chosen = tuple(name for name in FAMILIES if name in families or ALL in families)
        layout = self._layout if chosen == self.families else _with_families(self._layout, chosen)
        propose, smallest = partial(staged.propose, layout=layout), partial(staged.smallest, layout=layout)
        return replace(self, propose=propose, _smallest=smallest, _layout=layout)

    def smallest(self, problem: Problem) -> Architecture | None:
        """The network of the space that is nearest to the problem's budget from below or, where none meets it, from above.

        With no limit, or one on parameters, that of the fewest parameters; with one on MACs alone, of the fewest MACs;
        with both, of the least excess. None where the space does not say.
        """
        return None if self._smallest is None else self._smallest(problem)

    def limited(self, shuffles: tuple[str, ...], groups: tuple[str, ...] = ("searched",)) -> Space:
        """The space with only some kinds of shuffles (interleave, random, learned) and group counts (searched, learned).

        A space that offers no learned ones is left as it is; where they are among those asked for, its proposals are refused.

        Raises:
            UsageError: group counts are all to be learned, and none of the space's families has any to learn.
        """
        learning = staged.LEARNING
        if tuple(groups) == ("learned",) and self.families and not set(self.families) & set(learning):
            raise UsageError(
                f"families {', '.join(self.families)} have no group counts to learn; give {' or '.join(learning)} too, or "
                "leave --groups at searched"
            )

        def propose(trial: Trial, problem: Problem) -> Architecture:
            limited = Limited(trial, shuffles, groups)
            architecture = self.propose(limited, problem)
            if "learned" in groups and "groups" not in limited.asked:
                raise UsageError(
                    f"space {self.name!r} offers no learned group counts; let it ask trial.suggest_categorical('groups', "
                    "('searched', 'learned')), and use igcsearch.spec.grouping.opened_groups for the last"
                )
            if "learned" in shuffles and "shuffle" not in limited.asked:
                raise UsageError(
                    f"space {self.name!r} offers no learned shuffles; let it ask trial.suggest_categorical('shuffle', "
                    "('interleave', 'random', 'learned')), and use igcsearch.spec.learning.opened for the last"
                )
            return architecture

        return replace(self, propose=propose)


def get_space(spec: str) -> Space:
    """The space of that name, or of that function: "path/to/file.py:function".

    Raises:
        UsageError: an unknown name (with near ones), a file or function that is missing or cannot be used; "regroup", which is
            made of a network (`regroup.Regroup`).
    """
    if spec in SPACES:
        module = importlib.import_module(f"{__package__}.{spec}")
        return Space(spec, module.space, _first_line(module), module.smallest, getattr(module, "LAYOUT", None))
    if ":" in spec or spec.endswith(".py"):
        return _user_space(spec)
    if spec == REGROUP:
        raise UsageError(
            f"space {spec!r} is the group counts of a network; give --init-from ENTRY, the one to begin from"
        )
    names = (*SPACES, REGROUP)
    raise UsageError(
        f"unknown space {spec!r}{near(spec, names)}; spaces: {', '.join(names)}, or your own as file.py:function"
    )


@lru_cache(maxsize=1024)
def _with_families(layout: Layout, families: tuple[str, ...]) -> Layout:
    """The same object for the same families: what is known of a layout is found by identity."""
    return replace(layout, families=families)


def _user_space(spec: str) -> Space:
    """A space of the user's own, `file.py:function`."""
    file, colon, name = spec.rpartition(":")
    if not colon or "/" in name or "\\" in name:
        file, name = spec, ""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(
            f"space {spec!r}: there is no file {file!r}; give the path of a Python file, as in my_space.py:space"
        )
    module = _load(path)
    found = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    own = [key for key, value in found.items() if getattr(value, "__module__", None) == module.__name__]
    if name not in found:
        what = f"{file} has no function {name!r}{near(name, own)}" if name else "the function is missing"
        listed = f"it has {', '.join(own)}" if own else "it has no function at all"
        raise UsageError(
            f"space {spec!r}: {what}; {listed}; write file.py:function, for a function space(trial, problem)"
        )
    function = found[name]
    where = f"{file}:{name}"
    _check_signature(function, where, "trial", "problem")
    smallest = getattr(function, "smallest", None) or getattr(module, "smallest", None)
    if smallest is not None:
        _check_signature(smallest, f"{file}:smallest", "problem")
        smallest = _guarded(smallest, f"{file}:smallest")
    return Space(spec, _guarded(function, where), _first_line(function), smallest)


def _load(path: Path) -> ModuleType:
    """Run a file as a module of its own name, so that two files of one name, or a package's, do not meet."""
    name = f"igcsearch_user_space_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"space file {str(path)!r} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"space file {str(path)!r} cannot be imported: {_described(error)}") from error
    return module


def _check_signature(function: Any, where: str, *names: str) -> None:
    call = f"{where.rpartition(':')[2]}({', '.join(names)})"
    if not callable(function):
        raise UsageError(f"{where} is no function; it must be one that is called as {call}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # built in C: it is seen when it is called
    try:
        signature.bind(*names)
    except TypeError as error:
        raise UsageError(f"{where}{signature} cannot be called as {call}: {error}; change its arguments") from None


def _guarded(function: Callable[..., Any], where: str) -> Callable[..., Architecture]:
    """The function, with whatever goes wrong inside it told as the user's error."""

    def call(*arguments: Any) -> Architecture:
        try:
            result = function(*arguments)
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "optuna":
                raise  # pruned, or a fault of the storage: the search's to handle
            raise UsageError(f"{where} failed: {_described(error)}") from error
        if not isinstance(result, Architecture):
            raise UsageError(
                f"{where} returned {result!r:.80}; it must return an Architecture, as igcsearch.blocks.network does"
            )
        if result.problem() != replace(arguments[-1], budget=Budget()):
            raise UsageError(f"{where} returned a network for {_sizes(result)}; the problem is {_sizes(arguments[-1])}")
        return result

    return call


def _described(error: Exception) -> str:
    """Type, first line of the message, and the line of the user's file that it comes from."""
    message = (str(error).strip().splitlines() or [""])[0]
    line = getattr(error, "lineno", None)
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__", "").startswith("igcsearch_user_space_"):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    at = f" (line {line})" if line is not None else ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{at}"


def _sizes(what: Architecture | Problem) -> str:
    return f"{what.in_channels}x{what.image_size}x{what.image_size} images and {what.num_classes} classes"


def _first_line(what: Any) -> str:
    return (inspect.getdoc(what) or "").partition("\n")[0]


__all__ = ["ALL", "REGROUP", "SPACES", "Space", "get_space"]
