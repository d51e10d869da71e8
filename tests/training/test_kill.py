"""kill -9 at random moments: the checkpoint is always whole, and the training ends at the weights of an undisturbed one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
