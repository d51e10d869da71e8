"""Conditions and theory of products of structured sparse kernels, under one public name. Floor 0.

What a given product satisfies (path counts, level, balance, K / ln K) is made in `igcsearch.spec.conditions`, what products cost
at the least and how many factors are best in `igcsearch.spec.theory`.
"""

from __future__ import annotations

from .spec.conditions import (
    Paths,
    balance,
    factorizations,
    is_complementary,
    is_group_convolution,
    is_strict,
    level,
    lower_bound,
    mixing_cost,
    need_factorization,
    path_counts,
    paths,
)
from .spec.free_parameters import free_parameters, strict_free_parameters
from .spec.theory import (
    BestCount,
    StrictFactorization,
    best_factors,
    best_pointwise_factors,
    cheapest_factorization,
    cost_per_nat,
    dense_factors,
    pointwise_bound,
    weight_bound,
)

__all__ = [
    "BestCount",
    "Paths",
    "StrictFactorization",
    "balance",
    "best_factors",
    "best_pointwise_factors",
    "cheapest_factorization",
    "cost_per_nat",
    "dense_factors",
    "factorizations",
    "free_parameters",
    "is_complementary",
    "is_group_convolution",
    "is_strict",
    "level",
    "lower_bound",
    "mixing_cost",
    "need_factorization",
    "path_counts",
    "paths",
    "pointwise_bound",
    "strict_free_parameters",
    "weight_bound",
]
