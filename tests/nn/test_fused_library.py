"""The compiled library is found, built and kept: of these sources or not at all, whole or not at all, and why not is said once."""

import functools
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from igcsearch.nn.fused import library

# Stands for the kernels, so that a build takes no time.
KERNELS = """
#include "kernels.h"
extern "C" {
const char* igc_source() { return IGC_SOURCE; }
int igc_level(int wanted) { return ANSWER; }
void igc_forward(const void*) {}
void igc_backward(const void*) {}
void igc_sparse(const void*) {}
}
"""

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sources of its own, an empty cache beside it, and nothing that was found before."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "kernels.cpp").write_text(KERNELS)
    (sources / "kernels.h").write_text("#define ANSWER 41\n")
    monkeypatch.setattr(library, "_FOLDER", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(library.COMPILER, raising=False)
    monkeypatch.setattr(library, "kernels", functools.cache(library.kernels.__wrapped__))
    return tmp_path


def answer() -> int | None:
    """What a fresh process would find."""
    library.kernels.cache_clear()
    found = library.kernels()
    return None if found is None else found.igc_level(-1)


def kept(place: Path) -> list[str]:
    """What lies in the cache: libraries, and what should not be there."""
    return sorted(path.name for path in place.glob("cache/igcsearch/kernels/*"))


def fake_compiler(place: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = place / "fake-c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv(library.COMPILER, str(path))
    return path


# Rule: what was built once is used from then on, and no compiler is needed any more.
@needs_compiler
def test_built_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer() == 41
    (name,) = kept(place)
    assert name.startswith(library.source_hash())
    monkeypatch.setenv(library.COMPILER, "")
    assert answer() == 41


# Rule: a library is used for the sources that it was built from alone: a change in any of them, or in the flags, needs another.
@needs_compiler
def test_a_library_of_other_sources_is_passed_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = place / "sources" / "_kernels.so"
    library.compile_to(beside, library.source_hash())
    monkeypatch.setenv(library.COMPILER, "")
    assert answer() == 41
    assert kept(place) == []
    (place / "sources" / "kernels.h").write_text("#define ANSWER 42\n")
    assert answer() is None
    monkeypatch.delenv(library.COMPILER)
    assert answer() == 42
    assert len(kept(place)) == 1
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-DMORE"))
    assert answer() == 42
    assert len(kept(place)) == 2


# Rule: what cannot be loaded, beside the sources or in the cache, is replaced and not fatal.
@needs_compiler
@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF\x02\x01\x01"])
def test_a_broken_file_is_replaced(place: Path, content: bytes) -> None:
    (place / "sources" / "_kernels.so").write_bytes(content)
    cached = library._cached(library.source_hash())
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    assert answer() == 41
    assert len(cached.read_bytes()) > 1000
    assert kept(place) == [cached.name]


# Rule: the cache holds whole libraries only, whatever a compiler leaves behind; the reason is said, once.
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "failed: status 3"),
        (
            "echo 'In file included from x:' >&2; echo 'x:7: error: no such thing' >&2; exit 1",
            "failed: x:7: error: no such",
        ),
        ('while [ "$1" != -o ]; do shift; done; echo half a file > "$2"', "the library cannot be loaded"),
        ('while [ "$1" != -o ]; do shift; done; echo half a file > "$2"; exit 1', "failed: status 1"),
        ("exec sleep 60", "timed out"),
    ],
)
def test_a_compiler_that_fails(
    place: Path, script: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_compiler(place, script, monkeypatch)
    monkeypatch.setattr(library, "PATIENCE", 0.3 if "sleep" in script else 60)
    with caplog.at_level(logging.WARNING, "igcsearch"):
        assert [library.kernels() for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert "plain PyTorch is used instead" in record.getMessage()
    assert said in record.getMessage()
    assert kept(place) == []


# Rule: kernels that do not compile leave plain PyTorch, and the message names the error.
@needs_compiler
def test_sources_that_do_not_compile(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    (place / "sources" / "kernels.h").write_text("#define ANSWER this_is_not_declared\n")
    assert answer() is None
    (record,) = caplog.records
    assert "error" in record.getMessage()
    assert "this_is_not_declared" in record.getMessage()


# Rule: IGCSEARCH_CXX names the compiler, with arguments if need be; an empty value forbids compiling.
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "IGCSEARCH_CXX is empty, which forbids compiling"),
        ("no-such-c++", r"no C\+\+ compiler .*looked for no-such"),
    ],
)
def test_no_compiler(place: Path, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.COMPILER, value)
    with pytest.raises(library.LibraryError, match=said):
        library.compile_to(place / "any.so", "any")


@needs_compiler
def test_a_compiler_with_arguments(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "sources" / "kernels.h").write_text("")
    monkeypatch.setenv(library.COMPILER, "c++ -DANSWER=43")
    assert answer() == 43


# Rule: where the cache cannot be written, a process builds for itself and leaves nothing behind.
@needs_compiler
def test_a_cache_that_cannot_be_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "cache").write_text("a file where the folder should be")
    (place / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "temporary"))
    assert answer() == 41
    assert list((place / "temporary").iterdir()) == []


START = """
import sys, time
from pathlib import Path
from igcsearch.nn.fused import library
library._FOLDER = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(library.kernels().igc_level(-1))
"""


# Rule: who waits for the compiler is told so in one line, unless logging is set up, which then has it as info.
@needs_compiler
@pytest.mark.parametrize(
    ("setup", "shown"),
    [
        ("", True),
        ("import logging; logging.basicConfig()\n", False),
        ("import logging; logging.basicConfig(level=20)\n", True),
    ],
)
def test_compiling_is_said(place: Path, root: Path, setup: str, shown: bool) -> None:
    def start() -> str:
        command = [sys.executable, "-c", setup + START, str(place / "sources")]
        done = subprocess.run(command, cwd=root, input="go\n", capture_output=True, text=True, check=True)
        assert done.stdout == "ready\n41\n"
        return done.stderr

    said = start()
    assert said.count("\n") == shown
    assert ("compiling the fused kernels with c++, once" in said) == shown
    assert start() == ""


@pytest.mark.parametrize("value", ["", "no-such-c++"])
def test_nothing_is_said_where_nothing_compiles(
    place: Path, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(library.COMPILER, value)
    with caplog.at_level(logging.INFO, "igcsearch"):
        assert answer() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# Rule: processes that start at once on an empty cache all get a library, and one whole file stays.
@needs_compiler
def test_processes_that_start_at_once(place: Path, root: Path) -> None:
    command = [sys.executable, "-c", START, str(place / "sources")]
    started = [
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in started] == ["41\n"] * 3
    (name,) = kept(place)
    assert library._load(place / "cache/igcsearch/kernels" / name, library.source_hash()).igc_level(-1) == 41
