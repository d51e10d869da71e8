"""The compiled kernels (kernels.cpp): found, or built once into the user's cache, and loaded by ctypes. Floor 3.

A wheel brings the library along (setup.py builds it by `compile_to`). A source tree without one, or with one of older sources,
compiles them when they are first needed: some ten seconds with g++ or clang++ (C++17), which one line says. Without a compiler
`kernels()` is None and everything runs through plain PyTorch; why is said once. The library shares torch's OpenMP threads: it is
not linked against an OpenMP runtime of its own, but takes the one that is loaded.

setup.py loads this file by its path: nothing here imports torch or the package before `kernels()` is called.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("igcsearch")

#: Environment variable that names another compiler; an empty value forbids compiling.
COMPILER = "IGCSEARCH_CXX"
#: Compilation and linking are two steps so that the OpenMP runtime stays unlinked.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=default", "-Wno-psabi")
#: Seconds that one step of the compiler may take.
PATIENCE = 900
_FOLDER = Path(__file__).parent
_MAIN = "kernels.cpp"


class LibraryError(RuntimeError):
    """A library that cannot be built or loaded; the text says why."""


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library, or None where there is none and none can be built."""
    source = source_hash()
    cached = _cached(source)
    for path in (*sorted(_FOLDER.glob("_kernels*.so")), cached):
        if path.exists():
            try:
                return _load(path, source)
            except LibraryError as error:
                log.debug("fused kernels: %s is passed over: %s", path.name, error)
    try:
        return _build(cached, source)
    except LibraryError as error:
        log.warning("fused kernels are not available, plain PyTorch is used instead: %s", error)
        return None


def sources() -> list[Path]:
    """The files that the library is compiled from."""
    return sorted(path for path in _FOLDER.iterdir() if path.suffix in (".cpp", ".h"))


def source_hash() -> str:
    """Of the sources and how they are compiled; the library knows its own, as `igc_source()`."""
    text = b"\0".join(path.read_bytes() for path in sources()) + " ".join(FLAGS).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def compile_to(target: Path, source: str, check: Callable[[Path], object] = lambda path: None) -> None:
    """Compile and link the library, with the first compiler that can.

    Args:
        target: the file to write; its folder must be there.
        source: what `igc_source()` shall return.
        check: of what was made; a LibraryError of it sends to the next compiler.

    Raises:
        LibraryError: there is no compiler, or it failed.
    """
    failures = []
    for compiler in _compilers():
        try:
            with tempfile.TemporaryDirectory(prefix="igcsearch-") as folder:
                parts = str(Path(folder) / "kernels.o")
                _run([*compiler, *FLAGS, f'-DIGC_SOURCE="{source}"', "-c", str(_FOLDER / _MAIN), "-o", parts])
                _run([*compiler, "-shared", parts, "-o", str(target)])
            check(target)
        except LibraryError as error:
            failures.append(str(error))
        else:
            return
    raise LibraryError("; ".join(failures))


def _compilers() -> list[list[str]]:
    """The compilers' commands: what the user names, else all that are there.

    Raises:
        LibraryError: there is none.
    """
    wanted = os.environ.get(COMPILER)
    names = [wanted] if wanted is not None else [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    found: list[list[str]] = []
    for name in names:
        command = shlex.split(name)  # such as "ccache g++"
        if command and shutil.which(command[0]) and command not in found:
            found.append(command)
    if found:
        return found
    if wanted == "":
        raise LibraryError(f"{COMPILER} is empty, which forbids compiling")
    raise LibraryError(
        f"no C++ compiler was found (looked for {', '.join(filter(None, names))}); {COMPILER} names another"
    )


def _run(command: list[str]) -> None:
    """One step of the compiler."""
    said = {**os.environ, "LC_ALL": "C"}  # in the language of `_gist`
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=said,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LibraryError(f"'{command[0]}' failed: {error}") from error
    if done.returncode != 0:
        raise LibraryError(f"'{command[0]}' failed: {_gist(done.stderr or done.stdout) or f'status {done.returncode}'}")


def _gist(said: str) -> str:
    """The line of a compiler's output that names the error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


def _cached(source: str) -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("igcsearch") / "kernels" / f"{source}-{platform.machine()}.so"


def _build(target: Path, source: str) -> ctypes.CDLL:
    """Compile, load, and keep in the cache what could be loaded.

    Processes that start at the same time each build their own, and the last one's stays: a rename leaves no half a file.
    """
    from ...files import sync_file

    _announce(f"compiling the fused kernels with {_compilers()[0][0]}, once; this takes some ten seconds")
    loaded: list[ctypes.CDLL] = []
    with _workshop(target.parent) as folder:
        draft = Path(folder) / target.name
        compile_to(draft, source, lambda path: loaded.append(_load(path, source)))
        try:
            sync_file(draft)
            os.replace(draft, target)
        except OSError as error:  # another file system, as the cache cannot be written
            log.warning("fused kernels were compiled for this process alone, the cache cannot be written: %s", error)
        return loaded[0]


def _announce(text: str) -> None:
    """One line of level info; on stderr where nobody has set logging up, as who waits wants to know what for."""
    if log.hasHandlers():
        log.info(text)
    else:
        logging.StreamHandler().handle(log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None))


def _workshop(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder to build in: in the cache, or where temporary files go if that cannot be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".building-", dir=cache, ignore_cleanup_errors=True)
    except OSError:
        try:
            return tempfile.TemporaryDirectory(prefix="igcsearch-", ignore_cleanup_errors=True)
        except OSError as error:
            raise LibraryError(f"no folder can be written: {error}") from error


def _load(path: Path, source: str) -> ctypes.CDLL:
    """The library at `path`.

    Raises:
        LibraryError: it is of other sources, or does not run here.
    """
    try:
        library = ctypes.CDLL(str(path))
        library.igc_source.restype = ctypes.c_char_p
        found = library.igc_source()
    except (OSError, AttributeError) as error:
        raise LibraryError(f"the library cannot be loaded: {error}") from error
    if found != source.encode():
        raise LibraryError(f"the library is of other sources ({found.decode(errors='replace')}, not {source})")
    for name in ("igc_forward", "igc_backward", "igc_sparse"):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_void_p], None
    library.igc_level.argtypes = [ctypes.c_int]
    return library
