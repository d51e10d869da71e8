"""A block as columns of channels and the lines between them: what drawing.py draws and the page's script traces. Floor 7.

Every step becomes one or more layers. A factor is a layer of branches (each joins all its inputs with all its outputs),
followed by a layer of single lines where its shuffle moves a channel; steps that mix nothing (pooling and the like) and lanes
that wait for longer ones are straight lines. Multiplying the layers gives back the path counts of `igcsearch.spec.conditions`
(a test does so).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..spec import Block, ChannelStep, Factor, NormAct, Parallel, Pool, Shuffle, SqueezeExcitation, Step


@dataclass(frozen=True)
class Branch:
    """Channels `ins` of one column, all joined with channels `outs` of the next.

    kind: factor (one branch of a group convolution), shuffle (a moved channel) or wire (a channel passed on).
    """

    kind: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]

    @property
    def edges(self) -> int:
        """Lines that the branch stands for."""
        return len(self.ins) * len(self.outs)

    def shifted(self, ins: int, outs: int) -> Branch:
        """The same branch, further down in both columns: a lane below others."""
        return Branch(self.kind, tuple(i + ins for i in self.ins), tuple(o + outs for o in self.outs))


@dataclass(frozen=True)
class Layer:
    """What lies between two columns of `in_width` and `out_width` channels."""

    in_width: int
    out_width: int
    branches: tuple[Branch, ...]
    label: str  # of lanes that do different things, each lane's between bars
    note: str = ""

    @property
    def lanes(self) -> list[str]:
        """The labels of its lanes, from the top."""
        return self.label.split(" | ")

    @property
    def kind(self) -> str:
        """factor where any branch computes, otherwise what the lines do."""
        kinds = {branch.kind for branch in self.branches}
        return next(kind for kind in ("factor", "shuffle", "wire") if kind in kinds)


def wire(block: Block) -> tuple[Layer, ...]:
    """The layers of a block's product, in order; its shortcut is not part of them."""
    return _chain(block.steps)


def factor_edges(layers: Sequence[Layer]) -> int:
    """Lines inside branches: the sum of in_channels * out_channels / groups over the factors."""
    return sum(branch.edges for layer in layers for branch in layer.branches if branch.kind == "factor")


def trace(layers: Sequence[Layer], channel: int) -> list[list[tuple[int, int]]]:
    """The lines on the paths of one input channel: for each layer the pairs (in, out) that it reaches."""
    reached = {channel}
    found = []
    for layer in layers:
        pairs = [(i, o) for branch in layer.branches for i in branch.ins if i in reached for o in branch.outs]
        found.append(pairs)
        reached = {o for _, o in pairs}
    return found


def hues(layers: Sequence[Layer]) -> list[list[float]]:
    """A hue in degrees for each channel of each column: that of the branch which wrote it (the input: which reads it)."""
    first = layers[0]
    columns = [_branch_hues(first, first.in_width, inputs=True)]
    for layer in layers:
        if layer.kind == "factor":
            columns.append(_branch_hues(layer, layer.out_width, inputs=False))
        else:
            following = [0.0] * layer.out_width
            for branch in layer.branches:
                following[branch.outs[0]] = columns[-1][branch.ins[0]]
            columns.append(following)
    return columns


def hue(position: int, count: int) -> float:
    """Degrees from blue over green to orange."""
    return 265.0 - 225.0 * position / max(count - 1, 1)


def _chain(steps: tuple[Step, ...]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for step in steps:
        if isinstance(step, Factor):
            layers += _factor(step)
        elif isinstance(step, Parallel):
            layers += _parallel(step)
        else:
            layers.append(_straight(step.channels, *_words(step)))
    return tuple(layers)


def _words(step: ChannelStep) -> tuple[str, str]:
    """Label and note of a step whose channels stay in their places."""
    if isinstance(step, Pool):
        return f"{step.kind} pool {step.kernel_size}×{step.kernel_size}", _stride(step.stride)
    if isinstance(step, SqueezeExcitation):
        return f"squeeze to {step.reduced}", f"{step.activation} · {step.gate}"
    assert isinstance(step, NormAct)
    return " · ".join([*(["norm"] if step.norm else []), *([step.activation] if step.activation else [])]), ""


def _factor(factor: Factor) -> list[Layer]:
    C_in, C_out, G = factor.in_channels, factor.out_channels, factor.groups
    K_in, K_out = C_in // G, C_out // G
    branches = tuple(
        Branch("factor", tuple(range(g * K_in, (g + 1) * K_in)), tuple(range(g * K_out, (g + 1) * K_out)))
        for g in range(G)
    )
    size = f"{factor.kernel_size}×{factor.kernel_size}"
    widths = f"K = {K_in}" if K_in == K_out else f"K = {K_in} → {K_out}"
    label = f"{size} dense" if G == 1 else f"{size} · {widths}"
    label += f" · {factor.nm}" if factor.nm else ""
    behind = [_stride(factor.stride), "norm" if factor.norm else "", factor.activation or ""]
    if factor.dilation > 1:
        behind.insert(0, f"dilation {factor.dilation}")
    note = " · ".join(part for part in behind if part)
    layer = Layer(C_in, C_out, branches, label, note)
    order = [int(source) for source in factor.order]
    return [layer, *_permutation(order, factor.shuffle)]


def _permutation(order: list[int], shuffle: Shuffle) -> list[Layer]:
    """One layer of lines where the order moves anything: position i reads channel order[i]."""
    if order == list(range(len(order))):
        return []
    lines = tuple(Branch("shuffle", (source,), (position,)) for position, source in enumerate(order))
    return [Layer(len(order), len(order), lines, shuffle.kind)]


def _straight(width: int, label: str, note: str = "") -> Layer:
    return Layer(width, width, tuple(Branch("wire", (c,), (c,)) for c in range(width)), label, note)


def _stride(stride: int) -> str:
    return f"stride {stride}" if stride > 1 else ""


def _parallel(step: Parallel) -> list[Layer]:
    """Lanes run below one another, in step; a lane that is done passes its channels on until the longest is."""
    layers: list[Layer] = []
    widths = step.lane_widths
    if step.split is None and len(step.lanes) > 1:
        copies = tuple(
            Branch("wire", (c,), (lane * step.in_channels + c,))
            for lane in range(len(widths))
            for c in range(step.in_channels)
        )
        layers.append(Layer(step.in_channels, sum(widths), copies, f"{len(widths)} lanes"))
    lanes = [list(_chain(lane)) for lane in step.lanes]
    longest = max(len(lane) for lane in lanes)
    for lane, width in zip(lanes, step.lane_outputs, strict=True):
        lane += [_straight(width, "")] * (longest - len(lane))
    for depth in range(longest):
        layers.append(_side_by_side([lane[depth] for lane in lanes]))
    if step.join == "add":
        width = step.out_channels
        sums = tuple(Branch("wire", (lane * width + c,), (c,)) for lane in range(len(lanes)) for c in range(width))
        layers.append(Layer(width * len(lanes), width, sums, "add"))
    return layers + _permutation([int(source) for source in step.order], step.shuffle)


def _side_by_side(parts: list[Layer]) -> Layer:
    branches: list[Branch] = []
    ins = outs = 0
    for part in parts:
        branches += [branch.shifted(ins, outs) for branch in part.branches]
        ins, outs = ins + part.in_width, outs + part.out_width
    labels = [part.label for part in parts if part.label]
    return Layer(ins, outs, tuple(branches), " | ".join(dict.fromkeys(labels)))


def _branch_hues(layer: Layer, width: int, *, inputs: bool) -> list[float]:
    """By branch; by channel where there is one branch only."""
    if len(layer.branches) == 1:
        return [hue(c, width) for c in range(width)]
    found = [0.0] * width
    for b, branch in enumerate(layer.branches):
        for c in branch.ins if inputs else branch.outs:
            found[c] = hue(b, len(layer.branches))
    return found
