"""`igcsearch train --devices 2`, in real processes without a GPU: what it writes, and what is left when some of them are
killed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from igcsearch import list_models, load
from igcsearch.spec import Architecture, Problem
from igcsearch.training import DataSpec, default_recipe, evaluate, load_data, train

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc"),
]
PROGRAM = [sys.executable, "-m", "igcsearch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "igcsearch"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program in a process group of its own, which is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object, program: list[str] = PROGRAM) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [*program, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != "RANK"},
            )
        )
        return started[-1]

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def network(make_architecture: Callable[..., Architecture], tmp_path: Path) -> Path:
    """A small architecture for digits."""
    (tmp_path / "small.json").write_text(make_architecture(Problem(8, 1, 10)).to_json())
    return tmp_path / "small.json"


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """What stderr says up to a line that fits."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError("".join(lines))


def ranks_of(launcher: int) -> dict[int, int]:
    """Process id of each rank that a launcher started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int(re.sub(r"^.*\) . ", "", (folder / "stat").read_text()).split()[0])
            rank = re.search(rb"\0RANK=(\d+)\0", (folder / "environ").read_bytes())
            if parent == launcher and rank:
                found[int(rank[1])] = int(folder.name)
            elif parent == launcher and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.setdefault(len(found), int(folder.name))
    return found


def assert_gone(processes: list[int], within: float = 15.0) -> None:
    end = time.monotonic() + within
    alive = processes
    while alive and time.monotonic() < end:
        time.sleep(0.1)
        alive = [p for p in alive if Path(f"/proc/{p}/stat").exists() and not _is_zombie(p)]
    assert not alive


def _is_zombie(process: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True


def test_an_entry_trained_by_two_processes(start: Start, tmp_path: Path) -> None:
    # Rule (the contract): a published network, two processes, a machine without a GPU; one voice, and an entry that says
    # how many trained it and whose accuracy is what `evaluate` finds.
    entry, out = list_models("*digits*")[0], tmp_path / "out"
    command = f"train {entry} --devices 2 --data digits --epochs 1 --out {out} --json --device cpu"
    done = start(*command.split())
    stdout, stderr = done.communicate(timeout=200)
    assert done.returncode == 0, stderr
    assert stderr.count("epoch 1/1") == 1
    assert "2 devices (cpu, gloo)" in stderr
    assert "Warning" not in stderr
    written = json.loads(stdout)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["provenance"]["devices"] == 2
    assert "accumulate" not in metrics["recipe"]
    assert not (tmp_path / "out.partial").exists()
    assert evaluate(load(out), load_data(DataSpec("digits")), device="cpu")[0] == pytest.approx(written["accuracy"])


@pytest.mark.slow
def test_torchrun_is_a_launcher_too(start: Start, network: Path, tmp_path: Path) -> None:
    # Rule: the same command under torchrun: one voice, one entry; and what it refuses it says once.
    given = ("train", network, "--data", "digits", "--epochs", 2, "--out", tmp_path / "out", "--device", "cpu")
    for refused in (False, True):
        done = start(*given, program=TORCHRUN)
        stdout, stderr = done.communicate(timeout=200)
        assert (done.returncode != 0) == refused, stderr
        assert stdout.count("entry: ") == (not refused)
        assert stderr.count("epoch 2/2") == (not refused)
        assert stderr.count("error: output folder") == refused
    done = start(*given[:-4], "--out", tmp_path / "b", "--devices", 3, program=TORCHRUN)
    assert "--devices 3, but the launcher started 2 processes" in done.communicate(timeout=200)[1]


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_is_started_again(rank: int, start: Start, network: Path, tmp_path: Path) -> None:
    # Rule: kill -9 of one of them in mid-epoch costs that epoch; the network is, in float64, the one that a single process
    # makes undisturbed.
    command = (
        f"train {network} --devices 2 --data digits --epochs 8 --device cpu --precision float64 --out {tmp_path}/out"
    )
    disturbed = start(*command.split())
    wait_for_line(disturbed, "epoch 2/8")
    ranks = ranks_of(disturbed.pid)
    assert len(ranks) == 2
    os.kill(ranks[rank], signal.SIGKILL)
    _, stderr = disturbed.communicate(timeout=200)
    assert disturbed.returncode == 0, stderr
    assert re.search(r"process \d of 2 .*; restart 1 of 3 goes on from the last whole epoch", stderr)
    assert_gone(list(ranks.values()))
    data = load_data(DataSpec("digits"))
    architecture = Architecture.from_json(network.read_text())
    alone = train(architecture, data, default_recipe(data, 8, precision="float64"), device="cpu")
    found = load_file(tmp_path / "out" / "weights.safetensors")
    for name, value in alone.state_dict.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_nothing_outlives_the_launcher(start: Start, network: Path, tmp_path: Path) -> None:
    # Rule: after kill -9 of the launcher no process is left and the same command goes on; Ctrl-C ends all with a word
    # and status 130.
    given = (
        "train",
        network,
        "--devices",
        2,
        "--data",
        "digits",
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
        "--epochs",
    )
    first = start(*given, 400)
    wait_for_line(first, "epoch 2/400")
    ranks = ranks_of(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    assert len(ranks) == 2
    assert_gone(list(ranks.values()))
    second = start(*given, 400)
    lines = wait_for_line(second, "epoch 3/400")
    assert sum("epoch 1/400" in line for line in lines) == 1  # told again, from the checkpoint
    ranks = ranks_of(second.pid)
    began = time.monotonic()
    os.killpg(second.pid, signal.SIGINT)
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 130, stderr
    assert time.monotonic() - began < 15
    assert "interrupted; the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert_gone(list(ranks.values()))


def test_what_cannot_be_done_is_said_in_one_line(start: Start, network: Path, tmp_path: Path) -> None:
    # Rule: found in a process or before there is one: status 2, one line, no restart, no traceback.
    given = (
        "train",
        network,
        "--devices",
        2,
        "--data",
        "digits",
        "--epochs",
        1,
        "--device",
        "cpu",
        "--out",
        tmp_path / "o",
    )
    cases = [(("--local-statistics", "--batch-size", 3), "cannot be cut into 2 pieces for batch norm")]
    if not torch.cuda.is_available():
        cases.append((("--device", "cuda"), "torch finds 0 GPUs"))
    for options, message in cases:
        done = start(*given, *options)
        _, stderr = done.communicate(timeout=120)
        assert done.returncode == 2, stderr
        assert message in stderr.splitlines()[-1]
        assert sum("error" in line for line in stderr.splitlines()) == 1
        assert "restart" not in stderr
