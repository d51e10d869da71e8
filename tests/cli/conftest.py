"""Running the command line: `igcsearch(...)` in this process, `process(...)` in one of its own; and one small study."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(after)
        self.extra = after - before

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))
        return F.relu(x + y)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.layers = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net()


def seven():
    made = Net()
    made.head = nn.Linear(16, 7)
    return made


class Branching(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def branching():
    return Branching()


def broken():
    made = net()
    made.stem.weight.data[0] = float("nan")
    return made


def double():
    return net().double()


def point():
    return nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 10))


def tied():
    made = net()
    first, second = made.layers[1].conv2, nn.Conv2d(16, 16, 3, 1, 1)
    second.weight, second.bias = first.weight, first.bias
    made.layers.append(second)
    return made
"""

PROGRAM = "from igcsearch.cli import main; main()"


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def igcsearch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`igcsearch("list", "--json")`: exit status, stdout, stderr of the program's own `main`."""
    from igcsearch.cli import main

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["igcsearch", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as ending:
            status = int(ending.code or 0)
        out, err = capsys.readouterr()
        return Result(status, out, err)

    return run


def run_process(*arguments: object, timeout: float = 240, **environment: str) -> Result:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    env = os.environ | {"COLUMNS": "120"} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def process() -> Callable[..., Result]:
    """As `igcsearch`, in a process of its own."""
    return run_process


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of a small study that the command line made, and what it printed."""
    folder = tmp_path_factory.mktemp("searched") / "study"
    options = ("--trials", 3, "--epochs", 1, "--max-params", "4k", "--seed", 1, "--device", "cpu")
    result = run_process("search", "digits", *options, "--out", folder)
    assert result.status == 0, result.err
    return folder, result


@pytest.fixture(scope="session")
def entry(searched: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The entry of a network that the command line trained, taken from the study's front."""
    from igcsearch import open_study

    folder = tmp_path_factory.mktemp("entries")
    best = open_study(searched[0]).best()
    assert best is not None
    (folder / "architecture.json").write_text(best.architecture.to_json())
    out = folder / "little"
    result = run_process("train", folder / "architecture.json", "--data", "digits", "--out", out, "--epochs", 2)
    assert result.status == 0, result.err
    return out


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("source") / "nets.py"
    file.write_text(SOURCE)
    return file
