"""Closed form = fvcore's convolutions and linear layers = half of torch's own counter, exactly; latency and its errors."""

import random

import pytest

from igcsearch.blocks import FAMILIES, igcv1, igcv2, igcv2_uniform, network, stage
from igcsearch.errors import UsageError
from igcsearch.nn import build, measure
from igcsearch.spec import (
    Architecture,
    Block,
    Factor,
    Parallel,
    Pool,
    Problem,
    Shuffle,
    Stage,
    StagedArchitecture,
)
from igcsearch.spec.conditions import factorizations

#: Families that need no options of their own to fit the widths below, or these.
OTHERS: dict[str, dict[str, object]] = {
    **{family: {} for family in ("igcv3", "xception", "dense", "mobilenet", "mobilenetv2", "shufflenetv2", "monarch")},
    "resnet_basic": {"squeeze": 4},
    "resnet_bottleneck": {"preactivation": True},
    "resnext": {"groups": 2, "preactivation": True, "squeeze": 8},
    "shufflenet": {"groups": 2, "first_groups": 1, "bottleneck": 2},
}


def draw(stream: random.Random) -> Architecture:
    """A random architecture of a random family, transitions, shortcuts, heads and odd image sizes included."""
    problem = Problem(stream.choice([8, 13, 16, 28]), stream.choice([1, 3]), stream.choice([2, 10]))
    width = stream.choice([8, 12, 16, 24])
    out = stream.choice([width, 2 * width])
    options = {
        "stride": stream.choice([1, 2]),
        "residual": stream.random() < 0.5,
        "shuffle": stream.choice(["interleave", "random"]),
    }
    family = stream.choice(["igcv1", "igcv2", "uniform", *OTHERS])
    repeats = stream.randint(1, 2)
    if family == "igcv1":
        divisors = [d for d in range(2, width) if width % d == 0]
        stages = [stage(igcv1, width, out, repeats, primary_groups=stream.choice(divisors), **options)]
    elif family == "igcv2":
        n = stream.randint(1, 3)
        inside, across = (stream.choice(factorizations(w, n) or [(w,)]) for w in (out, width))
        stages = [
            stage(igcv2, width, out, repeats, branch_widths=inside, transition={"branch_widths": across}, **options)
        ]
    elif family == "uniform":
        stages = [stage(igcv2_uniform, width, out, repeats, branch_width=stream.choice([2, 4]), **options)]
    else:
        stages = [stage(FAMILIES[family], width, out, repeats, **OTHERS[family], **options)]
    return network(problem, width, stages, stem_stride=stream.choice([1, 2]), head_width=stream.choice([None, 20]))


def check(architecture: Architecture) -> None:
    net = build(architecture, seed=0)
    counted = measure.fvcore_macs(net)
    assert counted.macs == architecture.macs
    assert counted.total >= counted.macs
    assert measure.torch_flops(net) == 2 * architecture.macs
    assert sum(parameter.numel() for parameter in net.parameters()) == architecture.params


@pytest.mark.parametrize("seed", range(120))
def test_three_counts_agree_exactly(seed: int) -> None:
    check(draw(random.Random(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(120, 640))
def test_three_counts_agree_exactly_on_hundreds(seed: int) -> None:
    check(draw(random.Random(seed)))


def test_lanes_pools_and_biases_are_counted() -> None:
    lanes = Parallel(((), (Factor(8, 8, 3, groups=2, bias=True),)), 16, split=(8, 8), shuffle=Shuffle("interleave"))
    stem = Block((Factor(3, 16, 7, stride=2, norm=True), Pool(16)))
    tail = Block((lanes, Factor(16, 12, dilation=2, kernel_size=3)), shortcut=(Factor(16, 12),))
    check(StagedArchitecture(3, 32, 4, stem, (Stage((tail,)),)))


def test_measuring_leaves_the_network_as_it_was() -> None:
    net = build(draw(random.Random(1)), seed=0)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure.fvcore_macs(net)
    found = measure.latency(net, runs=3)
    assert net.training
    assert all((value == before[name]).all() for name, value in net.state_dict().items())
    assert 0 < found["median_ms"] <= found["p90_ms"]
    assert (found["device"], found["threads"], found["batch"], found["dtype"]) == ("cpu", 1, 1, "float32")


@pytest.mark.parametrize(("options", "message"), [({"dtype": "int8"}, "unknown dtype"), ({"batch": 0}, "at least 1")])
def test_unusable_latency_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure.latency(build(draw(random.Random(1))), **options)  # type: ignore[arg-type]
