"""Triton kernels for products of 1x1 group convolutions; gpu.py plans and launches them. Needs triton at import.

`strict` runs a whole strict two-factor product and `strict_weights` its weight gradients: the intermediate stays on the chip.
`factor` runs one factor of any product and `factor_weights` its weight gradient: permutations are gathers in the loads.
The gradient of the input is the same product with weights transposed and wires reversed, so it needs no kernel of its own.

Every tile has three dimensions: branches, pixels (a block of BP), channels of a branch; tl.dot runs over a batch of branches.
Tiles are padded with zeros to powers of two. Sums are in float32. Notation of the arguments:
    table, S, T     a map of two indices a, b: table[a * S + b * T], or a * S + b * T itself where the table is None
    LAST            the tensor is channels last (pixels x channels); else contiguous (images x channels x `area` pixels)
    TYPE            what the dots multiply: the type of x, or float32 in the interpreter, whose dot knows no bfloat16
"""
# mypy: ignore-errors
# (what stands in these functions is Triton's language, which only looks like Python)

import torch
import triton
import triton.language as tl

#: Whether the kernels below run in Triton's interpreter: it is read when they are defined.
INTERPRETED = triton.knobs.runtime.interpret


def dot_type(dtype):
    """TYPE for tensors of a torch type."""
    if INTERPRETED:
        return tl.float32
    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]


@triton.jit
def _map(table, a, b, S: tl.constexpr, T: tl.constexpr, live):
    """The map's value at every pair: a (m, 1) and b (1, n) to (m, n)."""
    at = a * S + b * T
    if table is not None:
        at = tl.load(table + at, mask=live, other=0)
    return at


@triton.jit
def _start(p, area, C: tl.constexpr, LAST: tl.constexpr):
    """Offset of the pixels p, shape (BP,), in a tensor of C channels."""
    if LAST:
        return p.to(tl.int64) * C
    else:
        return (p // area).to(tl.int64) * (area * C) + p % area


@triton.jit
def _step(area, LAST: tl.constexpr):
    """Distance of two channels of a pixel."""
    if LAST:
        return 1
    else:
        return area


@triton.jit
def _tile(x, start, live_p, channels, live_c, step):
    """The tile (branches, BP, channels of a branch) of x at the channels (branches, channels of a branch)."""
    at = start[None, :, None] + (channels * step)[:, None, :]
    return tl.load(x + at, mask=live_p[None, :, None] & live_c[:, None, :], other=0)


@triton.jit
def _as(tile, HELD: tl.constexpr, TYPE: tl.constexpr):
    """Rounded to the type HELD, in the type TYPE."""
    return tile.to(HELD).to(TYPE)


@triton.jit
def _put(
    y, tile, start, live_p, channels, live_c, step, bias, inverse, C: tl.constexpr, ROWS: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Store a tile (branches, BP, rows) at the channels (branches, rows) of y, plus the bias.

    With WHOLE the tile holds all rows (ROWS of them to a branch) and is first put in the order of the channels on the chip, by
    `inverse`: channel to row, so that a permutation that is no stride does not scatter the store.
    """
    if bias is not None:
        tile += tl.load(bias + channels, mask=live_c, other=0).to(tl.float32)[:, None, :]
    if WHOLE:
        flat: tl.constexpr = tile.shape[0] * tile.shape[2]
        c = tl.arange(0, flat)
        row = tl.load(inverse + c, mask=c < C, other=0)
        at = row // ROWS * tile.shape[2] + row % ROWS
        z = tl.reshape(tl.permute(tile, (1, 0, 2)), (tile.shape[1], flat))
        # in float32: at 1024 channels a gather of 16 bits spills hundreds of registers or more (Triton 3.6, 3.9)
        z = tl.gather(z, tl.broadcast_to(at[None, :], (tile.shape[1], flat)), 1)
        tl.store(y + start[:, None] + (c * step)[None, :], z, mask=live_p[:, None] & (c < C)[None, :])
    else:
        at = start[None, :, None] + (channels * step)[:, None, :]
        tl.store(y + at, tile, mask=live_p[None, :, None] & live_c[:, None, :])


@triton.jit
def strict(
    x, y, first, second, bias, in_table, first_table, second_table, out_table, inverse, pixels, area,
    A: tl.constexpr, B: tl.constexpr, K: tl.constexpr, R: tl.constexpr,
    IN_S: tl.constexpr, IN_T: tl.constexpr, OUT_S: tl.constexpr, OUT_T: tl.constexpr,
    FIRST_S: tl.constexpr, FIRST_T: tl.constexpr, FIRST_K: tl.constexpr,
    SECOND_S: tl.constexpr, SECOND_T: tl.constexpr, SECOND_R: tl.constexpr,
    LAST: tl.constexpr, WHOLE: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BA: tl.constexpr, BB: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """y[p, out(b, r)] = sum_a second[b, a, r] sum_k first[a, b, k] x[p, in(a, k)]: A branches of K, then B branches of A.

    A program has BP pixels and BB branches of the second factor and walks over the branches of the first, BA at a time.
    """
    held: tl.constexpr = x.dtype.element_ty
    chunks: tl.constexpr = (B + BB - 1) // BB
    p = tl.program_id(0) // chunks * BP + tl.arange(0, BP)
    b = tl.program_id(0) % chunks * BB + tl.arange(0, BB)
    k, r = tl.arange(0, BK), tl.arange(0, BR)
    start, step = _start(p, area, A * K, LAST), _step(area, LAST)
    total = tl.zeros((BB, BP, BR), tl.float32)
    for a0 in range(0, A, BA):
        a = a0 + tl.arange(0, BA)
        live = (a < A)[:, None] & (k < K)[None, :]
        x_APK = _tile(x, start, p < pixels, _map(in_table, a[:, None], k[None, :], IN_S, IN_T, live), live, step)
        pair = (a < A)[:, None] & (b < B)[None, :]
        at = _map(first_table, a[:, None], b[None, :], FIRST_S, FIRST_T, pair)
        first_AKB = tl.load(
            first + at[:, None, :] + (k * FIRST_K)[None, :, None],
            mask=pair[:, None, :] & (k < K)[None, :, None],
            other=0,
        )
        h_APB = tl.dot(x_APK.to(TYPE), _as(first_AKB, held, TYPE), input_precision=PRECISION)
        at = _map(second_table, a[None, :], b[:, None], SECOND_S, SECOND_T, tl.trans(pair))
        second_BAR = tl.load(
            second + at[:, :, None] + (r * SECOND_R)[None, None, :], mask=tl.trans(pair)[:, :, None] & (r < R)[None, None, :],
            other=0,
        )  # fmt: skip
        h_BPA = tl.permute(_as(h_APB, held, TYPE), (2, 1, 0))
        total = tl.dot(h_BPA, _as(second_BAR, held, TYPE), total, input_precision=PRECISION)
    live = (b < B)[:, None] & (r < R)[None, :]
    channels = _map(out_table, b[:, None], r[None, :], OUT_S, OUT_T, live)
    _put(y, total, _start(p, area, B * R, LAST), p < pixels, channels, live, step, bias, inverse, B * R, R, WHOLE)


@triton.jit
def strict_weights(
    x, dy, first, second, sums, in_table, first_table, second_table, out_table, pixels, area, span,
    A: tl.constexpr, B: tl.constexpr, K: tl.constexpr, R: tl.constexpr,
    IN_S: tl.constexpr, IN_T: tl.constexpr, OUT_S: tl.constexpr, OUT_T: tl.constexpr,
    FIRST_S: tl.constexpr, FIRST_T: tl.constexpr, FIRST_K: tl.constexpr,
    SECOND_S: tl.constexpr, SECOND_T: tl.constexpr, SECOND_R: tl.constexpr,
    LAST: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BA: tl.constexpr, BB: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """sums[split] = the gradients of `first`, then of `second`, over `span` pixels from split * span on.

    A program has BA branches of the first factor and BB of the second: what passes between them depends on these alone.
    """
    held: tl.constexpr = x.dtype.element_ty
    chunks_a: tl.constexpr = (A + BA - 1) // BA
    chunks_b: tl.constexpr = (B + BB - 1) // BB
    split, chunk = tl.program_id(0) // (chunks_a * chunks_b), tl.program_id(0) % (chunks_a * chunks_b)
    a = chunk // chunks_b * BA + tl.arange(0, BA)
    b = chunk % chunks_b * BB + tl.arange(0, BB)
    k, r = tl.arange(0, BK), tl.arange(0, BR)
    step = _step(area, LAST)
    live_in, live_out = (a < A)[:, None] & (k < K)[None, :], (b < B)[:, None] & (r < R)[None, :]
    channels_in = _map(in_table, a[:, None], k[None, :], IN_S, IN_T, live_in)
    channels_out = _map(out_table, b[:, None], r[None, :], OUT_S, OUT_T, live_out)
    pair = (a < A)[:, None] & (b < B)[None, :]
    at_first = _map(first_table, a[:, None], b[None, :], FIRST_S, FIRST_T, pair)
    at_first = at_first[:, None, :] + (k * FIRST_K)[None, :, None]
    live_first = pair[:, None, :] & (k < K)[None, :, None]
    first_AKB = _as(tl.load(first + at_first, mask=live_first, other=0), held, TYPE)
    pair = (b < B)[:, None] & (a < A)[None, :]
    at_second = _map(second_table, a[None, :], b[:, None], SECOND_S, SECOND_T, pair)
    at_second = at_second[:, :, None] + (r * SECOND_R)[None, None, :]
    live_second = pair[:, :, None] & (r < R)[None, None, :]
    second_BAR = _as(tl.load(second + at_second, mask=live_second, other=0), held, TYPE)
    d_first_AKB, d_second_BAR = tl.zeros((BA, BK, BB), tl.float32), tl.zeros((BB, BA, BR), tl.float32)
    for p0 in range(split * span, tl.minimum(split * span + span, pixels), BP):
        p = p0 + tl.arange(0, BP)
        x_APK = _tile(x, _start(p, area, A * K, LAST), p < pixels, channels_in, live_in, step).to(TYPE)
        dy_BPR = _tile(dy, _start(p, area, B * R, LAST), p < pixels, channels_out, live_out, step).to(TYPE)
        h_APB = _as(tl.dot(x_APK, first_AKB, input_precision=PRECISION), held, TYPE)
        dh_BPA = _as(tl.dot(dy_BPR, tl.permute(second_BAR, (0, 2, 1)), input_precision=PRECISION), held, TYPE)
        x_AKP, dh_APB = tl.permute(x_APK, (0, 2, 1)), tl.permute(dh_BPA, (2, 1, 0))
        d_first_AKB = tl.dot(x_AKP, dh_APB, d_first_AKB, input_precision=PRECISION)
        d_second_BAR = tl.dot(tl.permute(h_APB, (2, 0, 1)), dy_BPR, d_second_BAR, input_precision=PRECISION)
    sums += split.to(tl.int64) * (A * B * (K + R))
    tl.store(sums + at_first, d_first_AKB, mask=live_first)
    tl.store(sums + A * K * B + at_second, d_second_BAR, mask=live_second)


@triton.jit
def _weights(s, k, r, G, K: tl.constexpr, R: tl.constexpr, JOINED: tl.constexpr, W_R: tl.constexpr, W_K: tl.constexpr):
    """Offsets and liveness (BS, BK, BR) of the weights of `JOINED` neighbouring branches each, as one block-diagonal branch."""
    s, k, r = s[:, None, None], k[None, :, None], r[None, None, :]
    if JOINED == 1:
        return s * (R * K) + r * W_R + k * W_K, (s < G) & (r < R) & (k < K)
    else:
        g = s * JOINED + r // R
        return g * (R * K) + r % R * W_R + k % K * W_K, (g < G) & (r < JOINED * R) & (k // K == r // R)


@triton.jit
def factor(
    x, y, weight, bias, source, target, inverse, pixels, area,
    G: tl.constexpr, K: tl.constexpr, R: tl.constexpr, W_R: tl.constexpr, W_K: tl.constexpr, JOINED: tl.constexpr,
    LAST: tl.constexpr, WHOLE: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """y[p, target[g R + r]] = sum_k weight[g, r, k] x[p, source[g K + k]] for G branches, JOINED of them handled as one.

    A program has BP pixels and BR rows of BS joined branches; it walks over their inputs, BK at a time.
    """
    chunks_s: tl.constexpr = ((G + JOINED - 1) // JOINED + BS - 1) // BS
    chunks_r: tl.constexpr = (JOINED * R + BR - 1) // BR
    held: tl.constexpr = x.dtype.element_ty
    chunk = tl.program_id(0) % (chunks_s * chunks_r)
    p = tl.program_id(0) // (chunks_s * chunks_r) * BP + tl.arange(0, BP)
    s = chunk // chunks_r * BS + tl.arange(0, BS)
    r = chunk % chunks_r * BR + tl.arange(0, BR)
    start, step = _start(p, area, G * K, LAST), _step(area, LAST)
    total = tl.zeros((BP, BR) if BS == 1 else (BS, BP, BR), tl.float32)
    for k0 in range(0, JOINED * K, BK):
        k = k0 + tl.arange(0, BK)
        live = (k < JOINED * K)[None, :] & (s[:, None] * (JOINED * K) + k[None, :] < G * K)
        channels = _map(source, s[:, None], k[None, :], JOINED * K, 1, live)
        x_SPK = _tile(x, start, p < pixels, channels, live, step).to(TYPE)
        at, there = _weights(s, k, r, G, K, R, JOINED, W_R, W_K)
        w_SKR = _as(tl.load(weight + at, mask=there, other=0), held, TYPE)
        if BS == 1:
            total = tl.dot(tl.reshape(x_SPK, (BP, BK)), tl.reshape(w_SKR, (BK, BR)), total, input_precision=PRECISION)
        else:
            total = tl.dot(x_SPK, w_SKR, total, input_precision=PRECISION)
    live = (r < JOINED * R)[None, :] & (s[:, None] * (JOINED * R) + r[None, :] < G * R)
    channels = _map(target, s[:, None], r[None, :], JOINED * R, 1, live)
    _put(
        y, tl.reshape(total, (BS, BP, BR)), _start(p, area, G * R, LAST), p < pixels, channels, live, step, bias, inverse,
        G * R, JOINED * R, WHOLE,
    )  # fmt: skip


@triton.jit
def factor_weights(
    x, dy, sums, source, target, pixels, area, span,
    G: tl.constexpr, K: tl.constexpr, R: tl.constexpr, JOINED: tl.constexpr,
    LAST: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """sums[split, g, r, k] = sum_p dy[p, target[g R + r]] x[p, source[g K + k]] over `span` pixels from split * span on."""
    chunks_s: tl.constexpr = ((G + JOINED - 1) // JOINED + BS - 1) // BS
    chunks_r: tl.constexpr = (JOINED * R + BR - 1) // BR
    chunks_k: tl.constexpr = (JOINED * K + BK - 1) // BK
    split, chunk = (
        tl.program_id(0) // (chunks_s * chunks_r * chunks_k),
        tl.program_id(0) % (chunks_s * chunks_r * chunks_k),
    )
    s = chunk // (chunks_r * chunks_k) * BS + tl.arange(0, BS)
    r = chunk // chunks_k % chunks_r * BR + tl.arange(0, BR)
    k = chunk % chunks_k * BK + tl.arange(0, BK)
    step = _step(area, LAST)
    live_k = (k < JOINED * K)[None, :] & (s[:, None] * (JOINED * K) + k[None, :] < G * K)
    live_r = (r < JOINED * R)[None, :] & (s[:, None] * (JOINED * R) + r[None, :] < G * R)
    channels_k = _map(source, s[:, None], k[None, :], JOINED * K, 1, live_k)
    channels_r = _map(target, s[:, None], r[None, :], JOINED * R, 1, live_r)
    total = tl.zeros((BR, BK) if BS == 1 else (BS, BR, BK), tl.float32)
    for p0 in range(split * span, tl.minimum(split * span + span, pixels), BP):
        p = p0 + tl.arange(0, BP)
        x_SPK = _tile(x, _start(p, area, G * K, LAST), p < pixels, channels_k, live_k, step).to(TYPE)
        dy_SPR = _tile(dy, _start(p, area, G * R, LAST), p < pixels, channels_r, live_r, step).to(TYPE)
        if BS == 1:
            dy_RP = tl.trans(tl.reshape(dy_SPR, (BP, BR)))
            total = tl.dot(dy_RP, tl.reshape(x_SPK, (BP, BK)), total, input_precision=PRECISION)
        else:
            total = tl.dot(tl.permute(dy_SPR, (0, 2, 1)), x_SPK, total, input_precision=PRECISION)
    at, there = _weights(s, k, r, G, K, R, JOINED, K, 1)
    sums += split.to(tl.int64) * (G * R * K)
    total_SKR = tl.permute(tl.reshape(total, (BS, BR, BK)), (0, 2, 1))
    tl.store(sums + at, total_SKR, mask=there)
