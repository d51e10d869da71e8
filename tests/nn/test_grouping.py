"""Group counts while they are learned: masks against enumeration, and hardening that changes nothing."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from igcsearch.blocks import igcv2, igcv3, network, stage
from igcsearch.nn import build
from igcsearch.nn.grouping import LearnedGroups
from igcsearch.spec import Budget, Problem
from igcsearch.spec.conditions import path_counts
from igcsearch.spec.grouping import GroupRule, expected_cost, opened_groups
from igcsearch.spec.learning import hardened

PROBLEM = Problem(image_size=8, in_channels=1, num_classes=10)
STRICT = stage(igcv2, 12, 12, 2, residual=True, branch_widths=(3, 2, 2))
LOOSE = stage(igcv3, 12, 18, 2, stride=2, expansion=2, groups=(2, 2))


def soft_network(stages, seed=0, budget=None):
    architecture = opened_groups(network(PROBLEM, 12, stages))
    net = build(architecture, seed).double()
    groups = LearnedGroups(net, GroupRule(budget=budget or Budget(params=10**6)), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in groups.parameters():
            logits.copy_(3 * torch.randn(logits.shape, generator=generator))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return net.double(), groups


# At the end of the soft phase the network is that of its group counts: the same function, to rounding, whatever was chosen; one
# factor left out, one that takes every digit, and dense ones among them.
@pytest.mark.parametrize("seed", range(8))
def test_hardened_is_the_last_soft_forward(seed):
    net, groups = soft_network([STRICT, LOOSE], seed)
    groups.advance(0.6)
    choices = groups.choices()
    rng = np.random.default_rng(seed)
    choices["stage1.block1"] = tuple(int(i) for i in rng.integers(3, size=3))
    choices["stage1.block2"] = ((0, 0, 0), (2, 2, 1), (1, 1, 1), (0, 2, 0))[seed % 4]
    choices["stage2.block1"] = ((1, 1), (1, 6), (12, 2), (2, 3))[seed % 4]
    for name, choice in choices.items():
        groups.shares[name].close(choice)
    groups.advance(1.0)
    net.eval()
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    found = hardened(groups.architecture, {}, choices)
    hard = build(found, 1).double()
    hard.load_state_dict(groups.harden(net.state_dict(), choices))
    hard.eval()
    with torch.no_grad():
        assert (hard(images) - net(images)).abs().max() < 1e-12
        assert net(images).std() > 1e-3
    # and shares that are closed say what they closed to
    assert groups.choices() == choices


def test_the_mask_of_digits_is_the_mean_over_all_configurations():
    _, groups = soft_network([STRICT])
    groups.advance(0.5)
    shares = groups.shares["stage1.block1"]
    question, values = shares.question, shares.values()
    weights = [torch.randn(12, 12, 1, 1, dtype=torch.float64) for _ in range(3)]
    means = [np.zeros((12, 12)) for _ in range(3)]
    for owners in itertools.product(range(3), repeat=3):
        share = math.prod(values[digit, owner] for digit, owner in enumerate(owners))
        digits = np.stack(np.unravel_index(np.arange(12), question.radices), axis=1)
        for factor in range(3):
            mixed = [d for d, owner in enumerate(owners) if owner == factor]
            rest = [d for d in range(3) if d not in mixed]
            joined = (digits[:, None, rest] == digits[None, :, rest]).all(axis=2)
            means[factor] += share * (weights[factor][:, :, 0, 0].numpy() * joined if mixed else np.eye(12))
    for found, mean in zip(shares.matrices(1, weights), means, strict=True):
        assert np.allclose(found.detach().numpy(), mean, atol=1e-9)


def test_the_mask_of_gates_is_the_mean_over_all_group_counts():
    _, groups = soft_network([LOOSE])
    groups.advance(0.5)
    shares = groups.shares["stage1.block1"]
    question, values = shares.question, shares.values()
    mean = np.zeros((24, 12))
    for gates in itertools.product((0, 1), repeat=3):
        share = math.prod(values[d, 0] if one else 1 - values[d, 0] for d, one in enumerate(gates))
        count = math.prod(p for p, one in zip(question.radices[0], gates, strict=True) if not one)
        block = question.answered((count, 1))
        mean += share * path_counts(block.steps[:1])[np.argsort(block.steps[0].order)]
    assert np.allclose(shares.masks(0)[0].detach().numpy(), mean, atol=1e-6)


def test_the_expected_cost_pulls_the_shares():
    net, groups = soft_network([STRICT, LOOSE], budget=Budget(params=3000, macs=50_000))
    del net
    groups.advance(0.1)
    groups.add_penalty_gradients()
    assert all(logits.grad is None for logits in groups.parameters())  # not before the end of the warm-up
    optimizer = torch.optim.Adam(groups.parameters(), lr=0.1)
    groups.advance(0.4)
    costs = []
    for _ in range(100):
        optimizer.zero_grad()
        costs.append(groups.expected()[0].item())
        groups.add_penalty_gradients()
        optimizer.step()
    plain = expected_cost(groups.architecture, groups.values())
    assert groups.expected()[0].item() == pytest.approx(plain[0])
    assert costs[-1] < min(costs[0], 3000 * 1.02)


def test_gradients_reach_every_weight_and_logit():
    net, groups = soft_network([STRICT, LOOSE])
    for progress in (0.0, 0.5, 0.9, 1.0):
        groups.advance(progress)
        if progress == 0.9:
            groups.close()
        net.train().zero_grad()
        net(torch.randn(8, 1, 8, 8, dtype=torch.float64)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
        moved = [bool(logits.grad.abs().max() > 0) for logits in groups.parameters()]
        assert moved == [progress in (0.5, 0.9)] * len(moved)
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in net.parameters())


def test_a_bottleneck_one_of_whose_factors_has_no_digit():
    net, groups = soft_network([stage(igcv3, 12, 13, 1, expansion=2, groups=(2, 1))])
    groups.advance(0.5)
    net(torch.randn(2, 1, 8, 8, dtype=torch.float64)).sum().backward()
    groups.close()
    groups.advance(1.0)
    found = hardened(groups.architecture, {}, groups.choices())
    build(found).double().load_state_dict(groups.harden(net.state_dict(), groups.choices()))


def test_masks_are_made_in_full_precision_under_autocast():
    net, groups = soft_network([STRICT])
    net.float().eval()
    groups.advance(0.6)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = net(images)
    with torch.no_grad():
        high = net(images)
    assert (low.float() - high).abs().max() < 0.05 * high.abs().max() + 0.05
