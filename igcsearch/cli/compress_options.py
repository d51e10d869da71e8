"""The options of the command compress. Floor 8."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .limits import Limit, limit, number_from_0, time_limit

_HOW = "How it compresses"
_DISTILL = "Distillation"
_SPARSIFY = "Method sparsify"
_CCI = "Method cci"

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A published entry (name or folder), torchvision:NAME, timm:NAME, or file.py:function (returns an nn.Module).",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help=options.DATA_HELP + " Without it nothing is measured or trained.",
        rich_help_panel=options.DATA,
    ),
]
MaxMacs = Annotated[
    Limit | None,
    typer.Option(
        "--max-macs", parser=limit, metavar="50%|N", help="Multiply-adds at most: a share of the network's, or 20M."
    ),
]
MaxParams = Annotated[
    Limit | None,
    typer.Option(
        "--max-params", parser=limit, metavar="50%|N", help="Parameters at most: a share of the network's, or 200k."
    ),
]
MaxLatency = Annotated[
    Limit | None,
    typer.Option(
        "--max-latency",
        parser=time_limit,
        metavar="50%|MS",
        help="Milliseconds at most, one image on one thread of this machine: a share of the network's, or 4.5.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="permute|sparsify|cci|auto",
        help="permute: learned permutations, layers cut into groups. sparsify: trained with a penalty first, then cut. "
        "cci: N of every M weights across channels. auto: what does best at once on calibration images.",
        rich_help_panel=_HOW,
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        metavar="l1|l2|taylor",
        help="What a kernel is worth: a norm, or by gradients on 1,024 images. Default: l2; l1 for sparsify and cci.",
        rich_help_panel=_HOW,
    ),
]
Importance = Annotated[
    str | None,
    typer.Option(
        "--importance",
        metavar="lost|sensitivity",
        help="What group counts (cci: N) are chosen by: the criterion's share that is lost, or the loss's rise on 256 images. "
        "Default: lost; auto tries both.",
        rich_help_panel=_HOW,
    ),
]
Gathers = Annotated[
    str,
    typer.Option(
        "--gathers",
        metavar="N|all",
        help="So many grouped layers read their channels in an order of their own: keeps more, runs slower.",
        rich_help_panel=_HOW,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="PATTERN", help="Layers to group, as 'layer3.*'; all without it.", rich_help_panel=_HOW
    ),
]
Skip = Annotated[
    list[str] | None, typer.Option("--skip", metavar="PATTERN", help="Layers to leave dense.", rich_help_panel=_HOW)
]
Epochs = Annotated[
    int,
    typer.Option(
        "--epochs",
        parser=number_from_0,
        metavar="N",
        help="Of fine-tuning; 0 only prunes and converts.",
        rich_help_panel=options.RECIPE,
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        "--steps",
        parser=options.count,
        metavar="N",
        help="1: pruned at once. More: the budget falls in N steps, fine-tuned after each; --epochs are shared out.",
        rich_help_panel=_HOW,
    ),
]
Recalibrate = Annotated[
    bool,
    typer.Option(
        "--recalibrate/--no-recalibrate",
        help="Statistics of batch norms anew from 1,024 training images behind the pruning.",
        rich_help_panel=_HOW,
    ),
]
Distill = Annotated[
    bool,
    typer.Option(
        "--distill",
        help="Fine-tune on the dense network's softened answers too (knowledge distillation).",
        rich_help_panel=_DISTILL,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="SOURCE",
        help="Distil from this network instead, with its own weights.",
        rich_help_panel=_DISTILL,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        parser=options.number,
        metavar="T",
        help="What both networks' logits are divided by. Default: 4.",
        rich_help_panel=_DISTILL,
    ),
]
DistillWeight = Annotated[
    float | None,
    typer.Option(
        "--distill-weight",
        parser=options.number,
        metavar="A",
        help="The teacher's share of the loss, above 0 to 1; the labels have the rest. Default: 0.5.",
        rich_help_panel=_DISTILL,
    ),
]
Weights = Annotated[
    str,
    typer.Option("--weights", metavar="pretrained|none|FILE", help="Of the source; FILE is a safetensors file."),
]
Rename = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OLD=NEW", help="A prefix of the file's keys, and the network's name for it."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="X,X,X",
        help="The source's normalisation; default: its own, else the data's.",
        rich_help_panel=options.DATA,
    ),
]
Std = Annotated[str | None, typer.Option("--std", metavar="X,X,X", help="As --mean.", rich_help_panel=options.DATA)]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="The entry to write. Default: SOURCE-METHOD, here.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an entry that is in --out already.")]
PenaltyEpochs = Annotated[
    int | None,
    typer.Option(
        "--penalty-epochs",
        parser=number_from_0,
        metavar="N",
        help="Of --epochs, with the penalty; the rest fine-tunes. Default: two fifths.",
        rich_help_panel=_SPARSIFY,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        parser=options.number,
        metavar="X",
        help="Share of its criterion that a layer's groups may lose while it trains, above 0 and below 1. Default: 0.1.",
        rich_help_panel=_SPARSIFY,
    ),
]
Delta = Annotated[
    float | None,
    typer.Option(
        "--delta",
        parser=options.number,
        metavar="X",
        help="Step of the penalty's strength. Default: by the length of the training.",
        rich_help_panel=_SPARSIFY,
    ),
]
KeptWeights = Annotated[
    int | None,
    typer.Option(
        "--n",
        parser=number_from_0,
        metavar="N",
        help="Of every M weights N stay. Default: each layer's own, by the budget.",
        rich_help_panel=_CCI,
    ),
]
OfWeights = Annotated[
    int | None,
    typer.Option(
        "--m", parser=options.count, metavar="M", help="Weights of a group. Default: 4.", rich_help_panel=_CCI
    ),
]
Axis = Annotated[
    str | None,
    typer.Option(
        "--axis",
        metavar="in|out",
        help="Channels that groups of M run along: those that go in, or out. Default: in.",
        rich_help_panel=_CCI,
    ),
]
Way = Annotated[
    str | None,
    typer.Option(
        "--way",
        metavar="gradual|one-shot|straight-through",
        help="How it trains: N falls from M epoch by epoch, masks of the start, or masks anew at every step. Default: gradual.",
        rich_help_panel=_CCI,
    ),
]
