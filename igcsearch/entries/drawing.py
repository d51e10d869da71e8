"""A network as text: its blocks in order, in each the factors with their branches and shuffles. Used by the card."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np

from ..spec import (
    Architecture,
    Block,
    ChannelStep,
    Factor,
    GraphArchitecture,
    NormAct,
    Parallel,
    Pool,
    Shuffle,
    SqueezeExcitation,
    StagedArchitecture,
    Step,
)
from ..spec.operations import Convolution, Linear


def draw(architecture: Architecture) -> str:
    """The network drawn in text, a line for each block and each step; equal neighbours are drawn once."""
    if not isinstance(architecture, StagedArchitecture):
        return _graph(architecture)
    size = architecture.image_size
    lines = [f"input {architecture.in_channels} x {size} x {size}"]
    blocks = list(architecture.blocks())
    for _, run in groupby(blocks, key=_likeness):
        members = list(run)
        block = members[0][1]
        cost, out = block.cost_at(size)
        for _, other in members[1:]:
            _, out = other.cost_at(out)
        name = members[0][0] + (f" to {members[-1][0].split('.')[-1]}" if len(members) > 1 else "")
        figures = f"{cost.params:,} parameters, {cost.macs:,} MACs" + (" each" if len(members) > 1 else "")
        lines.append(f"{name}: {_title(block)}, to {out} x {out}; {figures}")
        lines += _chain(block.steps, 1)
        if block.shortcut is not None:
            lines.append("  + shortcut:" + ("" if block.shortcut else " identity"))
            lines += _chain(block.shortcut, 2)
        if block.activation:
            lines.append(f"  {block.activation}")
        size = out
    steps = _chain(architecture.head.steps, 1)
    lines += [*(["head:"] if steps else []), *steps]
    dropout = f", dropout {architecture.head.dropout:g}" if architecture.head.dropout else ""
    lines.append(f"average over the map{dropout}, linear {architecture.features} -> {architecture.num_classes}")
    return "\n".join(lines)


def _graph(architecture: Architecture) -> str:
    """A line for each convolution and linear layer, and how many other operations there are."""
    assert isinstance(architecture, GraphArchitecture)
    size = architecture.image_size
    lines = [f"input {architecture.in_channels} x {size} x {size}"]
    others: Counter[str] = Counter()
    for node in architecture.nodes:
        operation, made = node.operation, architecture.shapes[node.name]
        if isinstance(operation, Convolution):
            rows, columns = operation.kernel_size
            groups = "" if operation.groups == 1 else f", {operation.groups} groups"
            groups += f", {operation.nm}" if operation.nm else ""
            lines.append(
                f"{node.name}: {rows}x{columns} {operation.in_channels} -> {operation.out_channels}{groups}, to "
                f"{made[1]} x {made[2]}; {operation.params:,} parameters, {operation.macs(made):,} MACs"
            )
        elif isinstance(operation, Linear):
            lines.append(f"{node.name}: linear {operation.in_features} -> {operation.out_features}")
        else:
            others[operation.op] += 1
    counted = ", ".join(f"{number} {name}" for name, number in others.most_common())
    return "\n".join([*lines, *([f"and {counted}"] if counted else [])])


def step_text(step: Factor | ChannelStep) -> str:
    """One step in words, for example "3x3 24 -> 24, 8 branches of 3, interleave, norm, relu"."""
    if isinstance(step, Pool):
        return f"{step.kind} pooling {step.kernel_size}x{step.kernel_size}{_stride(step.stride)}"
    if isinstance(step, SqueezeExcitation):
        return (
            f"squeeze-excitation {step.channels} -> {step.reduced} -> {step.channels}, {step.activation}, {step.gate}"
        )
    if isinstance(step, NormAct):
        return ", ".join([*(["norm"] if step.norm else []), *([step.activation] if step.activation else [])])
    assert isinstance(step, Factor)
    parts = [f"{step.kernel_size}x{step.kernel_size}{_stride(step.stride)} {step.in_channels} -> {step.out_channels}"]
    if step.dilation > 1:
        parts.append(f"dilation {step.dilation}")
    parts.append("dense" if step.groups == 1 else f"{step.groups} branches of {step.branch_width}")
    parts += [str(step.nm)] if step.nm else []
    if not np.array_equal(step.order, np.arange(step.out_channels)):
        parts.append(_shuffle(step.shuffle))
    parts += [word for word, present in (("bias", step.bias), ("norm", step.norm)) if present]
    return ", ".join([*parts, *([step.activation] if step.activation else [])])


def _likeness(named: tuple[str, Block]) -> tuple[str, str, str]:
    """Equal for neighbours that are drawn as one: the same block at the same resolution."""
    name, block = named
    return name.split(".")[0], block.text, name if block.stride > 1 else ""


def _title(block: Block) -> str:
    level = f" ({block.report['complementary']})" if block.family and block.report.get("complementary") else ""
    return f"{block.family or 'block'}{level} {block.in_channels} -> {block.out_channels}"


def _chain(steps: tuple[Step, ...], depth: int) -> list[str]:
    """A product of steps, a line each; lanes are indented below the line that opens them."""
    indent = "  " * depth
    lines = []
    for step in steps:
        if isinstance(step, Parallel):
            share = "all channels each" if step.split is None else f"split {' + '.join(map(str, step.split))}"
            lines.append(f"{indent}{len(step.lanes)} lanes, {share}, {step.join}")
            for lane in step.lanes:
                lines.append(f"{indent}  lane:" + ("" if lane else " passed on"))
                lines += _chain(lane, depth + 2)
            if not np.array_equal(step.order, np.arange(step.out_channels)):
                lines.append(f"{indent}  {_shuffle(step.shuffle)}")
        else:
            lines.append(indent + step_text(step))
    return lines


def _stride(stride: int) -> str:
    return f" stride {stride}" if stride > 1 else ""


def _shuffle(shuffle: Shuffle) -> str:
    if shuffle.kind == "random":
        return f"random shuffle {shuffle.seed}"
    return "explicit order" if shuffle.kind == "explicit" else shuffle.kind
