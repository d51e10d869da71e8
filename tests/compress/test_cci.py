"""N:M networks in compact storage: what they compute, cost and take, and which N a budget gives."""

import random
from dataclasses import replace

import pytest
import torch

from igcsearch.compress.cci import compacted, masks_of, sparsified, with_zeros
from igcsearch.compress.sensitivity import measured
from igcsearch.compress.sparse_configuration import cut_lines, line_tables, sparsities
from igcsearch.compress.sparse_masks import sparsifiable, weight_scores
from igcsearch.errors import UsageError
from igcsearch.spec.problem import Budget
from igcsearch.spec.sparsity import Sparsity, storage_bytes

from .networks import difference, images, outputs, random_graph, weights
from .sparse_networks import chain


@pytest.mark.parametrize("seed", range(30))
def test_masked_and_compact_networks_are_one(seed):
    rng = random.Random(seed)
    graph, axis = random_graph(seed, steps=5), rng.choice(["in", "out"])
    state = weights(graph, seed)
    chosen = {}
    for node, _ in sparsifiable(graph, axis):
        m = rng.randint(2, 9)
        chosen[node.name] = Sparsity(rng.randint(1, m - 1), m, axis)
    masks = masks_of(graph, weight_scores(graph, state, list(chosen)), chosen)
    made, compact_state = compacted(graph, state, chosen, masks)
    x = images(graph)
    assert difference(outputs(made, compact_state, x), outputs(graph, with_zeros(state, masks), x)) < 1e-10
    kept = sum(int(mask.sum()) for mask in masks.values())
    dense = sum(mask.numel() for mask in masks.values())
    assert graph.params - made.params == dense - kept


def test_figures_of_a_network():
    graph = chain([1, 8, 10])
    state = {name: each.float() if each.is_floating_point() else each for name, each in weights(graph).items()}
    scores = weight_scores(graph, state, ["conv0", "conv1"])
    chosen = {"conv1": Sparsity(2, 4)}
    found = sparsified(graph, state, scores, chosen, masks_of(graph, scores, chosen), "exact")
    first, second = found.layers
    assert (first["sparsity"], first["kept"], first["nonzero_macs"]) == (None, 1.0, first["macs"])
    assert second["sparsity"] == "2:4"
    assert second["macs"] == second["macs_before"] == 8 * 10 * 9 * 64
    assert second["nonzero_macs"] == second["macs"] // 2
    assert found.nonzero_macs == graph.macs - second["macs"] // 2
    rest = sum(each.numel() * each.element_size() for name, each in state.items() if name != "conv1.weight")
    assert found.bytes == rest + storage_bytes(Sparsity(2, 4), 8, 10, (3, 3))
    assert found.kept == pytest.approx((1 + second["kept"]) / 2)
    assert found.difference < 1e-5


def cost_of(graph, chosen):
    """Parameters and nonzero MACs."""
    nodes = [
        replace(node, operation=replace(node.operation, sparsity=(chosen[node.name].n, chosen[node.name].m)))
        if node.name in chosen
        else node
        for node in graph.nodes
    ]
    made = graph.with_nodes(nodes)
    return made.params, made.nonzero_macs


@pytest.mark.parametrize("share", [0.75, 0.5, 0.4, 0.3])
def test_n_inside_a_budget(share):
    graph = chain([3, 32, 32, 48, 48])
    state = weights(graph)
    scores = weight_scores(graph, state, ["conv1", "conv2", "conv3"])
    for name in ("params", "macs"):
        limit = int(getattr(graph, name) * share)
        chosen = sparsities(graph, scores, 8, budget=Budget(**{name: limit}))
        spent = cost_of(graph, chosen)[name == "macs"]
        assert spent <= limit
        assert spent >= 0.97 * limit
        assert all(each.n < 8 for each in chosen.values())


def test_a_short_line_that_keeps_all_is_not_sparse():
    """Of 3 channels 11:16 keeps all."""
    graph = chain([3, 8, 8])
    scores = weight_scores(graph, weights(graph), ["conv0"])
    (table,) = line_tables(graph, scores, 16)
    assert [option.n for option in table.options] == [11, 6, 1]
    assert sparsities(graph, scores, 16, budget=Budget(macs=graph.macs)) == {}
    with pytest.raises(UsageError, match="10:16 meets it"):  # 2 of 3
        sparsities(graph, scores, 16, n=12, budget=Budget(macs=graph.macs - 1))


def test_least_is_lost_of_all_choices():
    graph = chain([3, 8, 8, 12])
    state = weights(graph)
    scores = weight_scores(graph, state, ["conv1", "conv2"])
    first, second = tables = line_tables(graph, scores, 4)
    limit = int(graph.macs * 0.6)
    rest = graph.macs - sum(table.options[0].cost.macs for table in tables)
    pairs = [(a.lost + b.lost, rest + a.cost.macs + b.cost.macs) for a in first.options for b in second.options]
    inside = [pair for pair in pairs if pair[1] <= limit]
    best = min(inside)
    if best[1] < 0.97 * limit:  # then the fullest are preferred, where there are some
        best = min([pair for pair in inside if pair[1] >= 0.97 * limit] or [best])
    found = sparsities(graph, scores, 4, budget=Budget(macs=limit))
    lost = sum(
        next(option.lost for option in table.options if option.n == (found[table.name].n if table.name in found else 4))
        for table in tables
    )
    assert lost == pytest.approx(best[0])


def test_measured_harm_decides():
    graph = chain([3, 8, 8, 8])
    state = weights(graph)
    state["conv2.weight"][:, 4:] *= 1e-3
    scores = weight_scores(graph, state, ["conv1", "conv2"])
    torch.manual_seed(0)
    batches = [(images(graph, 8), torch.randint(3, (8,)))]
    tables = measured(line_tables(graph, scores, 4), graph, state, batches, cutting=cut_lines(4, "in", scores))
    assert [option.n for option in tables[0].options] == [4, 3, 2, 1]
    assert tables[0].options[0].harm == 0.0
    assert all(option.harm >= 0.0 for table in tables for option in table.options)
    assert max(option.harm for table in tables for option in table.options) > 0.0


def test_bad_input():
    graph = chain([3, 8, 8])
    scores = weight_scores(graph, weights(graph), ["conv1"])
    for n, m, message in ((5, 4, "N must be at least 1 and at most M"), (0, 4, "N must"), (4, 4, "keeps every weight")):
        with pytest.raises(UsageError, match=message):
            sparsities(graph, scores, m, n)
    with pytest.raises(UsageError, match="give N"):
        sparsities(graph, scores, 4)
    with pytest.raises(UsageError, match="latency"):
        sparsities(graph, scores, 4, 2, budget=Budget(latency_ms=1.0))
    one, two, three = (cost_of(graph, {"conv1": Sparsity(n, 4)})[1] for n in (1, 2, 3))
    with pytest.raises(UsageError, match=r"3:4 has .*; 2:4 meets it"):
        sparsities(graph, scores, 4, 3, budget=Budget(macs=two))
    assert sparsities(graph, scores, 4, 3, budget=Budget(macs=three)) == {"conv1": Sparsity(3, 4)}
    for n in (None, 1, 2):
        with pytest.raises(UsageError, match=rf"the smallest, 1:4 in all layers, has .* and {one:,} nonzero macs"):
            sparsities(graph, scores, 4, n, budget=Budget(macs=one - 1))
