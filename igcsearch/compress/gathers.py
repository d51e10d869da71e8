"""Which layers get an order of their own for their input: more is kept, at a gather each. Floor 6.

One layer after another, each time the one that gains most; then all orders are settled again with it free, from where they are.
So more gathers never keep less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..permutations.assignment import balanced
from .channels import Channels
from .orders import Grouped, Orders, settle

LEAST_GAIN = 1e-9  # of a layer's criterion, which is worth a gather


@dataclass(frozen=True)
class Gathered:
    """Layers, those with a gather marked, and where channels stand.

    Args:
        layers: in the order given.
        orders: of all channels.
        kept: with 0, 1, 2 ... gathers, what is kept of the layers' criteria, summed by their weights. Those beyond the gathers
            that there are: what is kept at least.
    """

    layers: list[Grouped]
    orders: Orders
    kept: list[float]


def settled(
    channels: Channels,
    layers: Sequence[Grouped],
    gathers: int | None = 0,
    *,
    seed: int = 0,
    begin: Callable[[Sequence[Grouped]], Orders] | None = None,
) -> Gathered:
    """Orders that keep much with at most so many gathers; None: as many as gain anything.

    Args:
        begin: gives orders of the layers that may be good ones, for those with gathers too: what comes out keeps no less.
    """
    now = list(layers)
    orders = settle(channels, now, seed=seed)
    if begin is not None:
        orders = max(settle(channels, now, seed=seed, begin=begin(now)), orders, key=lambda each: _kept(now, each))
    kept = [_kept(now, orders)]
    for _ in range(len(now) if gathers is None else min(gathers, len(now))):
        gains = [_gain(layer, orders) for layer in now]
        best = int(np.argmax(gains))
        if gains[best] <= LEAST_GAIN * now[best].weight * float(now[best].criterion.sum()):
            break
        now[best] = replace(now[best], gather=True)
        orders = settle(channels, now, seed=seed, begin=orders)
        kept.append(_kept(now, orders))
    if gathers is None or gathers >= len(now):
        every = [replace(layer, gather=True) for layer in now]
        other = settle(channels, every, seed=seed)
        if begin is not None:
            likely = settle(channels, every, seed=seed, begin=begin(every))
            other = max(likely, other, key=lambda each: _kept(every, each))
        if (total := _kept(every, other)) > kept[-1]:
            now, orders = every, other
            kept += [kept[-1]] * (len(every) - len(kept)) + [total]
    further = sorted((_gain(layer, orders) for layer in now), reverse=True)
    kept += (kept[-1] + np.cumsum([gain for gain in further if gain > 0])).tolist()
    return Gathered(now, orders, kept)


def _kept(layers: Sequence[Grouped], orders: Orders) -> float:
    return sum(layer.weight * float(layer.criterion.sum()) * orders.kept[layer.name] for layer in layers)


def _gain(layer: Grouped, orders: Orders) -> float:
    """What a gather for this layer keeps more at once, nothing else moved; 0 if it has one."""
    if layer.gather:
        return 0.0
    affinity = np.eye(layer.groups) if layer.affinity is None else layer.affinity
    gains = layer.criterion.T @ affinity[orders.rows[layer.name]]  # of each input channel in each group
    each, now = np.arange(len(gains)), orders.columns[layer.name]
    return layer.weight * float((gains[each, balanced(gains, now)] - gains[each, now]).sum())
