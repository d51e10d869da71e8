"""What test_distributed.py has done by one process (`python distributed_job.py OUT [DEVICE [BACKEND]]`) and by several
(torchrun): every case leaves its files in OUT, and the tests compare them.
"""

import json
import os
import shutil
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from igcsearch.blocks import igcv2, network, stage
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture
from igcsearch.spec.grouping import opened_groups
from igcsearch.spec.learning import WAYS, opened
from igcsearch.training import DataSpec, Epoch, ImageData, Recipe, TrainingDiverged, default_recipe, load_data, train
from igcsearch.training.batches import Batches
from igcsearch.training.distributed import Group, in_environment
from igcsearch.training.norms import GlobalBatchNorm
from igcsearch.training.step import Stepper

# name: entries of the recipe, dropout, images
CASES: dict[str, tuple[dict[str, Any], float, int | None]] = {
    "weights": ({"precision": "float64", "epochs": 2}, 0.0, None),  # 68 steps
    "uneven": ({"precision": "float64", "epochs": 1, "batch_size": 37, "accumulate": 3}, 0.3, None),
    "tiny": (
        {"precision": "float64", "epochs": 1, "batch_size": 3},
        0.3,
        100,
    ),  # a process of three has one image or two
    "single": ({"precision": "float32", "epochs": 2}, 0.0, None),
    # soft for two of three epochs, with gradients of masks and penalties
    "sinkhorn": ({"precision": "float64", "epochs": 3, "soft_share": 0.7, "shuffle_way": "sinkhorn"}, 0.0, None),
    "groups": ({"precision": "float64", "epochs": 3, "soft_share": 0.7, "max_params": 780}, 0.0, None),
}


def architecture_for(data: ImageData, dropout: float = 0.0) -> Architecture:
    stages = [
        stage(igcv2, 8, 8, 1, branch_widths=(2, 4), residual=True),
        stage(igcv2, 8, 16, 1, stride=2, branch_widths=(4, 4), transition={"branch_widths": (2, 4)}),
    ]
    return network(data.problem(), 8, stages, dropout=dropout)


def norm_input() -> torch.Tensor:
    """Float32 (5, 3, 2, 2) whose mean is 10,000 times its deviation: E[x^2] - E[x]^2 has no digit left of it."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, 2, 2, generator=generator) + 1e4


def norm_shares(rank: int, world_size: int) -> list[slice]:
    """Of the five images: those of each process; and once all of them with the first, none elsewhere."""
    cuts = [0, 2, 5] if world_size == 2 else [0, 5]
    return [slice(cuts[rank], cuts[rank + 1]), slice(0, 5) if rank == 0 else slice(5, 5)]


class Job:
    def __init__(self, out: Path, device: str, group: Group | None) -> None:
        self.out, self.group, self.device = out, group, device if group is None else group.device
        self.rank = 0 if group is None else group.rank
        self.data = load_data(DataSpec("digits"))

    def train(self, name: str, recipe: Recipe, dropout: float = 0.0, data: ImageData | None = None, **more: Any) -> Any:
        data = data or self.data
        more = {"group": self.group, "checkpoint": self.out / f"{name}.safetensors"} | more
        architecture = architecture_for(data, dropout)
        what = name.partition("-")[0]
        architecture = opened(architecture) if what in WAYS else architecture
        architecture = opened_groups(architecture) if what == "groups" else architecture
        return train(architecture, data, recipe, device=self.device, threads=1, **more)

    def keep(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, self.out / f"{name}.rank{self.rank}")

    def say(self, name: str, what: Any) -> None:
        (self.out / f"{name}.json{self.rank}").write_text(json.dumps(what))

    def cases(self) -> None:
        for name, (entries, dropout, images) in CASES.items():
            data = load_data(DataSpec("digits", train_images=images)) if images else self.data
            result = self.train(name, default_recipe(data, **entries), dropout, data)
            self.keep(name, result.state_dict)
            self.say(name, result.curve)

    def first_gradients(self) -> None:
        for name, accumulate in (("gradients", 1), ("gradients-cut", 4)):
            recipe = default_recipe(self.data, accumulate=accumulate).resolve(self.data, "float32")
            stepper = Stepper(architecture_for(self.data), self.data, recipe, torch.device("cpu"), group=self.group)
            # Running statistics where micro-batches are to give the whole batch's gradients.
            stepper.network.train(accumulate == 1)
            with Batches({"train": self.data.train}, torch.device("cpu")) as batches:
                batch = next(batches.training("train", recipe.batch_size, 0, 1, stepper.share))
                stepper.step(batch, 1, 0)
            self.keep(name, {n: p.grad for n, p in stepper.network.named_parameters() if p.grad is not None})

    def half(self) -> None:
        """One epoch of three; and, if half of another number of processes lies there, the other two."""
        recipe = default_recipe(self.data, epochs=3, precision="float64")
        first = self.train("half", recipe, on_epoch=lambda epoch: epoch.epoch < 1)
        self.say("half", [first.stopped, first.epochs])
        self.train("whole", recipe)
        if (self.out / "other" / "half.safetensors").exists():
            if self.rank == 0:
                shutil.copy(self.out / "other" / "half.safetensors", self.out / "resumed.safetensors")
            seen: list[int] = []
            result = self.train("resumed", recipe, on_epoch=lambda epoch: seen.append(epoch.epoch))
            self.say("resumed", [result.resumed_from, seen])

    def learned(self) -> None:
        """Shuffles or group counts learned in two epochs of four; the same, interrupted at the end of those and one later."""
        ways: dict[str, dict[str, Any]] = {"sinkhorn": {"shuffle_way": "sinkhorn"}, "groups": {"max_params": 780}}
        for way, stop in product(ways, (0, 2, 3)):
            recipe = default_recipe(self.data, epochs=4, soft_share=0.5, **ways[way])
            name = f"{way}-{stop}"
            if stop:
                self.train(name, recipe, on_epoch=lambda epoch, stop=stop: epoch.epoch < stop)
            result = self.train(name, recipe)
            self.keep(name, result.state_dict)
            self.say(name, [result.resumed_from, result.architecture.hash, [e["train_loss"] for e in result.curve]])

    def errors(self) -> None:
        def fail(epoch: Epoch) -> None:
            raise UsageError(f"told so after epoch {epoch.epoch}")

        def refused(**more: Any) -> str:
            try:
                self.train("error", default_recipe(self.data, **({"epochs": 2} | more.pop("recipe", {}))), **more)
            except (UsageError, TrainingDiverged) as error:
                return f"{type(error).__name__}: {error}"
            return "no error"

        told = [refused(on_epoch=fail), refused(recipe={"seed": 1})]  # the first leaves a checkpoint of seed 0
        told.append(refused(recipe={"lr": 1e30, "warmup_epochs": 0}, checkpoint=None))
        self.say("errors", told)

    def own_statistics(self) -> None:
        assert self.group is not None
        group = Group(self.group.rank, self.group.world_size, global_statistics=False)
        result = self.train("own", default_recipe(self.data, epochs=3), group=group)
        self.keep("own", result.state_dict)
        self.say("own", result.curve)
        try:
            self.train("own-small", default_recipe(self.data, batch_size=3), group=group)
        except UsageError as error:
            self.say("own-small", str(error))

    def norm(self) -> None:
        assert self.group is not None
        for number, rows in enumerate(norm_shares(self.rank, self.group.world_size)):
            layer = GlobalBatchNorm(3)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            layer.to(self.device)
            x = norm_input()[rows].to(self.device).requires_grad_()
            y = layer(x)
            (y * torch.arange(60.0, device=self.device).view(5, 3, 2, 2)[rows]).sum().backward()
            assert x.grad is not None
            assert layer.weight.grad is not None
            assert layer.bias.grad is not None
            for gradient in (layer.weight.grad, layer.bias.grad):
                self.group.sum_(gradient)
            found = {"y": y.detach(), "dx": x.grad, "dw": layer.weight.grad, "db": layer.bias.grad}
            self.keep(f"norm{number}", found | {name: value.clone() for name, value in layer.named_buffers()})


def main() -> None:
    out, device, backend = [*sys.argv[1:], *["", "cpu", None][len(sys.argv) - 1 :]]
    assert out is not None
    assert device is not None
    torch.set_num_threads(1)
    group = Group.from_environment(device, backend=backend) if in_environment() else None
    with nullcontext() if group is None else group.joined():
        job = Job(Path(out), device, group)
        job.cases()
        if group is not None and group.backend == "gloo":
            job.norm()
        assert group is None or Group.current(device) == group
        if device == "cpu":
            job.first_gradients()
            job.half()
            job.learned()
            job.errors()
            if group is not None:
                job.own_statistics()
    print("done", os.environ.get("RANK", "alone"))


if __name__ == "__main__":
    main()
