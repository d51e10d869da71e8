"""Butterfly: a dense matrix as log_K C sparse ones (Dao et al., ICML 2019, arXiv 1903.05895; `igcv2.md` 5)."""

from __future__ import annotations

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Shuffle

from .definition import definition
from .products import as_shuffle, finish, linear_product, nearest_widths


@definition
def butterfly(
    in_channels: int,
    out_channels: int,
    *,
    base: int = 2,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Channel-wise 3x3, then log_K C_in 1x1 factors of K x K blocks, K = `base`: factor i mixes digit i of the channel number.

    base 2 is the butterfly; a larger one is the block-butterfly with K x K blocks, 4 the Butterfly Transform's (BFT, CVPR 2020,
    `igcv2.md` 5). Instead of strides within a factor, channels are interleaved behind each: the same up to relabelling, and the
    whole comes back to the first order. It is strict IGCV2 with every branch width K, so norm and activation follow the last.

    Args:
        in_channels: a power of `base`.
        out_channels: a multiple of in_channels; the 3x3 makes the width change.
        base: K, at least 2.
        stride: of the 3x3.
        residual: add a shortcut (channel-wise 1x1 projection at a transition).
        shuffle, shuffle_seed: behind the 3x3; where the width stays any keeps it strict.

    Raises:
        UsageError: a base below 2, or a width that is no power of it.
    """
    if base < 2:
        raise UsageError(
            f"butterfly of base {base}: a base must be at least 2; use 2, or 4 for fewer and larger factors"
        )
    count, power = 0, 1
    while power < in_channels:
        count, power = count + 1, power * base
    if power != in_channels or count == 0:
        below, above = (power // base, power) if count > 1 else (base, base**2)
        which = "widths" if in_channels == out_channels else "in_channels"
        raise UsageError(
            f"butterfly of base {base} needs a width that is a power of {base}, not {in_channels}; nearest "
            f"{which}: {below}, {above}"
        )
    if out_channels < 1 or out_channels % in_channels:
        raise UsageError(
            f"butterfly cannot take {in_channels} to {out_channels} channels: the width grows by a whole factor; "
            f"{nearest_widths(in_channels, out_channels, 1, in_channels)}"
        )
    steps = linear_product(
        in_channels,
        out_channels,
        stride=stride,
        spatial_branch_width=1,
        branch_widths=(base,) * count,
        shuffle=as_shuffle(shuffle, shuffle_seed),
    )
    return finish(steps, residual=residual, activation=activation, family="butterfly")
