"""carry_over: torchvision's networks are ours parameter by parameter, and what does not pair is refused."""

import math
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from igcsearch import create_model
from igcsearch.blocks import igcv2, network, stage
from igcsearch.blocks.references import REFERENCES
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.nn.carry import carry_over
from igcsearch.spec import Block, Factor, Problem, Stage


@torch.no_grad()
def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, and norms with random weights and statistics near those of some noise, so that signals keep their size."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.normal_(0, math.sqrt(2 / module.weight[0].numel()), generator=generator)
            if module.bias is not None:
                module.bias.normal_(0, 0.1, generator=generator)
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.uniform_(0.6, 1.2, generator=generator)
        norm.bias.normal_(0, 0.3, generator=generator)
    net.train()(torch.randn(4, 3, 32, 32, generator=generator))
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn(norm.num_features, generator=generator)
        norm.running_var *= 0.8 + 0.4 * torch.rand(norm.num_features, generator=generator)
    return net.eval()


# Rule: torchvision's state dicts, carried over, give the same logits on other images than those that the pairing saw.
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mobilenet_v2", "mobilenetv2_100"),
        ("shufflenet_v2_x0_5", "shufflenetv2_050"),
        ("shufflenet_v2_x1_0", "shufflenetv2_100"),
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("resnext50_32x4d", "resnext50_32x4d"),
    ],
)
def test_torchvisions_networks_parameter_by_parameter(theirs: str, ours: str) -> None:
    source = randomised(torchvision.models.get_model(theirs, weights=None))
    target = build(REFERENCES[ours].architecture, seed=1)
    pairs = carry_over(source, target, torch.zeros(1, 3, 32, 32))  # only its size matters
    assert len(pairs) == sum(1 for module in source.modules() if module.state_dict() and not list(module.children()))
    assert sum(p.numel() for p in source.parameters()) == sum(p.numel() for p in target.parameters())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, fused = source(images), target.eval()(images)
        given = target.set_execution("plain")(images)
    assert (expected[0] - expected[1]).abs().max() > 0.1  # they do depend on the image
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(given / scale, expected / scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        fused / scale, expected / scale, rtol=0, atol=1e-4
    )  # grouped 3x3 fused: sums in another order


# Rule: what torchvision says of its weights is what a reference says, to the digit.
@pytest.mark.parametrize("name", [name for name, row in REFERENCES.items() if row.source.startswith("torchvision")])
def test_figures_are_torchvisions_metadata(name: str) -> None:
    row = REFERENCES[name]
    (found,) = [word for word in row.source.replace(",", " ").split() if "_Weights." in word]
    meta = torchvision.models.get_weight(found).meta
    assert row.published_params == meta["num_params"] == row.architecture.params
    assert row.published_macs == round(meta["_ops"] * 1e9)
    assert row.published_macs == round(row.architecture.macs, -6)
    assert row.published_accuracy == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)


def small() -> nn.Module:
    stages = [stage(igcv2, 12, 12, 2, branch_widths=(3, 4), residual=True)]
    return build(network(Problem(8, 3, 5), 12, stages), seed=0)


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_fused_blocks_are_paired_too_and_everything_is_put_back() -> None:
    source, target = randomised(small()), small()
    target.train()
    before = [block.execution for block in target.modules() if hasattr(block, "execution")]
    assert set(before) == {"auto"}
    pairs = carry_over(source, target, IMAGES)
    assert pairs[0] == ("stem.steps.0.conv", "stem.steps.0.conv")
    assert all(one == other for one, other in pairs)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())
    assert target.training
    assert not source.training
    assert [block.execution for block in target.modules() if hasattr(block, "execution")] == before
    assert not any(module._forward_hooks for net in (source, target) for module in net.modules())


def plain(kernel: int = 3, dilation: int = 1, activation: nn.Module | None = None) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(3, 4, kernel, padding=padding, dilation=dilation, bias=False),
        activation or nn.ReLU(),
        nn.Conv2d(4, 5, 1),
    )


class Extra(nn.Module):
    """Holds a layer that never runs, or a parameter beside its layers."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.body = plain()
        if own:
            self.token = nn.Parameter(torch.zeros(3))
        else:
            self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            plain(),
            plain(kernel=5),
            r"leaf 1: source's 0 \(weight \(4, 3, 3, 3\); .* does not fit target's 0 \(weight \(4, 3, 5, 5\)",
        ),
        (plain(), nn.Sequential(*plain()[:2]), "leaf 2: the target has no counterpart of 2 "),
        (nn.Sequential(*plain()[:2]), plain(), "leaf 2: the source has no counterpart of 2 "),
        (plain(), nn.Sequential(plain()[0], nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False)), "leaf 2: source's 2"),
        (plain(), nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), *plain()[1:]), "leaf 1: source's 0"),
        (plain(), plain(dilation=2), "the outputs differ by .* such as a dilation"),
        (plain(), plain(activation=nn.Tanh()), "the outputs differ"),
        (Extra(own=False), plain(), "the source's idle did not run on the example"),
        (plain(), Extra(own=True), r"the target's module itself \(Extra\) holds token beside modules of its own"),
    ],
)
def test_what_is_not_the_same_is_refused_and_left_as_it_was(source: nn.Module, target: nn.Module, message: str) -> None:
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        carry_over(source, target, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert target.training
    assert not any(module._forward_hooks for net in (source, target) for module in net.modules())


class Lanes(nn.Module):
    """Two equal convolutions side by side, that run in this or the other order; the concatenation's is the same."""

    def __init__(self, first: str, bias: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(3, 4, 3, padding=1, bias=False) for _ in range(2))
        self.fc = nn.Linear(8, 5)
        nn.init.constant_(self.fc.bias, bias)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        found = {name: getattr(self, name)(x) for name in (("a", "b") if self.first == "a" else ("b", "a"))}
        result: Tensor = self.fc(torch.cat([found["a"], found["b"]], 1).relu().mean((2, 3)))
        return result


# Rule: what the example shows is nothing to go by: zeros, one image, outputs that a bias dominates.
@pytest.mark.parametrize("example", [torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), IMAGES])
@pytest.mark.parametrize("bias", [0.0, 300.0])
def test_networks_that_differ_are_refused_whatever_the_example(example: Tensor, bias: float) -> None:
    torch.manual_seed(0)
    source, target = Lanes("a", bias), Lanes("b", bias)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UsageError, match="of their spread over random images"):
        carry_over(source, target, example)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    carry_over(source, Lanes("a", bias), example, tolerance=0.01)


def test_another_activation_is_seen_on_zeros() -> None:
    ours = REFERENCES["resnet18"].architecture.with_(num_classes=10, image_size=32)
    blocks = [block for _, block in ours.blocks()]
    wrong = ours.with_blocks([blocks[0], *(replace(block, activation="gelu") for block in blocks[1:])])
    source = randomised(torchvision.models.resnet18(num_classes=10))
    with pytest.raises(UsageError, match="the outputs differ"):
        carry_over(source, build(wrong, seed=0), torch.zeros(1, 3, 32, 32))


class Gives(nn.Module):
    """One convolution, and its output in some form."""

    def __init__(self, form: str, value: float | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.form = form
        if value is not None:
            nn.init.zeros_(self.conv.weight)
            nn.init.constant_(self.conv.bias, value)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> object:
        y = self.conv(x)
        return {"map": y, "flat": y.mean((2, 3)), "dict": {"out": y}, "number": y.mean()}[self.form]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.lstm(x)[0]
        return result


# Rule: outputs that cannot be compared are one line, and the target is as it was then.
@pytest.mark.parametrize(
    ("source", "target", "shape", "message"),
    [
        (Gives("flat"), Gives("map"), (2, 3, 8, 7), r"the source gives \(4, 5\) and the target \(4, 5, 8, 7\)"),
        (Gives("flat"), Gives("map"), (1, 3, 5, 1), r"the source gives \(4, 5\) and the target \(4, 5, 5, 1\)"),
        (
            Gives("dict"),
            Gives("dict"),
            (1, 3, 4, 4),
            "the source gives a dict for 4 images: outputs are compared as tensors",
        ),
        (Gives("number"), Gives("flat"), (1, 3, 4, 4), r"the source gives a Tensor of shape \(\) for 4 images"),
        (
            Recurrent(),
            Recurrent(),
            (2, 3, 4),
            r"the source's lstm \(LSTM\) gives a tuple: only leaves that give a tensor",
        ),
        (Gives("flat", 1.0), Gives("flat"), (1, 3, 4, 4), "the source gives the same for 4 random images"),
        (Gives("flat", math.nan), Gives("flat"), (1, 3, 4, 4), "the source gives the same for 4 random images"),
    ],
)
def test_outputs_that_cannot_be_compared(
    source: nn.Module, target: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        carry_over(source, target, torch.zeros(shape))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert not any(module._forward_hooks for net in (source, target) for module in net.modules())


def test_whatever_is_raised_the_target_is_as_it_was() -> None:
    class Fails(Gives):
        calls = 0

        def forward(self, x: Tensor) -> object:
            self.calls += 1
            if self.calls > 1:
                raise KeyboardInterrupt
            return super().forward(x)

    target = Fails("flat")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        carry_over(Gives("flat"), target, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_outputs_are_not_compared_at_an_infinite_tolerance() -> None:
    source, target = Gives("flat", math.nan), Gives("dict")
    assert carry_over(source, target, IMAGES, tolerance=math.inf) == [("conv", "conv")]
    assert bool(target.conv.bias is not None and target.conv.bias.isnan().all())
    with pytest.raises(UsageError, match="tolerance -1 must be at least 0"):
        carry_over(source, target, IMAGES, tolerance=-1)
    with pytest.raises(UsageError, match=r"type torch\.int64: give floating point"):
        carry_over(source, target, IMAGES.long())


def test_a_leaf_that_runs_twice_counts_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.conv(self.conv(x))
            return result

    source, target = Twice(), Twice()
    assert carry_over(source, target, IMAGES) == [("conv", "conv")]
    assert torch.equal(source.conv.weight, target.conv.weight)


def test_the_order_of_channels_is_seen() -> None:
    def net(shuffled: bool) -> nn.Module:
        first = Block((Factor(12, 12, groups=3 if shuffled else 4), Factor(12, 12, groups=4 if shuffled else 3)))
        return build(network(Problem(8, 3, 5), 12, [Stage((first,))]), seed=0)

    with pytest.raises(UsageError, match="does not fit"):
        carry_over(net(False), net(True), IMAGES)


def test_users_may_carry_over_into_a_created_model() -> None:
    theirs = randomised(torchvision.models.shufflenet_v2_x0_5(num_classes=7))
    ours = create_model("shufflenetv2_050", num_classes=7)
    carry_over(theirs, ours, torch.zeros(1, 3, 32, 32))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs(images), rtol=1e-5, atol=1e-5)
