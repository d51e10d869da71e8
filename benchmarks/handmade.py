"""Hand-made networks of one budget: IGCV2, IGCV3, Xception and dense in one layout, each as wide as the budget admits.

    python -m benchmarks.handmade --out DIR [--max-params 100k --max-macs 2M --image-size 28 --channels 1 --classes 10]

writes DIR/FAMILY.json, to be trained by `igcsearch train DIR/FAMILY.json --data ...`: what a search has to beat.
Layout: a 3x3 stem of stride 2 and width w, then stages of (2w, 4w, 4w) channels with (3, 3, 2) blocks, the second and third
of stride 2, shortcuts wherever the shape stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from igcsearch.blocks import get_family, network, stage
from igcsearch.cli.sizes import parse_size
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Budget, Problem
from igcsearch.spec.conditions import factorizations

HANDMADE = ("igcv2", "igcv3", "xception", "dense")
GROWTH, REPEATS, STRIDES = (2, 4, 4), (3, 3, 2), (1, 2, 2)


def options(family: str, in_channels: int, out_channels: int) -> dict[str, object]:
    """Options of a family's block between two widths: for IGCV2 two 1x1 factors of nearly equal branch widths, strict."""
    if family == "igcv2":
        found = [ks for ks in factorizations(in_channels, 2) if all(out_channels % k == 0 for k in ks)]
        if not found:
            raise UsageError(f"{in_channels} -> {out_channels} channels have no two strict branch widths")
        return {"branch_widths": min(found, key=lambda ks: (sum(ks), ks))}
    return {"expansion": 3} if family == "igcv3" else {}


def layout(family: str, problem: Problem, width: int) -> Architecture:
    """The layout's network of one family and stem width."""
    stages, before = [], width
    for growth, repeats, stride in zip(GROWTH, REPEATS, STRIDES, strict=True):
        after = growth * width
        inside, across = options(family, after, after), options(family, before, after)
        # a shortcut exists only where the shape stays: the first block of a stage has none
        stages.append(
            stage(
                get_family(family),
                before,
                after,
                repeats,
                stride=stride,
                residual=True,
                transition={**across, "residual": False},
                **inside,
            )
        )
        before = after
    return network(problem, width, stages, stem_stride=2)


def handmade(family: str, problem: Problem) -> Architecture:
    """The layout's widest network of one family within the problem's budget.

    Raises:
        UsageError: the budget admits none.
    """
    get_family(family)  # unknown: an error of its own
    widest: Architecture | None = None
    for width in range(2, 257, 2):
        try:
            architecture = layout(family, problem, width)
        except UsageError:
            continue
        if problem.budget.admits(*architecture.cost):
            widest = architecture
    if widest is None:
        raise UsageError(f"no hand-made {family} network is within {problem.budget}")
    return widest


def main() -> None:
    """Write the architectures and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--max-params", type=parse_size, default=100_000)
    parser.add_argument("--max-macs", type=parse_size, default=2_000_000)
    parser.add_argument("--families", default=",".join(HANDMADE))
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args()
    problem = Problem(given.image_size, given.channels, given.classes, Budget(given.max_params, given.max_macs))
    given.out.mkdir(parents=True, exist_ok=True)
    for family in given.families.split(","):
        architecture = handmade(family, problem)
        (given.out / f"{family}.json").write_text(architecture.to_json(indent=1) + "\n")
        stem = dict(architecture.blocks())["stem"]
        print(f"{family:9s} stem {stem.out_channels:3d}  {architecture.params:7,} params  {architecture.macs:9,} MACs")


if __name__ == "__main__":
    main()
