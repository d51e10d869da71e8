"""kill -9 at random moments: the checkpoint is always whole, and the training ends at the weights of an undisturbed
one.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

KILLS = 6

# One process imports torch and forks each training, so that ten of them cost one import.
_DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from igcsearch.blocks import igcv2, network, stage
from igcsearch.training import DataSpec, Recipe, load_data, train

torch.set_num_threads(1)
folder, kills = Path(sys.argv[2]), int(sys.argv[3])
data = load_data(DataSpec(sys.argv[1]))
architecture = network(data.problem(), 8, [stage(igcv2, 8, 8, 2, branch_widths=(2, 4), residual=True)])
recipe = Recipe(epochs=40, batch_size=32, ema_decay=0.9)
log = folder / "reported"

def start(name, checkpoint):
    pid = os.fork()
    if pid:
        return pid
    def report(epoch):
        with open(log, "a") as file:
            file.write(f"{epoch.epoch}\\n")
    trained = train(architecture, data, recipe, device="cpu", checkpoint=checkpoint, on_epoch=checkpoint and report)
    curve = [(epoch["train_loss"], epoch["validation_accuracy"]) for epoch in trained.curve]
    facts = {"curve": json.dumps(curve), "resumed": str(trained.resumed_from)}
    save_file(trained.state_dict, folder / name, metadata=facts)
    os._exit(0)

train(architecture, data, Recipe(epochs=1), device="cpu")  # what torch imports at its first step is in, too
begin = time.monotonic()
assert os.waitpid(start("whole", None), 0)[1] == 0
whole = time.monotonic() - begin
checkpoint, rng, killed, kept = folder / "c", random.Random(0), 0, []
for _ in range(kills):
    pid = start("broken", checkpoint)
    time.sleep(rng.uniform(0.02, 0.4) * whole)
    os.kill(pid, signal.SIGKILL)
    killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
    reported = max(map(int, log.read_text().split()), default=0) if log.exists() else 0
    epochs = 0
    if checkpoint.exists():
        with safe_open(checkpoint, framework="pt") as file:
            epochs = len(json.loads(file.metadata()["igcsearch"])["curve"])
    kept.append((reported, epochs))
assert os.waitpid(start("broken", checkpoint), 0)[1] == 0
one, two = load_file(folder / "whole"), load_file(folder / "broken")
facts = []
for name in ("whole", "broken"):
    with safe_open(folder / name, framework="pt") as file:
        facts.append(file.metadata())
same = one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
print(json.dumps({"killed": killed, "kept": kept, "same": same, "facts": facts}))
"""


def test_killed_training_ends_as_if_it_had_not_been(write_npz: Callable[..., Path], tmp_path: Path) -> None:
    # Rule: however often it is killed, no epoch that was reported is lost, and the end is the same, bit for bit.
    arguments = [str(write_npz(count=400)), str(tmp_path), str(KILLS)]
    driver = subprocess.run(
        [sys.executable, "-c", _DRIVER, *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert driver.returncode == 0, driver.stderr
    found = json.loads(driver.stdout)
    assert found["killed"] >= 2
    assert all(kept >= reported for reported, kept in found["kept"])
    whole, broken = found["facts"]
    assert found["same"]
    assert whole["curve"] == broken["curve"]
    assert (whole["resumed"], int(broken["resumed"])) == ("0", found["kept"][-1][1])
    assert found["kept"][-1][1] > 0


_LAZY = """
import os, sys
from pathlib import Path
from igcsearch.blocks import igcv2, network, stage
from igcsearch.training import DataSpec, Recipe, load_data, train

def report(epoch):
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    print(*[pid for task in tasks for pid in (task / "children").read_text().split()], flush=True)

if __name__ == "__main__":
    data = load_data(DataSpec(sys.argv[1]), resident_bytes=0)
    architecture = network(data.problem(), 8, [stage(igcv2, 8, 8, 1, branch_widths=(2, 4))])
    train(architecture, data, Recipe(epochs=1000, batch_size=8), device="cpu", on_epoch=report)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads child processes from /proc")
def test_loader_processes_end_with_a_killed_training(write_tree: Callable[..., Path], tmp_path: Path) -> None:
    # Rule: kill -9 of a training leaves none of its processes behind (they look for their parent every 5 seconds).
    script = tmp_path / "lazy.py"
    script.write_text(_LAZY)
    folder = write_tree("pets", {"cat": 10, "dog": 10})
    with subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        children = [int(pid) for pid in training.stdout.readline().split()]
        training.kill()
    assert children
    end = time.monotonic() + 60
    while (left := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, 9)
    assert not left
