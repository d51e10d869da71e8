"""Bounds, best counts, cheapest factorizations and dense counts against brute force; free parameters: test_free_parameters.py."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

import igcsearch
from igcsearch.errors import UsageError
from igcsearch.spec import Factor, Pool, conditions, theory
from igcsearch.spec.free_parameters import free_parameters, strict_free_parameters


def ordered_factorizations(width: int) -> Iterator[tuple[int, ...]]:
    """Oracle: every way to write a width as an ordered product of numbers from 2 up, by recursion."""
    if width == 1:
        yield ()
    for first in range(2, width + 1):
        if width % first == 0:
            for rest in ordered_factorizations(width // first):
                yield (first, *rest)


def strict_products(width: int) -> list[tuple[int, ...]]:
    """Oracle: (K_1, K_2 ... K_L) of every strict product on one width; K_1 from 1 up, the others from 2 up."""
    firsts = [k for k in range(1, width + 1) if width % k == 0]
    return [(first, *rest) for first in firsts for rest in ordered_factorizations(width // first)]


def weights_of(width: int, branch_widths: Sequence[int], area: int) -> int:
    """Oracle: the weights of an interleaved product, added up kernel by kernel."""
    first, *others = branch_widths
    spatial = sum(area * first for _ in range(width))
    return spatial + sum(k for k in others for _ in range(width))


def on_one_width(width: int, branch_widths: Sequence[int]) -> tuple[Factor, ...]:
    return tuple(Factor(width, width, groups=width // k) for k in branch_widths)


# ---------------------------------------------------------------- bounds


# Rule: no one-path product undercuts the bound, and on one width L*C*(S*C)^(1/L) is the same number.
@pytest.mark.parametrize("area", [1, 9])
@pytest.mark.parametrize("width", [2, 12, 36, 64, 81, 96])
def test_no_strict_product_of_a_width_undercuts_the_bound(width: int, area: int) -> None:
    for branch_widths in strict_products(width):
        factors = len(branch_widths)
        bound = theory.weight_bound((width,) * (factors + 1), (area, *(1,) * (factors - 1)))
        assert bound == pytest.approx(factors * width * (area * width) ** (1 / factors))
        weights = weights_of(width, branch_widths, area)
        assert weights >= bound * (1 - 1e-12)
        terms = {area * branch_widths[0], *branch_widths[1:]}
        assert (len(terms) == 1) == (weights == pytest.approx(bound, rel=1e-9))


# Rule: so it is where widths change; it is met exactly where all terms S*Kin*C are equal.
def test_no_one_path_transition_undercuts_the_bound() -> None:
    found = met = 0
    for length in (1, 2, 3):
        for widths in itertools.product((2, 3, 4, 6, 8, 12), repeat=length + 1):
            allowed = [
                [k for k in range(1, before + 1) if before % k == 0 and behind % (before // k) == 0]
                for before, behind in itertools.pairwise(widths)
            ]
            for inputs in itertools.product(*allowed):
                if math.prod(inputs) != widths[0]:
                    continue
                terms = [k * width for k, width in zip(inputs, widths[1:], strict=True)]
                bound = theory.weight_bound(widths, (1,) * length)
                assert sum(terms) >= bound * (1 - 1e-12)
                assert (len(set(terms)) == 1) == (sum(terms) == pytest.approx(bound, rel=1e-9))
                found += 1
                met += len(set(terms)) == 1
    assert found > 1000
    assert met > 100


def test_the_bound_of_factors_is_the_bound_of_their_widths_and_areas() -> None:
    factors = (Factor(8, 16, 3, groups=8), Factor(16, 16, groups=8), Factor(16, 16, groups=4))
    assert conditions.lower_bound(factors) == pytest.approx(3 * (9 * 8 * 16**3) ** (1 / 3))
    assert conditions.lower_bound(factors) == theory.weight_bound((8, 16, 16, 16), (9, 1, 1))


# Rule: the table of igcv2.md 1.3: bounds with K_1 = 1, and the cheapest of all strict factorizations.
@pytest.mark.parametrize(
    ("width", "bounds", "cheapest"),
    [
        (64, (4672, 1600, 1344, 1300, 1311, 1344), (4672, 1600, 1344, 1344, 1344, 1344)),
        (128, (17536, 4048, 3087, 2874, 2841, 2876), (17536, 4224, 3200, 2944, 2944, 2944)),
        (256, (67840, 10496, 7180, 6400, 6184, 6174), (67840, 10496, 7424, 6400, 6400, 6400)),
        (512, (266752, 27778, 16896, 14350, 13522, 13297), (266752, 29184, 16896, 14848, 13824, 13824)),
    ],
)
def test_table_of_the_fact_sheet(width: int, bounds: tuple[int, ...], cheapest: tuple[int, ...]) -> None:
    for pointwise, (bound, weights) in enumerate(zip(bounds, cheapest, strict=True), start=1):
        assert round(theory.pointwise_bound(width, pointwise)) == bound
        found = theory.cheapest_factorization(width, pointwise=pointwise, spatial_branch_width=1)
        assert found.weights == weights
        assert len(found.branch_widths) == pointwise + 1
        factors = (Factor(width, width, 3, groups=width), *on_one_width(width, found.branch_widths[1:]))
        assert sum(factor.weights for factor in factors) == weights
        assert conditions.paths(factors).level == "strict"


@pytest.mark.parametrize(
    ("width", "pointwise", "branch_widths", "weights"),
    [
        (64, 1, (2, 32), 3200),
        (128, 1, (4, 32), 8704),
        (256, 1, (4, 64), 25600),
        (512, 1, (8, 64), 69632),
        (512, 2, (2, 16, 16), 25600),
        (64, 0, (64,), 36864),
    ],
)
def test_free_spatial_branch_width_of_the_fact_sheet(
    width: int, pointwise: int, branch_widths: tuple[int, ...], weights: int
) -> None:
    assert theory.cheapest_factorization(width, pointwise=pointwise) == (branch_widths, weights)


@pytest.mark.parametrize(("first", "pointwise"), [(1, 1), (1, 3), (2, 2), (4, 1), (64, 0)])
def test_the_bound_behind_a_fixed_spatial_factor_is_that_of_the_rest(first: int, pointwise: int) -> None:
    spatial = 9 * first * 64
    rest = theory.weight_bound((64 // first, *(64,) * pointwise), (1,) * pointwise) if pointwise else 0
    assert theory.pointwise_bound(64, pointwise, spatial_branch_width=first) == pytest.approx(spatial + rest)


def test_cost_per_nat_of_the_fact_sheet() -> None:
    told = {2: 2.885, 3: 2.731, 4: 2.885, 5: 3.107, 6: 3.349, 8: 3.847, 9: 4.096, 12: 4.829, 16: 5.771}
    assert {k: round(theory.cost_per_nat(k), 3) for k in told} == told
    assert min(range(2, 100), key=theory.cost_per_nat) == 3
    assert theory.cost_per_nat(2) == pytest.approx(theory.cost_per_nat(4))
    for k, n in ((2, 6), (4, 3), (8, 2)):  # Q - 9*C of C = K^n channels is C * ln C * K / ln K
        assert n * k == pytest.approx(math.log(64) * theory.cost_per_nat(k))


# ---------------------------------------------------------------- the cheapest factorization


# Rule: the cheapest of all ordered factorizations; of equals the fewest factors, then the first in lexicographic order.
@pytest.mark.parametrize("area", [1, 9, 25])
def test_cheapest_factorization_is_the_first_of_all(area: int) -> None:
    cases = 0
    for width in (*range(1, 73), 96, 120, 128, 144, 180, 210):
        every = [(weights_of(width, ks, area), len(ks), ks) for ks in strict_products(width)]
        longest = max(length for _, length, _ in every)
        firsts = [None, *(k for k in range(1, width + 1) if width % k == 0)]
        for first, pointwise in itertools.product(firsts, (None, *range(longest + 1))):
            allowed = [
                case
                for case in every
                if first in (None, case[2][0]) and (pointwise is None or case[1] == pointwise + 1)
            ]
            cases += 1
            if not allowed:
                with pytest.raises(UsageError, match=r"has no strict factorization with \d+ 1x1 factors"):
                    theory.cheapest_factorization(width, pointwise=pointwise, spatial_branch_width=first, area=area)
                continue
            weights, _, branch_widths = min(allowed)
            found = theory.cheapest_factorization(width, pointwise=pointwise, spatial_branch_width=first, area=area)
            assert found == (branch_widths, weights)
    assert cases > 2000


# Rule: with any number of factors no branch width is better split than into primes: Q = C*(9 + the sum of C's primes). Fast.
@pytest.mark.timeout(60)
def test_every_width_up_to_4096() -> None:
    prime_sums = [0] * 4097
    for prime in range(2, 4097):
        if prime_sums[prime] == 0:  # no smaller prime divides it
            for power in itertools.takewhile(lambda q: q <= 4096, (prime**e for e in itertools.count(1))):
                for multiple in range(power, 4097, power):
                    prime_sums[multiple] += prime
    for width in range(1, 4097):
        found = theory.cheapest_factorization(width)
        assert math.prod(found.branch_widths) == width
        assert found.branch_widths[0] == 1
        assert found.weights == weights_of(width, found.branch_widths, 9) == width * (9 + prime_sums[width])


# ---------------------------------------------------------------- the best number of factors


# Rule: the continuous count is where the bound is lowest on a fine grid, the integer count where it is lowest of all integers,
# the searched one that of the cheapest product among all.
@pytest.mark.parametrize("width", [2, 3, 4, 7, 16, 48, 64, 81, 120, 128, 192])
def test_best_counts_by_grid_scan_and_enumeration(width: int) -> None:
    grid = np.arange(0.2, 20, 0.001)

    def lowest(bounds: np.ndarray) -> float:
        return float(grid[np.argmin(bounds)])

    free, behind = theory.best_factors(width), theory.best_pointwise_factors(width)
    assert free.continuous == pytest.approx(lowest(grid * width * (9 * width) ** (1 / grid)), abs=2e-3)
    assert behind.continuous == pytest.approx(lowest(width * (9 + grid * width ** (1 / grid))), abs=2e-3)
    counts = range(1, 30)
    assert free.integer == min(counts, key=lambda L: (round(L * (9 * width) ** (1 / L), 9), L))
    assert behind.integer == min(counts, key=lambda n: (round(theory.pointwise_bound(width, n), 6), n))
    every = [(weights_of(width, ks, 9), len(ks), ks[0]) for ks in strict_products(width)]
    assert free.searched == min(every)[1]
    assert behind.searched == min(case for case in every if case[2] == 1)[1] - 1


def test_best_counts_follow_the_logarithm() -> None:
    for width in range(2, 1500):
        free, behind = theory.best_factors(width), theory.best_pointwise_factors(width)
        assert free.continuous == math.log(9 * width)
        assert behind.continuous == math.log(width)
        assert abs(free.integer - free.continuous) < 1
        assert abs(behind.integer - behind.continuous) < 1
        assert free.searched < free.continuous  # K_1 is at least 1, so S*K_1 is 9 where the optimum has e
    assert theory.best_pointwise_factors(4).integer == 1  # 1 * 4 = 2 * sqrt(4): of equals the fewer
    assert theory.best_factors(192).integer == 7
    assert round(theory.best_pointwise_factors(192).continuous, 2) == 5.26  # the dashed line of Figure 3


def test_best_count_behind_a_wider_spatial_factor() -> None:
    assert theory.best_pointwise_factors(512, spatial_branch_width=8)[:2] == (math.log(64), 4)
    assert theory.best_pointwise_factors(64, spatial_branch_width=64) == (0.0, 0, 0)
    assert theory.best_factors(1, area=1) == (0.0, 1, 1)


# Rule: integers stay below L* = ln(S*C); at area 1 a few widths come to L* rounded up.
@pytest.mark.parametrize(("area", "above"), [(1, [1, 2, 6, 18, 54]), (4, []), (9, []), (25, [])])
def test_the_best_count_in_integers_is_below_the_continuous_one(area: int, above: list[int]) -> None:
    found = {width: theory.best_factors(width, area=area) for width in range(1, 400)}
    assert [width for width, best in found.items() if best.searched >= best.continuous] == above
    assert all(found[width].searched == math.ceil(found[width].continuous) for width in above if width > 1)


# ---------------------------------------------------------------- dense products of one branch width


def interleaved(width: int, branch_width: int) -> np.ndarray:
    """Oracle: the path matrix of one factor and the interleave behind it, entry by entry."""
    branches = width // branch_width
    matrix = np.zeros((width, width))
    for channel in range(width):
        for other in range(channel // branch_width * branch_width, (channel // branch_width + 1) * branch_width):
            branch, place = divmod(other, branch_width)
            matrix[place * branches + branch, channel] = 1
    return matrix


@pytest.mark.parametrize("branch_width", [2, 3, 4, 5, 6, 8, 12, 16])
def test_dense_factors_is_the_first_product_without_a_zero(branch_width: int) -> None:
    for width in range(branch_width, 130, branch_width):
        one = interleaved(width, branch_width)
        counts, product = 1, one
        while (product == 0).any():
            product = one @ product
            counts += 1
        assert theory.dense_factors(width, branch_width) == counts


def test_dense_factors_are_counted_in_exact_integers() -> None:
    assert math.ceil(math.log(125, 5)) == 4  # a float logarithm is one too many here
    for k in (2, 3, 5, 6, 7, 10, 1000):
        for n in range(1, 60):
            assert theory.dense_factors(k**n, k) == n
            assert theory.dense_factors(k**n + k, k) == n + 1


# ---------------------------------------------------------------- bad input, and where the names are


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.weight_bound((8,), ()), r"1 widths and 0 areas: .*L \+ 1 widths and L areas"),
        (lambda: theory.weight_bound((8, 8), (1, 1)), r"2 widths and 2 areas"),
        (lambda: theory.weight_bound((8, 0), (1,)), r"widths \[8, 0\] and areas \[1\] .* at least 1"),
        (lambda: conditions.lower_bound(()), r"0 widths and 0 areas"),
        (
            lambda: theory.pointwise_bound(64, 0),
            r"0 1x1 factors cannot mix 64 channels in branches of 1; use at least 1",
        ),
        (lambda: theory.pointwise_bound(64, 1, area=0), r"area = 0 of a product must be at least 1"),
        (
            lambda: theory.pointwise_bound(12, 1, spatial_branch_width=5),
            r"spatial branch width 5 must divide 12 channels; use one of its divisors: 1, 2, 3, 4, 6, 12",
        ),
        (lambda: theory.cost_per_nat(1), r"branch width 1 mixes no channels"),
        (lambda: theory.best_factors(0), r"width = 0 of a product must be at least 1"),
        (lambda: theory.best_factors(8, area=0), r"area = 0"),
        (lambda: theory.best_pointwise_factors(8, spatial_branch_width=3), r"must divide 8 channels"),
        (lambda: theory.best_pointwise_factors(0), r"width = 0"),
        (lambda: theory.cheapest_factorization(0), r"width = 0"),
        (lambda: theory.cheapest_factorization(8, spatial_branch_width=0), r"spatial branch width 0 must divide 8"),
        (
            lambda: theory.cheapest_factorization(60, pointwise=5, spatial_branch_width=1),
            r"width 60 has no strict factorization with 5 1x1 factors: 60 = 2\*2\*3\*5 is left to them; use 1 to 4",
        ),
        (lambda: theory.cheapest_factorization(60, pointwise=5), r"5 1x1 factors: 60 = .*; use 0 to 4"),
        (lambda: theory.cheapest_factorization(8, pointwise=0, spatial_branch_width=2), r"4 = 2\*2 .*; use 1 to 2"),
        (
            lambda: theory.cheapest_factorization(8, pointwise=1, spatial_branch_width=8),
            r"1 = 1 is left to them; use 0$",
        ),
        (
            lambda: theory.cheapest_factorization(7, pointwise=2, spatial_branch_width=1),
            r"7 = 7 is left to them; use 1$",
        ),
        (lambda: theory.cheapest_factorization(8, pointwise=-1), r"-1 1x1 factors"),
        (lambda: theory.dense_factors(20, 8), r"branch width 8 must .* divide 20 channels; nearest widths: 16, 24"),
        (lambda: theory.dense_factors(4, 8), r"divide 4 channels; nearest widths: 8, 16$"),
        (lambda: theory.dense_factors(8, 1), r"branch width 1 must be at least 2 and divide 8 channels$"),
        (lambda: theory.dense_factors(0, 2), r"divide 0 channels"),
        (lambda: free_parameters(()), r"a product of no factors"),
        (lambda: free_parameters((Factor(8, 8), Pool(8))), r"step 2 is a Pool: .* factors alone"),
        (lambda: free_parameters((Factor(8, 8), Factor(4, 4))), r"step 2 .* reads 4 channels but is given 8"),
        (lambda: strict_free_parameters(()), r"at least one factor"),
        (lambda: strict_free_parameters((4, 4), areas=(9,)), r"areas \[9\]"),
        (lambda: strict_free_parameters((4, 0)), r"branch widths \[4, 0\]"),
    ],
)
def test_bad_input_names_value_rule_and_cure(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


# Rule: the contract of other tools: `igcsearch.conditions` has the conditions and the theory.
def test_public_names_of_conditions() -> None:
    public = igcsearch.conditions
    factors = [Factor(6, 6, groups=3), Factor(6, 6, groups=2)]
    counts = public.path_counts(factors)
    assert counts.shape == (6, 6)
    assert np.issubdtype(counts.dtype, np.integer)
    assert public.is_complementary(factors)
    assert public.factorizations(6, 2) == [(2, 3), (3, 2)]
    own = {name for name, value in vars(theory).items() if getattr(value, "__module__", "") == theory.__name__}
    own = {name for name in own if not name.startswith("_")}
    assert own <= set(public.__all__)


@pytest.mark.parametrize("ask", [conditions.path_counts, conditions.is_complementary])
def test_conditions_of_what_is_no_product(ask) -> None:
    with pytest.raises(UsageError, match=r"no steps has no paths; give at least one factor"):
        ask([])
    with pytest.raises(UsageError, match=r"step 2 of a product reads 12 channels but is given 8"):
        ask([Factor(8, 8, groups=4), Factor(12, 12, groups=3)])
