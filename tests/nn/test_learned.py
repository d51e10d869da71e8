"""Shuffles while they are learned: masks, schedules, hardening, and hidden partitions that are found."""

import numpy as np
import pytest
import torch

from igcsearch.blocks import FAMILIES, network
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.nn.layers import FactorLayer
from igcsearch.nn.learned import LearnedShuffles, SoftFactorLayer
from igcsearch.nn.sides import CLOSED, READ, complete
from igcsearch.spec import Block, Budget, Factor, Problem, Shuffle, Stage
from igcsearch.spec.learning import WAYS, LearningRule, hardened, opened

FAMILY_OPTIONS = {
    "igcv1": {"primary_groups": 6},
    "igcv2": {"branch_widths": (4, 6)},
    "igcv3": {"expansion": 4, "groups": (4, 4)},
}


def opened_network(family: str):
    block = FAMILIES[family](24, 24, residual=True, **FAMILY_OPTIONS[family])
    transition = FAMILIES[family](24, 24, stride=2, residual=True, **FAMILY_OPTIONS[family])
    return opened(network(Problem(8, 1, 10, Budget()), 24, [Stage((block, block)), Stage((transition, block))]))


def stir(net: torch.nn.Module, shuffles: LearnedShuffles) -> None:
    """Other statistics, and other branches, so that a permutation left out anywhere shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
                module.weight.copy_(torch.randn(module.num_features, generator=generator))
                module.bias.copy_(torch.randn(module.num_features, generator=generator))
        for parameter in shuffles.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    shuffles.settle()
    for layer in shuffles.layers.values():
        for name, side in (("columns", layer.columns), ("rows", layer.rows)):
            if layer.learns[name]:
                side.put(np.random.default_rng(0).permutation(side.hard()))


# At the end of the soft phase the hardened network is the soft one, bit for bit but for the order of sums.
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILY_OPTIONS)
def test_hardening_keeps_the_network(family, way):
    architecture = opened_network(family)
    net = build(architecture, 0)
    shuffles = LearnedShuffles(net, LearningRule(way), seed=0)
    stir(net, shuffles)
    shuffles.advance(READ, 0)
    shuffles.close()
    shuffles.advance(1.0, 1)
    net.eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    orders = shuffles.orders()
    hard = build(hardened(architecture, orders), 1)
    hard.load_state_dict(shuffles.harden(net.state_dict(), orders))
    hard.eval()
    want, got = net(images), hard(images)
    assert any((order != np.arange(len(order))).any() for order in orders.values())
    assert (want - got).abs().max() <= 1e-5 * want.abs().max()
    # and it costs nothing that the interleaved one does not
    assert sum(p.numel() for p in hard.parameters()) == architecture.params == hard.architecture.params


def test_momentum_is_hardened_with_its_weights():
    architecture = opened_network("igcv2")
    net = build(architecture, 0)
    shuffles = LearnedShuffles(net, LearningRule(), seed=0)
    stir(net, shuffles)
    orders = shuffles.orders()
    named = {name: parameter.detach() for name, parameter in net.named_parameters()}
    hard = shuffles.harden(named, orders)
    twice = shuffles.harden({name: 2 * tensor for name, tensor in named.items()}, orders)
    assert set(hard) == {name for name, _ in build(hardened(architecture, orders)).named_parameters()}
    assert all(torch.equal(twice[name], 2 * hard[name]) for name in hard)


# A learned shuffle stands at interleave until it is learned: a network that is given begins as it is.
@pytest.mark.parametrize("family", FAMILY_OPTIONS)
def test_weights_that_are_given_are_kept_where_they_stand(family):
    architecture = opened_network(family)
    net = build(architecture, 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    want = net.eval()(images).detach()
    shuffles = LearnedShuffles(net, LearningRule(), seed=0, keep_weights=True)
    assert torch.allclose(net.eval()(images), want, atol=1e-5)
    shuffles.advance(1.0, 0)  # and all of it lies within the branches that it stands at
    assert torch.allclose(net.eval()(images), want, atol=1e-5)


# A block of two factors that mix, with a shuffle between them that is no identity and a norm behind it.
def test_weights_that_are_given_are_kept_behind_a_norm():
    steps = (Factor(12, 12, groups=2, norm=True, shuffle=Shuffle("learned")), Factor(12, 12, groups=2, norm=True))
    architecture = network(Problem(8, 1, 10, Budget()), 12, [Stage((Block(steps, shortcut=()),))])
    net = build(architecture, 3)
    with torch.no_grad():
        net.stages[0][0].steps[0].norm.weight.copy_(torch.rand(12, generator=torch.Generator().manual_seed(1)))
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    want = net.eval()(images).detach()
    LearnedShuffles(net, LearningRule(), seed=0, keep_weights=True)
    assert torch.allclose(net.eval()(images), want, atol=1e-5)


# Every branch keeps a channel of every source, by the swaps that lose least; and where it has them already, it is left alone.
def test_branches_are_completed():
    rng = np.random.default_rng(0)
    for _ in range(50):
        branches, sources, width = rng.integers(2, 5), rng.integers(2, 5), rng.integers(4, 8)
        channels = int(branches * width * sources)  # a multiple of both
        kinds = rng.permutation(np.repeat(np.arange(sources), channels // sources))
        groups = np.argsort(np.argsort(kinds, kind="stable")) // (channels // branches)  # as one-sided as can be
        gains = rng.random((channels, branches))
        found = complete(groups, kinds, gains)
        table = np.zeros((sources, branches), dtype=int)
        np.add.at(table, (kinds, found), 1)
        assert table.min() >= 1
        assert (np.bincount(found) == channels // branches).all()
        assert (complete(found, kinds, gains) == found).all()
    assert complete(groups, None, gains) is groups


@pytest.mark.parametrize("way", WAYS)
def test_a_complementary_block_stays_so_whatever_the_weights_say(way):
    block = FAMILIES["igcv3"](24, 24, residual=True, expansion=2, groups=(4, 4))
    architecture = opened(network(Problem(8, 1, 10, Budget()), 24, [Stage((block,))]))
    net = build(architecture, 0)
    shuffles = LearnedShuffles(net, LearningRule(way), seed=0)
    (layer,) = shuffles.layers.values()
    kinds = torch.tensor(layer.columns.sources)
    with torch.no_grad():  # weights and shares that want each source in a branch of its own
        wanted = torch.nn.functional.one_hot(kinds, 4).T.float()
        layer.conv.weight.copy_((layer.rows().T @ wanted)[:, :, None, None] + 1e-3)
        for parameter in layer.columns.parameters():
            rows = wanted if parameter.shape[0] == 4 else wanted.repeat_interleave(12, dim=0)
            parameter.copy_(rows * 4.0)
    shuffles.advance(0.5, 0)
    shuffles.assign(thorough=False)
    shuffles.close()
    shuffles.advance(1.0, 1)
    (learned,) = hardened(architecture, shuffles.orders()).stages[0].blocks
    assert learned.report["complementary"] == "loose"
    assert learned.report["paths"]["min"] >= 1


@pytest.mark.parametrize("way", WAYS)
def test_masks_begin_open_and_end_as_branches(way):
    layer = SoftFactorLayer(
        FactorLayer(Factor(12, 24, groups=3)), columns=True, rows=True, rule=LearningRule(way), stream=0
    )
    layer.advance(0.0, (0, 0))
    assert torch.equal(layer.mask(), torch.ones(24, 12))
    layer.advance(READ, (0, 0))
    layer.columns.close()
    layer.rows.close()
    layer.advance(CLOSED, (0, 1))
    mask = layer.mask()
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    assert (mask.sum(dim=1) == 4).all()
    assert (mask.sum(dim=0) == 8).all()


# Shares of one channel sum to 1, those of one branch to its width: the prices see to it under any temperature.
def test_shares_are_balanced():
    rule = LearningRule("sinkhorn", temperature=0.05)
    layer = SoftFactorLayer(FactorLayer(Factor(32, 32, groups=4)), columns=True, rows=False, rule=rule, stream=1)
    with torch.no_grad():
        layer.columns.logits.copy_(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    layer.eval()
    for progress in (0.3, 0.6, 0.79):
        layer.advance(progress, (0, 0))
        shares = layer.columns().detach()
        assert torch.allclose(shares.sum(dim=0), torch.ones(32), atol=1e-5)
        assert torch.allclose(shares.sum(dim=1), torch.full((4,), 8.0), atol=0.05)


def test_nothing_to_learn_is_refused():
    architecture = network(
        Problem(8, 1, 10, Budget()), 12, [Stage((FAMILIES["igcv2"](12, 12, branch_widths=(3, 4), shuffle="learned"),))]
    )
    with pytest.raises(UsageError, match="nothing to learn: stage1"):
        LearnedShuffles(build(architecture, 0), LearningRule(), seed=0)


def find_hidden_partition(way: str, relu: bool, seed: int, steps: int = 600) -> tuple[bool, float]:
    """Learn y = P_out B P_in x of 32 channels in 4 blocks, both permutations hidden: whether the inputs' partition was found."""
    channels, groups, width = 32, 4, 8
    random = torch.Generator().manual_seed(seed)
    blocks = torch.block_diag(*(torch.randn(width, width, generator=random) / width**0.5 for _ in range(groups)))
    p_in, p_out = (torch.randperm(channels, generator=random) for _ in range(2))
    teacher, truth = blocks[p_out][:, p_in], (p_in // width).numpy()
    rule = LearningRule(way)
    factor = Factor(channels, channels, groups=groups, shuffle=Shuffle("identity"))
    layer = SoftFactorLayer(FactorLayer(factor), columns=True, rows=True, rule=rule, stream=seed)
    with torch.no_grad():
        layer.conv.weight.copy_(torch.randn(channels, channels, 1, 1, generator=random) / channels**0.5)
    sides = [*layer.columns.parameters(), *layer.rows.parameters()]
    weights = torch.optim.SGD([layer.conv.weight], lr=0.05, momentum=0.9)
    masks = torch.optim.Adam(sides, lr=rule.rate) if sides else None
    for step in range(steps):
        layer.advance(step / steps, (seed, step))
        x = torch.randn(64, channels, generator=random)
        want, got = x @ teacher.T, layer(x[:, :, None, None])[:, :, 0, 0]
        if relu:
            want, got = want.relu(), got.relu()
        loss = (want - got).square().sum(dim=1).mean() / 2
        penalty = layer.penalty()
        weights.zero_grad()
        layer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        weights.step()
        if masks is not None:
            masks.step()
        for side in (layer.columns, layer.rows):
            side.project()
            if step + 1 == int(READ * steps):
                side.close()
        if step % 30 == 0:
            layer.assign()
    layer.advance(1.0, (seed, steps))
    found = layer.columns.hard()
    return bool(((found[:, None] == found) == (truth[:, None] == truth)).all()), loss.item()


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("way", WAYS)
def test_a_hidden_partition_is_found(way, relu):
    found, loss = find_hidden_partition(way, relu, seed=0)
    assert found
    assert loss < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("way", WAYS)
def test_hidden_partitions_of_ten_seeds_are_found(way, relu):
    assert sum(find_hidden_partition(way, relu, seed)[0] for seed in range(10)) >= 9
