"""Monarch: a dense matrix as two block-diagonal ones (Dao et al., ICML 2022, arXiv 2204.00595; `igcv2.md` 5)."""

from __future__ import annotations

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Shuffle

from .definition import definition
from .products import as_shuffle, check_widths, factor, finish, nearest_widths


@definition
def monarch(
    in_channels: int,
    out_channels: int,
    *,
    groups: int = 4,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Channel-wise 3x3, then M = P L P' R: two 1x1 factors of `groups` blocks each, and a transposition behind each (section 3.1).

    The middle is as wide as the narrower end, as in the released code, so that an m-fold width costs m-fold in one factor alone.
    Interleave reads the channels as a (groups, C / groups) table where that code reads (C / groups, groups): up to relabelling the
    same wherever the groups divide the branch width. IGCV2's case of two pointwise factors with equal group counts, which need not
    be complementary: strict where groups^2 = C, more paths a pair with fewer groups, pairs without a path with more.
    Norm and activation follow the last factor.

    Args:
        in_channels, out_channels: divisible by `groups`.
        groups: blocks of each factor; sqrt(C) is the paper's balanced choice, 4 the released code's default.
        stride: of the 3x3.
        residual: add a shortcut (channel-wise 1x1 projection at a transition).
        shuffle: between the two factors.

    Raises:
        UsageError: groups that do not divide both widths.
    """
    check_widths(in_channels, out_channels)
    if groups < 1 or in_channels % groups or out_channels % groups:
        good = [g for g in range(1, in_channels + 1) if in_channels % g == out_channels % g == 0]
        raise UsageError(
            f"monarch with {groups} groups cannot take {in_channels} to {out_channels} channels: the groups must divide both; "
            f"{nearest_widths(in_channels, out_channels, groups, groups)}; groups that do: {', '.join(map(str, good))}"
        )
    middle = min(in_channels, out_channels)
    steps = (
        factor(in_channels, in_channels, kernel_size=3, groups=in_channels, stride=stride),
        factor(in_channels, middle, groups=groups, shuffle=as_shuffle(shuffle, shuffle_seed)),
        factor(middle, out_channels, groups=groups, norm=True),
    )
    return finish(steps, residual=residual, activation=activation, family="monarch")
