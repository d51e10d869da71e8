"""Help: there for every command, with examples, without the libraries that take seconds to import, and fast."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

import igcsearch as package

COMMANDS = [
    "search",
    "status",
    "pareto",
    "publish",
    "report",
    "list",
    "profile",
    "check",
    "reproduce",
    "train",
    "evaluate",
    "compress",
    "export",
]
HEAVY = ["torch", "torchvision", "numpy", "pandas", "optuna", "ray", "scipy", "sklearn", "plotly", "sqlalchemy", "PIL"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, process: Callable) -> None:
    result = process(command, "--help")
    assert result.status == 0
    assert result.err == ""
    assert f"igcsearch {command}" in result.out
    assert "Example" in result.out
    assert ("--json" in result.out) == (command not in ("search", "report"))


def test_help_names_every_command(process: Callable) -> None:
    for arguments in (["--help"], ["-h"]):
        result = process(*arguments)
        assert result.status == 0
        assert all(command in result.out for command in COMMANDS)


def test_help_of_search_names_every_family_and_space(process: Callable) -> None:
    from igcsearch.blocks import FAMILIES
    from igcsearch.search_spaces import SPACES

    help_text = process("search", "--help").out
    assert [name for name in (*FAMILIES, *SPACES) if name not in help_text] == []


def test_version(process: Callable) -> None:
    assert process("--version") == (0, f"igcsearch {package.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    program = (
        f"import sys; sys.argv = ['igcsearch', {command!r}, '--help']\n"
        "from igcsearch.cli import main\n"
        "try: main()\n"
        f"finally: print('imported', [n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "imported []" in done.stderr


@pytest.mark.slow  # a bound on time needs a machine that does nothing else
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_fast(command: str, process: Callable) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        process(command, "--help")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.7
