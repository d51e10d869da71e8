"""kill -9 at random moments: the checkpoint is always whole, and the training ends at the weights of an undisturbed one."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

_CHILD = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from igcsearch.blocks import igcv2, network, stage
from igcsearch.training import DataSpec, Recipe, load_data, train
from safetensors.torch import save_file

checkpoint, result = sys.argv[1:]
data = load_data(DataSpec("digits", train_images=300))
architecture = network(data.problem(), 8, [stage(igcv2, 8, 8, 2, branch_widths=(2, 4), residual=True)])
recipe = Recipe(epochs=40, batch_size=32, ema_decay=0.9)
print("ready", flush=True)
trained = train(
    architecture, data, recipe, device="cpu", threads=1,
    checkpoint=Path(checkpoint) if checkpoint else None, on_epoch=lambda epoch: print(epoch.epoch, flush=True),
)
curve = [(epoch["train_loss"], epoch["validation_accuracy"]) for epoch in trained.curve]
save_file(trained.state_dict, result, metadata={"curve": json.dumps(curve), "resumed": str(trained.resumed_from)})
"""


def _start(checkpoint: Path | str, result: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(checkpoint), str(result)], stdout=subprocess.PIPE, text=True
    )


def test_killed_training_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    # Rule: however often it is killed, no finished epoch is lost and the end is the same, bit for bit.
    whole, broken, checkpoint = tmp_path / "whole", tmp_path / "broken", tmp_path / "c"
    undisturbed = _start("", whole)
    rng = random.Random(0)
    reported = 0
    for _ in range(4):
        with _start(checkpoint, broken) as child:
            assert child.stdout is not None
            lines = []
            for line in child.stdout:  # until it has gone on by an epoch or two
                lines.append(line.strip())
                if lines[-1].isdigit() and int(lines[-1]) >= min(reported + rng.choice((1, 2)), 39):
                    time.sleep(rng.random() * 0.05)  # an epoch takes about as long
                    break
            child.kill()
            lines += child.stdout.read().split()
        reported = max([reported, *(int(line) for line in lines if line.isdigit())])
        with safe_open(checkpoint, framework="pt") as file:
            epochs = len(json.loads(file.metadata()["igcsearch"])["curve"])
        assert epochs >= reported  # what was reported is in the file
        if broken.exists():
            break
    last = _start(checkpoint, broken)
    assert last.wait(120) == undisturbed.wait(120) == 0
    for process in (last, undisturbed):
        assert process.stdout is not None
        process.stdout.close()
    with safe_open(whole, framework="pt") as one, safe_open(broken, framework="pt") as two:
        assert one.metadata()["curve"] == two.metadata()["curve"]
        assert int(two.metadata()["resumed"]) >= reported
        assert one.metadata()["resumed"] == "0"
    weights = load_file(whole), load_file(broken)
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
