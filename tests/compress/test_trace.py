"""Foreign modules as graphs: torchvision's networks and small modules of every kind; what cannot be traced is named."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from igcsearch.compress.criterion import groupable
from igcsearch.compress.trace import trace
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.nn.sparse import SparseConv2d
from igcsearch.spec import Sparsity

from .networks import LONG, QUICK, difference, named, outputs, randomised


def check_trace(module, size=8, in_channels=3, dtype=torch.float64, names=True):
    """The graph computes the same on other images than those that it was traced with; the module stays as it was."""
    module = randomised(module).to(dtype).train()
    before = copy.deepcopy(module.state_dict())
    found = trace(module, size, in_channels)
    assert all(each.training for each in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    x = torch.randn(3, in_channels, size, size, generator=torch.Generator().manual_seed(7), dtype=dtype)
    with torch.no_grad():
        expected = module.eval()(x)
    limit = 1e-10 if dtype == torch.float64 else 1e-5
    assert found.difference <= limit
    assert difference(outputs(found.architecture, found.state_dict, x, dtype), expected) <= limit
    if names:
        assert {n: p.shape for n, p in module.named_parameters()} == {
            name: parameter.shape for name, parameter in GraphNetwork(found.architecture).named_parameters()
        }
        assert found.architecture.params == sum(parameter.numel() for parameter in module.parameters())
    return found


def operations(found):
    return [node.operation.op for node in found.architecture.nodes]


# ---------------------------------------------------------------- torchvision
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_torchvisions_networks(name):
    module = named(name)
    found = check_trace(module, 64)
    assert set(found.state_dict) == set(module.state_dict())
    assert found.architecture.num_classes == 10


def test_single_precision():
    torch.manual_seed(0)
    check_trace(torchvision.models.mobilenet_v3_small(num_classes=5), 32, dtype=torch.float32)


def test_the_graph_can_be_trained_as_the_module_is():
    """In training mode with the same images both take the same step: gradients and running statistics."""
    module = named("resnet18").train()
    network = GraphNetwork(trace(module, 32).architecture).double()
    network.load_state_dict(module.state_dict())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for each in (module, network):
        each.train()(x).square().sum().backward()
    for (name, a), b in zip(module.named_parameters(), network.parameters(), strict=True):
        assert difference(b.grad, a.grad) < 1e-9, name
    torch.testing.assert_close(dict(network.state_dict()), dict(module.state_dict()))


# ---------------------------------------------------------------- small modules
class Net(nn.Module):
    """Layers by name, and a body: (net, images) to a map, or to features if `flat`, which a classifier reads."""

    def __init__(self, body, channels, flat=False, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.fc = nn.Linear(channels, 4)
        self.body, self.flat = body, flat

    def forward(self, x):
        y = self.body(self, x)
        return self.fc(y if self.flat else y.mean((2, 3)))


def conv(inner, out, kernel=1, **more):
    return nn.Conv2d(inner, out, kernel, **more)


CONVOLUTIONS = {
    "bias": conv(3, 6, 3),
    "no bias": conv(3, 6, 3, bias=False),
    "stride": conv(3, 6, 3, stride=(2, 1), padding=1),
    "dilation": conv(3, 6, 3, padding=2, dilation=2),
    "not square": conv(3, 6, (1, 5), padding=(0, 2)),
    "valid": conv(3, 6, 3, padding="valid"),
    "same": conv(3, 6, 3, padding="same", dilation=2),
    "same, even": conv(3, 6, (4, 2), padding="same"),
    "reflect": conv(3, 6, 3, padding=2, padding_mode="reflect"),
    "replicate": conv(3, 6, 3, padding=(2, 1), padding_mode="replicate"),
    "circular": conv(3, 6, 3, padding=1, padding_mode="circular"),
    "same, circular": conv(3, 6, 3, padding="same", padding_mode="circular"),
    "grouped": conv(3, 6, 3, groups=3),
    "depthwise": conv(3, 3, 3, groups=3),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind):
    check_trace(Net(lambda net, x: net.conv(x), CONVOLUTIONS[kind].out_channels, conv=CONVOLUTIONS[kind]))


def option_a(net, x):
    """The shortcut without parameters of He et al. (2015) for CIFAR."""
    return net.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2), "constant", 0)


def shuffle(net, x):
    n, _, h, w = x.size()
    y = net.conv(x)
    y = y.view(n, 3, 2, h, w)
    return torch.transpose(y, 1, 2).contiguous().view(n, -1, h, w)


def shuffle_by_shapes(net, x):
    y = net.conv(x)
    return y.reshape(y.shape[0], 2, 3, y.shape[2], y.shape[3]).permute(0, 2, 1, 3, 4).flatten(1, 2)


def gate(net, x):
    y = net.conv(x)
    return y * torch.sigmoid(net.up(F.relu(net.down(y.mean([2, 3], keepdim=True)))))


def gate_by_pool(net, x):
    y = net.conv(x)
    return net.up(net.down(F.adaptive_avg_pool2d(y, 1)).relu()).sigmoid().mul(y)


def gate_by_linear(net, x):
    """Squeeze and excitation as Hu et al. (2018) are usually written."""
    y = net.conv(x)
    n, c, _, _ = y.size()
    z = net.act(net.down(F.adaptive_avg_pool2d(y, 1).view(n, c)))
    z = torch.sigmoid(net.up(z)).view(n, c, 1, 1)
    return y * z.expand_as(y)


def in_place(net, x):
    y = net.conv(x)
    z = net.act(y).mul_(net.more(x))
    z += net.up(z)
    z *= z.sigmoid()
    return F.relu_(z)


def in_place_and_read_again(net, x):
    """The sum reads what the activation has changed, and so does what is only another name of it."""
    y = net.conv(x)
    other = y.contiguous()
    z = net.more(net.act(y))
    return z + y + other


def in_place_on_the_image(net, x):
    x = x * x
    y = net.conv(x)
    x.relu_()
    return y + net.more(x)


def chunks(net, x):
    a, b = net.conv(x).chunk(2, dim=1)
    first, second = torch.split(x, [1, 2], dim=1)
    c = torch.cat([a, second, b, first], 1)
    return torch.cat((c[:, 1:4], c[:, 5:], c[:, ::1], c.narrow(1, 2, 3)), dim=-3)


def twice(net, x):
    y = net.norm(net.conv(x))
    return net.conv(net.act(net.norm(net.act(net.conv(y)))))


def pools(net, x):
    y = F.max_pool2d(net.conv(x), 3, 1, 1) + F.avg_pool2d(x, (3, 3), stride=1, padding=1, count_include_pad=False)
    y = net.pool(y) + F.max_pool2d(y, 2, ceil_mode=True) + F.avg_pool2d(y, 2, ceil_mode=True)
    return y * F.adaptive_max_pool2d(y, 1) + F.adaptive_avg_pool2d(y, (4, None)) * torch.max_pool2d(y, 1)


def dropouts(net, x):
    y = F.dropout(net.conv(x), 0.2, net.training)
    return net.drop(F.dropout2d(y, p=0.1, training=net.training))


def activations(net, x):
    y = F.leaky_relu(F.gelu(net.conv(x), approximate="tanh"), 0.2) + F.silu(x) + x.tanh() + F.hardswish(x)
    y = F.elu(y) + F.softplus(y) + F.relu6(y) + F.hardtanh(y, 0.0, 6.0) + F.softmax(y, dim=1)
    return (
        y + F.mish(x) + torch.add(x, y) + torch.mul(x, y) + F.hardsigmoid(y) + F.gelu(x) + F.gelu(x, approximate="tanh")
    )


BODIES = {
    "option A": Net(option_a, 6, conv=conv(3, 6, 3, stride=2, padding=1)),
    "shuffle": Net(shuffle, 6, conv=conv(3, 6)),
    "shuffle by shapes": Net(shuffle_by_shapes, 6, conv=conv(3, 6)),
    "ChannelShuffle": Net(lambda net, x: net.shuffle(net.conv(x)), 6, conv=conv(3, 6), shuffle=nn.ChannelShuffle(2)),
    "F.channel_shuffle": Net(lambda net, x: F.channel_shuffle(net.conv(x), 3), 6, conv=conv(3, 6)),
    "gate": Net(gate, 6, conv=conv(3, 6), down=conv(6, 2), up=conv(2, 6)),
    "gate by pool": Net(gate_by_pool, 6, conv=conv(3, 6), down=conv(6, 2), up=conv(2, 6)),
    "gate by linear": Net(gate_by_linear, 6, conv=conv(3, 6), down=nn.Linear(6, 2), up=nn.Linear(2, 6), act=nn.ReLU()),
    "gate by mean": Net(
        lambda net, x: net.up(net.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None] * net.conv(x),
        6, conv=conv(3, 6), down=nn.Linear(3, 2), up=nn.Linear(2, 6),
    ),
    "gate of a part": Net(
        lambda net, x: net.conv(x) * net.up(x.mean([2, 3]))[:, 1:7].unsqueeze(-1).unsqueeze(-1).expand(-1, -1, 8, 8),
        6, conv=conv(3, 6), up=nn.Linear(3, 8),
    ),
    "bias by linear": Net(
        lambda net, x: net.conv(x).add_(net.up(x.mean((2, 3))).reshape(-1, 6, 1, 1)), 6, conv=conv(3, 6), up=nn.Linear(3, 6)
    ),
    "in place": Net(in_place, 6, conv=conv(3, 6), more=conv(3, 6), up=conv(6, 6), act=nn.SiLU(inplace=True)),
    "in place, read again": Net(in_place_and_read_again, 6, conv=conv(3, 6), more=conv(6, 6), act=nn.ReLU(True)),
    "in place on the image": Net(in_place_on_the_image, 6, conv=conv(3, 6), more=conv(3, 6)),
    "chunks": Net(chunks, 15, conv=conv(3, 4)),
    "twice": Net(twice, 3, conv=conv(3, 3), norm=nn.BatchNorm2d(3), act=nn.ReLU(inplace=True)),
    "pools": Net(pools, 3, conv=conv(3, 3), pool=nn.MaxPool2d(2)),
    "dropouts": Net(dropouts, 3, conv=conv(3, 3), drop=nn.Dropout2d(0.3)),
    "activations": Net(activations, 3, conv=conv(3, 3)),
    "view": Net(lambda net, x: net.conv(x).view(x.size(0), -1), 6 * 64, flat=True, conv=conv(3, 6)),
    "reshape": Net(lambda net, x: net.conv(x).reshape(-1, 384), 384, flat=True, conv=conv(3, 6)),
    "flatten": Net(lambda net, x: torch.flatten(net.conv(x), 1), 384, flat=True, conv=conv(3, 6)),
    "squeeze": Net(lambda net, x: F.adaptive_avg_pool2d(net.conv(x), 1).squeeze(-1).squeeze(-1), 6, flat=True, conv=conv(3, 6)),
    "index": Net(lambda net, x: F.adaptive_avg_pool2d(net.conv(x), 1)[:, :, 0, 0], 6, flat=True, conv=conv(3, 6)),
    "flat features": Net(
        lambda net, x: net.more(net.conv(x).mean((2, 3)))[:, 2:7], 5, flat=True, conv=conv(3, 6), more=nn.Linear(6, 9)
    ),
    "flat norm": Net(lambda net, x: net.norm(net.conv(x).mean((2, 3))), 6, flat=True, conv=conv(3, 6), norm=nn.BatchNorm1d(6)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BODIES)
def test_bodies(kind):
    check_trace(BODIES[kind])


@pytest.mark.parametrize("axis", ["in", "out"])
def test_sparse_convolutions_stay_sparse(axis):
    sparsity = Sparsity(2, 4, axis)
    layers = (conv(3, 8, 3), nn.ReLU(), SparseConv2d(8, 12, 3, 2, 1, bias=False, sparsity=sparsity), nn.ReLU())
    found = check_trace(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)))
    (node,) = [node for node, convolution in found.architecture.convolutions() if convolution.nm == sparsity]
    assert f"{node.name}.codes" in found.state_dict
    assert node.name not in [each.name for each, _ in groupable(found.architecture)]


def test_sequences_in_sequences():
    inner = nn.Sequential(conv(3, 6), nn.Sequential(nn.BatchNorm2d(6), nn.ReLU6(), nn.Identity()), nn.Dropout(0.1))
    found = check_trace(nn.Sequential(inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Sequential(nn.Linear(6, 4))))
    assert [node.name for node in found.architecture.nodes][:3] == ["0.0", "0.1.0", "0.1.1"]


def test_shuffles_are_known_for_what_they_are():
    for kind in ("shuffle", "shuffle by shapes", "ChannelShuffle", "F.channel_shuffle"):
        assert "shuffle" in operations(check_trace(BODIES[kind]))
    assert operations(check_trace(BODIES["flatten"])) == ["convolution", "flatten", "linear"]
    assert operations(check_trace(BODIES["index"])) == ["convolution", "adaptive_pool", "flatten", "linear"]


def test_one_channel_images():
    check_trace(Net(lambda net, x: net.conv(x), 6, conv=conv(1, 6, 3)), 12, 1)


def test_what_the_logits_do_not_need_is_left_out():
    def body(net, x):
        net.unused(x)
        return net.conv(x)

    found = check_trace(Net(body, 6, conv=conv(3, 6), unused=conv(3, 6)), names=False)
    assert found.architecture.nodes[0].name == "conv"
    assert len(found.architecture.nodes) == 4


# ---------------------------------------------------------------- one tensor in two modules
def tied(first, second, names=("weight",)):
    """A network of two layers that hold the same parameters of those names."""
    for name in names:
        setattr(second, name, getattr(first, name))
    return Net(lambda net, x: net.b(net.a(x).relu()), 3, a=first, b=second)


def test_tied_modules_share_one_tensor():
    """Counted once, trained as one, and left dense: one weight cannot be permuted for two places."""
    module = tied(conv(3, 3, 3, padding=1), conv(3, 3, 3, padding=1), ("weight", "bias"))
    found = check_trace(module)
    graph = found.architecture
    assert [(node.name, node.shares) for node in graph.nodes][:3] == [("a", None), ("relu", None), ("b", "a")]
    assert "b.weight" not in found.state_dict
    assert groupable(graph) == []


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (tied(conv(3, 3), conv(3, 3)), r"module 'b': it shares its weight with 'a', but not all"),
        (tied(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), r"module 'b': it shares its weight with 'a', but not all"),
        (
            tied(conv(3, 3, 3, bias=False, padding=1), conv(3, 3, 3, bias=False, padding=2, dilation=2)),
            r"module 'b': it shares its tensors with 'a', but works in another way",
        ),
    ],
)
def test_modules_that_share_some_are_refused(module, message):
    with pytest.raises(UsageError, match=message):
        trace(module, 8)


# ---------------------------------------------------------------- errors
class Does(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


ERRORS = {
    "branch": (
        Net(lambda net, x: net.deep(x), 3, deep=nn.Sequential(conv(3, 3), Branches())),
        r"cannot trace module 'deep\.1' \(Branches\): .*branch",
    ),
    "LayerNorm": (
        Net(lambda net, x: net.deep(x), 3, deep=nn.Sequential(conv(3, 3), nn.LayerNorm([3, 8, 8]))),
        r"module 'deep\.1': LayerNorm is none of the operations",
    ),
    "attention": (
        Net(lambda net, x: net.deep(x.flatten(2).transpose(1, 2)).mean(1), 3, flat=True, deep=Attends()),
        r"module 'deep\.attention': MultiheadAttention is none of the operations",
    ),
    "function": (
        Net(lambda net, x: F.layer_norm(net.conv(x), (8, 8)), 3, conv=conv(3, 3)),
        r"layer_norm in the network's forward: layer_norm is none of the operations",
    ),
    "in a submodule": (
        Net(lambda net, x: net.deep(x), 3, deep=nn.Sequential(Does(torch.exp))),
        r"exp in module 'deep\.0': exp is none of the operations",
    ),
    "a number": (Net(lambda net, x: net.conv(x) + 1, 3, conv=conv(3, 3)), r"add in the network's forward: add with a number"),
    "a scale": (Net(lambda net, x: 0.5 * net.conv(x), 3, conv=conv(3, 3)), r"mul in .*: multiply with a number"),
    "a parameter": (
        Net(lambda net, x: net.conv(x) * net.scale, 3, conv=conv(3, 3), scale=nn.Parameter(torch.ones(3, 1, 1))),
        r"mul in the network's forward: what 'scale' gives \(3x1x1\) is none of the operations",
    ),
    "maximum": (
        Net(lambda net, x: torch.max(net.conv(x), dim=1, keepdim=True)[0].mean((2, 3)), 1, flat=True, conv=conv(3, 3)),
        r"max in the network's forward: max is none of the operations",
    ),
    "shapes": (
        Net(lambda net, x: net.conv(x) + x[:, :1], 6, conv=conv(3, 6)),
        r"node 'add': add is given shapes that do not fit: 6x8x8, 1x8x8",
    ),
    "shapes that torch refuses": (
        Net(lambda net, x: net.conv(x) + x, 6, conv=conv(3, 6)),
        r"does not run on images of 3x8x8: .*size of tensor",
    ),
    "an even same": (
        Net(lambda net, x: net.conv(x), 6, conv=conv(3, 6, 2, padding="same", padding_mode="circular")),
        r"module 'conv': Conv2d with padding='same' of circular",
    ),
    "no statistics": (
        Net(lambda net, x: net.norm(x), 3, norm=nn.BatchNorm2d(3, track_running_stats=False)),
        r"module 'norm': batch norm without running statistics",
    ),
    "backwards": (Net(lambda net, x: x.flip(1), 3), r"flip in the network's forward: flip is none of"),
    "mean of rows": (Net(lambda net, x: x.mean(2).mean(2), 3, flat=True), r"mean in .*: mean over other than the map"),
    "other pads": (Net(lambda net, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 3), r"pad in .*: padding of mode reflect"),
    "cropping": (Net(lambda net, x: F.pad(x, (-1, 1)), 3), r"pad in .*: negative padding"),
    "concat of rows": (Net(lambda net, x: torch.cat([x, x], 2), 3), r"cat in .*: concatenation other than of channels"),
    "a map in parts": (
        Net(lambda net, x: x.reshape(x.shape[0], 3, 4, 16).mean((2, 3)), 3, flat=True),
        r"mean in .*: what 'reshape' gives \(2x3x4x16\)",
    ),
    "functional weights": (
        Net(lambda net, x: F.conv2d(x, net.w), 3, w=nn.Parameter(torch.ones(3, 3, 1, 1))),
        r"conv2d in the network's forward: ",
    ),
    "features as a larger map": (
        Net(lambda net, x: x * net.fc1(x.mean((2, 3))).view(-1, 3, 8, 8), 3, fc1=nn.Linear(3, 192)),
        r"mul in the network's forward: what 'view' gives \(2x3x8x8\)",
    ),
    "a spread map": (
        Net(
            lambda net, x: net.conv(net.fc1(x.mean((2, 3))).view(-1, 3, 1, 1).expand_as(x)),
            3, fc1=nn.Linear(3, 3), conv=conv(3, 3),
        ),
        r"module 'conv': what 'expand_as' gives \(2x3x8x8\)",
    ),
    "two spread maps": (
        Net(
            lambda net, x: net.up(x).mean((2, 3), True).expand(-1, -1, 8, 8) + x.mean((2, 3), True).expand(-1, -1, 8, 8),
            3, up=conv(3, 3),
        ),
        r"add in .*: what 'expand' gives",
    ),
    "dropout of everything": (Net(lambda net, x: net.drop(x), 3, drop=nn.Dropout(1.0)), r"module 'drop': dropout 1\.0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_traced_is_named(kind):
    module, message = ERRORS[kind]
    with pytest.raises(UsageError, match=message):
        trace(module, 8)


class Odd(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward):
        super().__init__()
        self.fc = nn.Linear(192, 4)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, self.fc(x.flatten(1)))


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return (x + y).flatten(1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TwoInputs(), r"takes several inputs|does not run"),
        (Odd(lambda net, y: {"out": y}), r"output is not one tensor of logits"),
        (Odd(lambda net, y: (y, y)), r"output is not one tensor of logits"),
        (Odd(lambda net, y: y.reshape(-1)), r"output is not one tensor of logits"),
        (Odd(lambda net, y: torch.zeros(2, 3)), r"does not come from the images"),
        (Odd(lambda net, y: y.undefined()), r"does not run on images of 3x8x8"),
    ],
)
def test_other_inputs_and_outputs_are_refused(module, message):
    with pytest.raises(UsageError, match=message):
        trace(module, 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    module = Net(lambda net, x: net.conv(x), 6, conv=conv(3, 6))
    with torch.no_grad():
        module.conv.weight[0, 0, 0, 0] = value
    with pytest.raises(UsageError, match=r"^conv\.weight of the network holds values that are not finite"):
        trace(module, 8)


@pytest.mark.parametrize(("size", "channels", "shown"), [(9, 3, "3x9x9"), (8, 1, "1x8x8"), (2, 3, "3x2x2")])
def test_images_that_it_cannot_take_are_refused(size, channels, shown):
    with pytest.raises(UsageError, match=rf"does not run on images of {shown}: "):
        trace(BODIES["view"], size, channels)


def test_what_is_random_is_noticed():
    module = Net(lambda net, x: F.dropout(net.conv(x), 0.5), 6, conv=conv(3, 6))
    with pytest.raises(UsageError, match=r"differs from it by .* of its largest output"):
        trace(module, 8)


def test_in_place_work_that_torch_fx_does_not_see_is_noticed():
    """`+=` on what has a second name: torch.fx makes a new tensor of it."""

    def body(net, x):
        y = net.conv(x)
        z = y
        z += net.conv(x).relu()
        return y

    with pytest.raises(UsageError, match=r"differs from it by .* \+= on a tensor"):
        trace(Net(body, 6, conv=conv(3, 6)), 8)


def test_in_place_work_on_a_part_is_noticed():
    def body(net, x):
        y = net.conv(x)
        y[:, :2].relu_()
        return y

    with pytest.raises(
        UsageError, match=r"module 'fc'|mean in .*: what 'conv' gives after work in place on a part of it \(2x6x8x8\)"
    ):
        trace(Net(body, 6, conv=conv(3, 6)), 8)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: nn.Conv2d(3, 4, 1, device="meta"), "cannot be copied to the CPU"),
        (lambda: nn.LazyConv2d(4, 1), "has no shape yet .a lazy module."),
    ],
)
def test_weights_that_are_not_there_are_refused(made, said):
    with pytest.raises(UsageError, match=said):
        trace(nn.Sequential(made(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8)
