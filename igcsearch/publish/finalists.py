"""`publish`: finalists are retrained with several seeds, chosen by validation accuracy, tested once, and written as entries.

study -> choose.py -> latency.py -> rounds.py (retrain.py in workers.py) -> choice -> test split, for the chosen alone ->
facts.py -> entry. Candidates that were named are all published: there is no choice then, and nothing says that there was one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entries import Entry, read_entry, user_zoo, write_entry
from ..entries.entry import CARD, looks_like_entry
from ..errors import UsageError
from ..nn import module_of
from ..search.retrained import FINALISTS, FOLDER, read_json, write_json
from ..training import DataSpec, Recipe, evaluate
from .choose import checked_ids, finalists, named
from .events import EntryWritten, FinalistsChosen, Note
from .facts import entry_metrics, mean_and_std, measured_cost
from .latency import all_fast_enough, fast_enough
from .retrain import Job, architecture_of, weights_of
from .rounds import OnEvent, Retrained, Setting, check_numbers, make_setting, only_one, retrain_all
from .tables import is_generated, write_table
from .workers import Pool
from .zoo import entry_name, refuse_foreign, writable_zoo

if TYPE_CHECKING:
    from ..search import Candidate, Study


def publish(
    study: Study | str | Path,
    *,
    top: int | None = None,
    candidates: Iterable[int] | None = None,
    seeds: int = 3,
    to: str | Path | None = None,
    epochs: int | None = None,
    device: str = "auto",
    workers: int = 1,
    on_event: OnEvent | None = None,
    data: DataSpec | None = None,
    train_images: int | None = None,
    overwrite: bool = False,
    pool: Pool | None = None,
    relearn: bool = False,
) -> list[Entry]:
    """Retrain the best 3 * `top` candidates and write the best `top` of them as entries of the zoo `to`; or exactly `candidates`.

    The choice is by mean validation accuracy over the seeds; the test split is touched once, for the chosen ones. What
    is finished is stored under STUDY/publish and is not repeated by the same call; finalists.json there lists them all. Where
    the study has a latency budget, candidates are measured first as whole networks, and those over it are named and left out;
    of `candidates` none is left out: then it is an error.

    Args:
        study: or its folder.
        top: entries to write; fewer where the study has fewer candidates. None: 1.
        candidates: ids of those to retrain and publish, each one, in the place of the best; not together with `top`. One that
            fails in training is missing from the entries, which are in this order.
        seeds: retrainings of each finalist, with the seeds 0 to `seeds` - 1; the entry holds the weights of seed 0.
        to: folder of a zoo; None: the user's (IGCSEARCH_ZOO).
        epochs: None: as in the study.
        device: auto, cpu, cuda.
        workers: processes that retrain side by side; they share the cores.
        on_event: called with the records of events.py.
        data: None: the study's; its number of training images is not looked at.
        train_images: None: the whole training split.
        overwrite: replace entries of the same name also where they come from another study, recipe or data. Those of
            this study and recipe are replaced in any case.
        pool: where the retrainings run, such as Pool("ray", address="auto"); None: in processes of this machine.
        relearn: learn shuffles and group counts of candidates that have learned such anew, in each retraining. By default all seeds
            train the network with what the search learned. The entry is then the network of seed 0, and its
            metrics list the hash of each seed's (`provenance.relearned`).

    Raises:
        UsageError: nothing to publish or to learn anew, candidates that cannot be, a zoo that cannot be written or that holds
            a finalist of another origin (before any training), all retrainings failed.
    """
    if top is not None and candidates is not None:
        raise UsageError(
            "top and candidates (--top, --candidates) exclude each other: the first publishes the best, the second those "
            "that are named; give one of them"
        )
    check_numbers(top=top, seeds=seeds)
    ids = None if candidates is None else checked_ids(candidates)
    count = (top or 1) if ids is None else len(ids)
    place = user_zoo() if to is None else Path(to).expanduser()
    with writable_zoo(place) as zoo:
        setting = make_setting(
            study,
            epochs=epochs,
            data=data,
            train_images=train_images,
            device=device,
            workers=workers,
            on_event=on_event,
            pool=pool,
            relearn=relearn,
        )
        with only_one(setting.folder):
            if ids is None:
                kept, slow = fast_enough(setting, finalists(setting.study), 3 * count)
            else:
                kept, slow = all_fast_enough(setting, named(setting.study, ids)), []
            if relearn and not any(result.candidate.learned is not None for result in kept):
                raise UsageError(
                    "none of the finalists has learned shuffles or group counts; leave relearn (--relearn) out"
                )
            if not overwrite:
                for result in kept:
                    _refuse_foreign(setting, result.candidate, zoo)
            if ids is None and len(kept) < 3 * count:
                setting.tell(Note(f"{3 * count} finalists were asked for, the study has {len(kept)}"))
            retrained = retrain_all(setting, kept, seeds)
            results = sorted([*retrained, *slow], key=by_accuracy)
            able = [result for result in (results if ids is None else retrained) if result.mean is not None]
            if not able:
                raise UsageError(f"every finalist failed: {kept[0].failures[0]}")
            return _write(setting, results, able[:count], zoo, overwrite, ranked=ids is None)


def _refuse_foreign(setting: Setting, candidate: Candidate, zoo: Path) -> None:
    """Raise UsageError where the candidate's entry is in the zoo already, and is not this study's and recipe's."""
    refuse_foreign(
        zoo / entry_name_of(setting, candidate),
        recipe=setting.recipe.resolve(setting.data).to_dict(),
        split=setting.data.split,
        provenance=_origin(setting, candidate),
    )


def entry_name_of(setting: Setting, candidate: Candidate) -> str:
    """The name of a candidate's entry."""
    return entry_name(candidate.family, setting.data.name, candidate.params, candidate.architecture.hash)


def _write(
    setting: Setting,
    results: Sequence[Retrained],
    chosen: Sequence[Retrained],
    zoo: Path,
    overwrite: bool,
    *,
    ranked: bool,
) -> list[Entry]:
    """The entries of the chosen; `ranked`: they were chosen by accuracy, not named."""
    rows = [finalist_row(result, result in chosen) for result in results]
    store_finalists(setting.folder, setting, rows, ranked=ranked)
    setting.tell(FinalistsChosen(tuple(rows), ranked))
    entries = []
    for asked in chosen:
        result = _as_trained(asked)
        if not overwrite:  # again: it may have come meanwhile
            _refuse_foreign(setting, result.candidate, zoo)
        entry, replaced = write_result(setting, result, zoo, _provenance(setting, result, ranked))
        row = next(row for row in rows if row["id"] == result.candidate.id)
        row.update(entry=entry.name, test_accuracy=entry.metrics["accuracy"], test_std=entry.metrics["accuracy_std"])
        entries.append(entry)
        setting.tell(EntryWritten(entry.name, entry.path, entry.metrics["accuracy"], replaced))
        _say_if_hidden(entry, setting.tell)
    store_finalists(setting.folder, setting, rows, ranked=ranked)
    if not (zoo / CARD).exists() or is_generated(zoo / CARD):
        try:
            write_table(zoo)
        except UsageError as error:  # an older entry is broken: what was published now is whole all the same
            setting.tell(Note(f"the zoo's table was not written: {error}"))
    return entries


def _say_if_hidden(entry: Entry, tell: OnEvent) -> None:
    """The same network may have been published before in a zoo that comes first: its name means that one."""
    with suppress(UsageError):
        first = read_entry(entry.name)
        if not first.path.samefile(entry.path) and first.metrics["weights_sha256"] != entry.metrics["weights_sha256"]:
            text = f"the name {entry.name} means the network in {first.path.parent}; load this one by its folder"
            tell(Note(text))


def write_result(setting: Setting, result: Retrained, zoo: Path, provenance: Mapping[str, Any]) -> tuple[Entry, bool]:
    """The test split's turn, for one chosen finalist; then its entry. Also tells whether an older entry was replaced."""
    architecture = result.candidate.architecture
    runs = [
        {
            "seed": job.seed,
            "validation_accuracy": record["validation_accuracy"],
            "test_accuracy": _test(setting, job, record),
            "seconds": record["seconds"],
            "device": record["device"],
            "threads": record["threads"],
        }
        for job, record in zip(result.jobs, result.records, strict=True)
    ]
    metrics = entry_metrics(
        architecture,
        setting.data,
        Recipe.from_dict(result.records[0]["recipe"]),
        runs,
        family=result.candidate.family,
        provenance=provenance,
        cost=measured_cost(architecture, result.latency),
    )
    name = entry_name_of(setting, result.candidate)
    replaced = looks_like_entry(zoo / name)
    return write_entry(zoo / name, architecture, weights_of(result.jobs[0]), metrics, overwrite=True), replaced


def _as_trained(result: Retrained) -> Retrained:
    """Where something was learned anew: the candidate with that of seed 0, whose weights are published."""
    if "hardened" not in result.records[0]:
        return result
    architecture = architecture_of(result.jobs[0], result.records[0])
    data, (params, macs) = architecture.to_dict(), architecture.cost
    named = replace(result.candidate, data=data, hash=architecture.hash, key=architecture.key, params=params, macs=macs)
    return replace(result, candidate=named)


def _test(setting: Setting, job: Job, record: Mapping[str, Any]) -> float:
    """Test accuracy of a finished retraining, computed once for its weights (sha256) and the images of the test split."""
    weights = record["weights_sha256"]
    path, of = job.file("test", ".json"), {"test_split": setting.data.test.fingerprint, "weights_sha256": weights}
    stored = read_json(path)
    if stored is None or {name: stored.get(name) for name in of} != of:
        network = module_of(architecture_of(job, record))
        network.load_state_dict(weights_of(job), strict=True)
        accuracy, images = evaluate(network, setting.data.test, device=setting.device)
        stored = {"test_accuracy": accuracy, "images": images, **of}
        write_json(path, stored)
    return float(stored["test_accuracy"])


def _origin(setting: Setting, candidate: Candidate) -> dict[str, Any]:
    """Where a network comes from: what tells two publications of the same architecture apart."""
    config = setting.study.config
    return {
        "study": setting.folder.resolve().name,
        "trial": candidate.id,
        **setting.searched,
        "sampler": config.sampler,
        "seed": config.seed,
        "objectives": list(config.objectives),
        "budget": config.budget.to_dict(),
        "search_accuracy": candidate.accuracy,
        "search_epochs": candidate.epochs,
    }


def _provenance(setting: Setting, result: Retrained, ranked: bool) -> dict[str, Any]:
    choice = {"candidates_ranked": len(finalists(setting.study))} if ranked else {"chosen_by": "id"}
    return {
        **_origin(setting, result.candidate),
        "trials": setting.study.config.trials,
        "validation_accuracy": result.mean,
        "validation_std": mean_and_std(result.accuracies)[1],
        **choice,
        **_learned(result),
    }


def _learned(result: Retrained) -> dict[str, Any]:
    """Of what was learned: by whom, and each seed's network where that was the retrainings."""
    learned = result.candidate.learned
    if learned is None:
        return {}
    if "hardened" not in result.records[0]:
        return {what: f"learned in the search{how}" for what, how in _what_was_learned(learned)}
    found = {
        str(job.seed): architecture_of(job, record) for job, record in zip(result.jobs, result.records, strict=True)
    }
    hashes = {seed: architecture.hash for seed, architecture in found.items()}
    record = result.records[0]["learned"]
    costs = {seed: architecture.cost._asdict() for seed, architecture in found.items()}
    more = {"relearned": hashes} | ({"relearned_costs": costs} if record.get("groups") else {})
    return {what: f"learned by each retraining{how}" for what, how in _what_was_learned(record)} | more


def _what_was_learned(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    shuffles = [("shuffles", f" ({record['way']})")] if record["gaps"] else []
    return shuffles + ([("group_counts", "")] if record.get("groups") else [])


def finalist_row(result: Retrained, chosen: bool) -> dict[str, Any]:
    """A finalist as finalists.json has it."""
    candidate = result.candidate
    return {
        "id": candidate.id,
        "hash": candidate.hash,
        "family": candidate.family,
        "params": candidate.params,
        "macs": candidate.macs,
        "latency_ms": None if result.latency is None else result.latency["median_ms"],
        "predicted_ms": candidate.latency_ms,
        "search_accuracy": candidate.accuracy,
        "validation_accuracy": result.mean,
        "validation_std": mean_and_std(result.accuracies)[1],
        "seeds": [
            {"seed": record["seed"], "validation_accuracy": record["validation_accuracy"], "seconds": record["seconds"]}
            for record in result.records
        ],
        "failed": "; ".join(result.failures) or None,
        "chosen": chosen,
        "entry": None,
        "test_accuracy": None,
        "test_std": None,
    }


def store_finalists(study_folder: Path, setting: Setting, rows: list[dict[str, Any]], *, ranked: bool = True) -> None:
    """Write all finalists, best first, to finalists.json of that study; `ranked`: the best of them were chosen, none was named."""
    recipe = setting.recipe.resolve(setting.data)
    values = {
        "epochs": recipe.epochs,
        "train_images": len(setting.data.train),
        "recipe": {key: value for key, value in recipe.to_dict().items() if key != "seed"},
        "data": setting.data.name,
        "split": dict(setting.data.split),
        **({} if ranked else {"chosen_by": "id"}),
        "finalists": rows,
    }
    write_json(study_folder / FOLDER / FINALISTS, values)


def by_accuracy(result: Retrained) -> tuple[float, int, int]:
    """To sort by: the best mean validation accuracy first."""
    return -(result.mean if result.mean is not None else -1.0), result.candidate.params, result.candidate.id
