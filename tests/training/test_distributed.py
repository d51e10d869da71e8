"""Several processes against one with the same batches: the same network to rounding, whoever had gone before. Real
processes, gloo on the CPU; on a GPU where there is one.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.training import DataSpec, default_recipe, load_data
from igcsearch.training.augment import augment
from igcsearch.training.batches import epoch_batches
from igcsearch.training.distributed import Group, check_devices

JOB = Path(__file__).with_name("distributed_job.py")
_spec = spec_from_file_location("igcsearch_test_distributed_job", JOB)
assert _spec is not None
assert _spec.loader is not None
job = module_from_spec(_spec)
_spec.loader.exec_module(job)
Tensors = dict[str, torch.Tensor]


def run_job(out: Path, processes: int, *options: str) -> Path:
    """The job's files, done by so many processes; 0: without a group."""
    out.mkdir(exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes else []), str(JOB), str(out), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Done by one process."""
    return run_job(tmp_path_factory.mktemp("job") / "one", 0)


@pytest.fixture(scope="module")
def two(one: Path) -> Path:
    """Done by two, which also go on from the first epoch of the one."""
    other = one.with_name("two") / "other"
    other.mkdir(parents=True)
    shutil.copy(one / "half.safetensors", other)
    return run_job(other.parent, 2)


def told(folder: Path, name: str, rank: int = 0) -> Any:
    return json.loads((folder / f"{name}.json{rank}").read_text())


def furthest(ours: Tensors, theirs: Tensors) -> float:
    """The largest relative difference (of norms) of two tensors of one name."""
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[name].double() - theirs[name].double()).norm() / ours[name].double().norm().clamp_min(1e-30))
        for name in ours
    )


def assert_same_training(one: Path, several: Path, name: str, within: float) -> None:
    """Weights, average, momentum and statistics agree, and so do the curves."""
    files = [load_file(folder / f"{name}.safetensors") for folder in (one, several)]
    assert furthest(*files) < within
    for ours, theirs in zip(told(one, name), told(several, name), strict=True):
        assert ours["validation_accuracy"] == theirs["validation_accuracy"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=within)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["weights", "uneven", "tiny", "sinkhorn"])
def test_two_processes_train_what_one_does(name: str, one: Path, two: Path) -> None:
    # Rule: in float64 the state after 50 steps and more agrees to 1e-10, whether batches divide or not, micro-batches,
    # dropout and processes without an image included.
    if name != "tiny":
        assert load_file(one / f"{name}.safetensors")["model.stem.steps.0.norm.num_batches_tracked"] > 50
    assert_same_training(one, two, name, 1e-10)


def test_single_precision_too(one: Path, two: Path) -> None:
    # Rule: in float32 the first step's gradients agree to 1e-5, and the first epoch's loss. Of more no more is to be had: a
    # rounding can put a unit on the other side of zero. One process with initial weights changed by 1e-7 ends two epochs
    # either 1e-6 or 0.06 away, by stock convolutions too.
    for name in ("gradients", "gradients-cut"):
        assert furthest(*[load_file(folder / f"{name}.rank0") for folder in (one, two)]) < 1e-5
    (first, last), (ours, end) = told(one, "single"), told(two, "single")
    assert ours["train_loss"] == pytest.approx(first["train_loss"], rel=1e-5)
    assert ours["validation_accuracy"] == first["validation_accuracy"]
    assert end["train_loss"] == pytest.approx(last["train_loss"], rel=0.01)


@pytest.mark.parametrize("way", ["sinkhorn", "groups"])
def test_what_is_learned_goes_on_in_all_processes(two: Path, way: str) -> None:
    # Rule: interrupted at the end of the soft epochs and behind it, all processes go on with the same network, to the same bits.
    whole = told(two, f"{way}-0")
    for stop in (2, 3):
        name = f"{way}-{stop}"
        assert told(two, name, 0) == told(two, name, 1) == [stop, *whole[1:]]
        weights = [load_file(two / f"{each}.rank{rank}") for each, rank in ((f"{way}-0", 0), (name, 0), (name, 1))]
        assert all(torch.equal(weights[0][key], other[key]) for other in weights[1:] for key in weights[0])


def test_accumulated_gradients_are_those_of_the_whole_batch(two: Path) -> None:
    # Rule: where norms use their running statistics, four micro-batches give what one batch does (written another way:
    # by autograd, on all images at once).
    found = load_file(two / "gradients-cut.rank0")
    data = load_data(DataSpec("digits"))
    recipe = default_recipe(data)
    rows = epoch_batches(data.train, recipe.batch_size, 0, 1)[0]
    net = build(job.architecture_for(data), recipe.seed).eval()
    assert isinstance(data.train.images, torch.Tensor)
    ids = data.train.indices[rows]
    images = augment(data.train.images[rows], ids, seed=0, epoch=1, padding=recipe.crop_padding or 0, flip=False)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    logits = net((images / 255 - mean) / std)
    loss = nn.functional.cross_entropy(logits, data.train.labels[rows], label_smoothing=recipe.label_smoothing)
    loss.backward()
    by_hand = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert furthest(found, by_hand) < 1e-5


def test_all_processes_hold_the_same_bits(two: Path) -> None:
    # Rule: whoever is asked gives the same weights and the same curve.
    for name in ("weights", "uneven", "tiny", "single", "own", "sinkhorn"):
        weights = [load_file(two / f"{name}.rank{rank}") for rank in (0, 1)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), name
        assert told(two, name, 0) == told(two, name, 1)


def test_a_training_goes_on_with_another_number_of_processes(one: Path, two: Path) -> None:
    # Rule: a checkpoint does not say how many wrote it; from one to two and back it ends where an uninterrupted one does.
    whole = load_file(one / "whole.safetensors")
    assert furthest(whole, load_file(two / "whole.safetensors")) < 1e-10
    assert furthest(whole, load_file(two / "resumed.safetensors")) < 1e-10
    assert [told(two, "resumed", rank) for rank in (0, 1)] == [[1, [1, 2, 3]], [1, []]]  # the first alone is told
    back = one.with_name("back")
    (back / "other").mkdir(parents=True, exist_ok=True)
    shutil.copy(two / "half.safetensors", back / "other")
    run_job(back, 0)
    assert furthest(whole, load_file(back / "resumed.safetensors")) < 1e-10


def test_what_one_process_comes_upon_is_raised_in_all(one: Path, two: Path) -> None:
    # Rule: the stop, the error of on_epoch, a checkpoint of another training, a loss that is not finite: the same words
    # everywhere, and nobody is left waiting.
    assert [told(two, "half", rank) for rank in (0, 1)] == [[True, 1]] * 2
    assert told(two, "errors", 0) == told(two, "errors", 1)
    ours, theirs = ([text.replace(str(folder), "") for text in told(folder, "errors")] for folder in (one, two))
    assert ours == theirs
    assert "told so after epoch 1" in ours[0]
    assert "another recipe (seed 0, now 1)" in ours[1]
    assert "the loss is nan in epoch 1, step" in ours[2]


def test_statistics_of_their_own_when_asked_for(one: Path, two: Path) -> None:
    # Rule: then the numbers differ from one process's, still all hold the same; pieces too small for a norm are refused.
    assert told(two, "own")[0]["train_loss"] != told(one, "weights")[0]["train_loss"]
    assert told(two, "own")[-1]["train_loss"] < told(two, "own")[0]["train_loss"] / 1.5
    assert "cannot be cut into 2 pieces for batch norm" in told(two, "own-small")


def test_global_batch_norm_is_batch_norm(two: Path) -> None:
    # Rule: outputs, gradients and running statistics over all images, where the mean is 10,000 deviations and where a
    # process has no image, are as near to nn.BatchNorm2d in float64 as nn.BatchNorm2d in float32 is, within a factor of 2.
    assert_norms(two, 2)


def plain_norm(dtype: torch.dtype) -> Tensors:
    """What nn.BatchNorm2d makes of the job's images."""
    layer = nn.BatchNorm2d(3).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = job.norm_input().to(dtype).requires_grad_()
    y = layer(x)
    (y * torch.arange(60.0).view(5, 3, 2, 2)).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    return {"y": y.detach(), "dx": x.grad, "dw": layer.weight.grad, "db": layer.bias.grad} | dict(layer.named_buffers())


def assert_norms(folder: Path, processes: int) -> None:
    exact, usual = plain_norm(torch.float64), plain_norm(torch.float32)
    for number in (0, 1):
        parts = [load_file(folder / f"norm{number}.rank{rank}") for rank in range(processes)]
        found = {name: parts[0][name] for name in exact} | {n: torch.cat([p[n] for p in parts]) for n in ("y", "dx")}
        for name in exact:
            allowed = 2 * furthest({name: exact[name]}, {name: usual[name]}) + 1e-5
            assert furthest({name: exact[name]}, {name: found[name]}) < allowed, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 of 2 processes"),
        ({"rank": 0, "world_size": 1, "backend": "glo"}, "did you mean 'gloo'"),
        ({"rank": 0, "world_size": 1, "backend": "nccl"}, "the device is cpu; use gloo"),
    ],
)
def test_groups_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    # Rule: refused before any process waits for another, with value, rule and cure.
    with pytest.raises(UsageError, match=message):
        Group(**arguments)


def test_torchruns_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rule: its variables make the group; what is missing or no number is named.
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not in the environment"):
        Group.from_environment("cpu")
    values = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert Group.from_environment("cpu") == Group(1, 4, "gloo", "cpu")
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UsageError, match="RANK=one"):
        Group.from_environment("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rule: both numbers and the way out; on the CPU as many as there are cores, and two on any machine.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 devices were asked for, but torch finds 1 GPU here"):
        check_devices(2, torch.device("cuda"))
    check_devices(2, torch.device("cpu"))
    with pytest.raises(UsageError, match="10000 devices were asked for, but this machine has"):
        check_devices(10_000, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("processes", "options"), [(1, ("cuda", "nccl")), (2, ("cuda:0", "gloo"))])
def test_on_a_gpu(processes: int, options: tuple[str, str], tmp_path: Path) -> None:
    # Rule: NCCL with one process, and two gloo ranks whose tensors lie on one GPU, train what a plain process does.
    plain, several = run_job(tmp_path / "plain", 0, options[0]), run_job(tmp_path / "several", processes, *options)
    for name in ("weights", "uneven", "tiny", "sinkhorn"):
        assert furthest(*[load_file(folder / f"{name}.safetensors") for folder in (plain, several)]) < 1e-8
    assert furthest(*[load_file(folder / "single.safetensors") for folder in (plain, several)]) < 1e-2
    if options[1] == "gloo":
        assert_norms(several, processes)
