"""The command `search`: from the options to a SearchConfig, the search with its progress, then the table and the report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..wording import plural
from . import options
from .output import say
from .study import print_candidates, write_page

if TYPE_CHECKING:
    from ..search import SearchConfig, Study, events

#: The data of a space where the user names none; other spaces have no obvious one.
DEFAULT_DATA = {"digits": "digits", "cifar": "cifar10", "igcv2_figure3": "cifar100"}

_BUDGET = "Budget (hard limits)"
_HOW = "How it searches"


def search(
    space: Annotated[
        str,
        typer.Argument(
            metavar="SPACE",
            help="digits, cifar (32x32), mobile (224x224); igcv2_figure3, a grid of six networks; regroup, "
            "a network's group counts (--init-from); or your own: file.py:function.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help=options.DATA_HELP
            + " Default: digits for digits, cifar10 for cifar, cifar100 for igcv2_figure3, that of ENTRY for "
            "regroup.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    train_images: options.TrainImages = None,
    image_size: options.ImageSize = None,
    max_params: Annotated[
        int | None,
        typer.Option(
            "--max-params",
            parser=options.count,
            metavar="N",
            help="Parameters at most (20k, 1.5M).",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    max_macs: Annotated[
        int | None,
        typer.Option(
            "--max-macs",
            parser=options.count,
            metavar="N",
            help="Multiply-adds of one image at most (2M).",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    max_latency: options.MaxLatency = None,
    latency_device: options.LatencyDevice = None,
    latency_batch: options.LatencyBatch = None,
    latency_threads: options.LatencyThreads = None,
    latency_time: options.LatencyTime = None,
    trials: Annotated[
        int,
        typer.Option(
            "--trials",
            parser=options.count,
            metavar="N",
            help="Candidates to train, in the whole study.",
            rich_help_panel=_HOW,
        ),
    ] = 30,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            parser=options.seconds,
            metavar="TIME",
            help="Stop after 90s, 15m, 1h30m; what trains then is kept for --resume.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder of the study. Default: a fresh one in results/studies.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    storage: options.Storage = None,
    study: options.StudyName = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in --out.", rich_help_panel=_HOW)
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Also write learning curves and counts for TensorBoard, in DIR/tensorboard.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            metavar="tpe|nsga2|random|evolution|grid",
            help="What proposes candidates. grid: every point of a space that is one, each once, in order.",
            rich_help_panel=_HOW,
        ),
    ] = "tpe",
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="accuracy[,COST]",
            help="accuracy, or against params, macs or latency: accuracy,macs.",
            rich_help_panel=_HOW,
        ),
    ] = "accuracy",
    stopping: Annotated[
        str,
        typer.Option(
            "--stopping",
            metavar="auto|none|halving|hyperband",
            help="Early stopping. auto: halving, from 30 candidates and 4 epochs on; against a cost by non-dominated rank.",
            rich_help_panel=_HOW,
        ),
    ] = "auto",
    shuffle: Annotated[
        str | None,
        typer.Option(
            "--shuffle",
            metavar="interleave|learned|fixed|any",
            help="Channel shuffles: interleaves, learned with the weights, fixed (interleave or random), or any of these. "
            "Default: interleave.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="searched|learned|any",
            help="Group counts: parameters of the search, or learned with the weights under --max-params and --max-macs "
            "(strict IGCV2 blocks and IGCV3). Default: searched.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    families: Annotated[
        str | None,
        typer.Option(
            "--families",
            metavar="NAME[,NAME...]|all",
            help="Block families that digits, cifar and mobile choose from, of igcv1, igcv2, igcv3, xception, mobilenet, "
            "mobilenetv2, shufflenet, shufflenetv2, resnet_basic, resnet_bottleneck, resnext, monarch, butterfly, dense. "
            "Default: igcv1,igcv2,igcv3,xception,dense.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="ENTRY",
            help="For regroup: the published network (name or folder) whose layers are given groups. Candidates begin with its "
            "weights, the first one is the network itself.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", parser=options.count, metavar="N", help="Training processes at once.", rich_help_panel=_HOW
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            parser=options.seed_number,
            metavar="N",
            help="With one worker, one seed gives one study.",
            rich_help_panel=_HOW,
        ),
    ] = 0,
    engine: options.Engine = "local",
    address: options.Address = None,
    gpus_per_candidate: options.GpusPerCandidate = None,
    cpus_per_candidate: options.CpusPerCandidate = None,
    max_concurrent: options.MaxConcurrent = None,
    devices_per_candidate: Annotated[
        int,
        typer.Option(
            "--devices-per-candidate",
            parser=options.count,
            metavar="N",
            help="Devices that train one candidate together (for large candidates).",
            rich_help_panel=options.RAY,
        ),
    ] = 1,
    checkpoints: options.Checkpoints = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    label_smoothing: options.LabelSmoothing = None,
    precision: options.Precision = None,
    shuffle_way: options.ShuffleWay = None,
    soft_share: options.SoftShare = None,
    shuffle_temperature: options.ShuffleTemperature = None,
    shuffle_penalty: options.ShufflePenalty = None,
    groups_temperature: options.GroupsTemperature = None,
    groups_penalty: options.GroupsPenalty = None,
) -> None:
    """Search a space for the best network within a budget, training candidates on the images.

    A limit on latency is held against a prediction: before the search the parts of the space's networks are timed on this
    machine, by their fastest plan and while nothing trains (for a minute at most); a network's latency is the sum over its
    parts. How far that is off is printed, and kept with the study. 'publish' measures the finalists as whole networks.

    Writes DIR/study.db (the study, resumable) and DIR/report.html (a page about it). Ctrl-C ends it cleanly at any time.

    Examples:

    igcsearch search digits --trials 12 --max-params 20k --workers 2

    igcsearch search cifar --data fashion-mnist --data-root DIR --train-images 10k --epochs 2 --max-params 100k --max-macs 2M
    """
    default = None if storage else fresh_folder(space)  # on a server the name says which study it is
    out_folder = Path(out).expanduser() if out else default
    if resume and out is None and storage is None:
        raise UsageError("--resume needs --out DIR: the folder of the study to go on with")
    if study is not None and storage is None:
        raise UsageError(f"--study {study!r} names a study on a database server; give --storage URL too")
    from ..search import SearchConfig
    from ..search.places import place_at
    from ..spec import Budget

    overrides = {
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "precision": precision,
        "shuffle_way": shuffle_way,
        "soft_share": soft_share,
        "shuffle_temperature": shuffle_temperature,
        "shuffle_penalty": shuffle_penalty,
        "groups_temperature": groups_temperature,
        "groups_penalty": groups_penalty,
    }
    spec = options.data_spec(data or default_data(space, init_from), data_root, download, train_images, image_size)
    config = SearchConfig(
        space=space,
        data=spec,
        budget=Budget(max_params, max_macs, max_latency),
        recipe=None,
        trials=trials,
        timeout_s=timeout,
        sampler=sampler,
        objectives=tuple(part.strip() for part in objective.split(",")),
        stopping=stopping,
        workers=workers,
        seed=seed,
        device=device,
        threads_per_worker=threads,
        engine=engine,
        address=address,
        gpus_per_candidate=gpus_per_candidate,
        cpus_per_candidate=cpus_per_candidate,
        max_concurrent=max_concurrent,
        devices_per_candidate=devices_per_candidate,
        checkpoints=checkpoints,
        shuffle=shuffle,
        groups=groups,
        families=None if families is None else tuple(part.strip() for part in families.split(",")),
        init_from=init_from,
        epochs=epochs,
        overrides={name: value for name, value in overrides.items() if value is not None},
        **options.latency_fields(latency_device, latency_batch, latency_threads, latency_time),
    )
    if resume and storage is None and not place_at(out_folder).exists():
        say(f"{out_folder} holds no study yet: this is a new search")
    status = run(config, out_folder, resume, storage, study, tensorboard=tensorboard)
    if status:
        raise typer.Exit(status)


def default_data(space: str, init_from: str | None = None) -> str:
    """The data of a space by default; with a network to begin from, what that was trained on.

    Raises:
        UsageError: there is none.
    """
    from ..search_spaces import REGROUP, get_space

    if space == REGROUP and init_from is not None:
        from ..search.start import read_start
        from ..training import DATA_NAMES

        of = read_start(init_from).data
        if of not in DATA_NAMES:
            raise UsageError(
                f"--init-from {init_from!r} does not say what data it is for; give --data NAME, FOLDER or FILE.npz"
            )
        return of
    get_space(space)  # an unknown space is the first thing to say
    if space not in DEFAULT_DATA:
        raise UsageError(f"space {space!r} has no data of its own; give --data NAME, FOLDER or FILE.npz")
    return DEFAULT_DATA[space]


def fresh_folder(space: str) -> Path:
    """A folder in results/studies that does not exist yet, named by space and time."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(space.partition(":")[0]).stem)
    from ..search.places import STUDIES

    base = STUDIES / f"{name or 'study'}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def run(
    config: SearchConfig,
    out: Path | None,
    resume: bool,
    storage: str | None = None,
    name: str | None = None,
    *,
    tensorboard: bool = False,
) -> int:
    """Search, then print the table of what there is and write the report.

    Returns:
        The exit status: 130 where the user interrupted it, 1 where candidate after candidate failed or nothing fits, else 0.
    """
    from ..search import run_search
    from .progress import view

    shown, board = view(), None
    if tensorboard:
        from ..search.tensorboard import TensorBoard

        board = TensorBoard()

    def tell(event: events.Event) -> None:
        shown(event)
        if board is not None:
            board(event)

    with shown:
        study = run_search(config, out, resume=resume, storage=storage, study_name=name, on_event=tell)
    if board is not None and board.error:
        say(board.error)
    out = study.path
    ended = "interrupted" if shown.tally.ended is None else shown.tally.ended.reason
    print_best(study)
    write_page(study, out / "report.html")
    if ended in ("interrupted", "timeout", "failures"):
        print(f"to go on: the same command with --out {out} --resume")
    elif study.best() is not None:
        print(f"next: igcsearch publish {out} --top 1 --seeds 3")
    elif ended in ("settled", "grid"):  # nothing was found, and nothing will be
        return 1
    return {"interrupted": 130, "failures": 1}.get(ended, 0)


def print_best(study: Study, most: int = 10) -> None:
    """The most accurate complete candidates, those of the front marked; a line where there is none."""
    complete = sorted((c for c in study.candidates() if c.state == "complete"), key=_rank)
    if not complete:
        print("no candidate is complete yet")
        return
    front = {candidate.id for candidate in study.front()}
    title = f"{min(most, len(complete))} best of {plural(len(complete), 'complete candidate')}"
    print_candidates(complete[:most], title=title, marked=front, predicted=study.latency is not None)


def _rank(candidate: Any) -> tuple[float, int]:
    return (-(candidate.accuracy or 0.0), candidate.params)
