"""The coordinator without processes: limits, records, early stopping, retries, and what it makes of a study whose run died."""

import json

import optuna
import pytest
from optuna.trial import TrialState

from igcsearch.search import events
from igcsearch.search.candidate import read_candidate
from igcsearch.search.coordinator import MAX_ATTEMPTS, MIN_COMPLETE
from igcsearch.spec import Budget
from igcsearch.training import Recipe


def candidates(study):
    return [c for c in map(read_candidate, study.trials) if c is not None]


def test_trials_is_the_total_of_trained_candidates(driven):
    search = driven(trials=5)
    assert search.run() == 5
    assert search.coordinator.ended[0] == "trials"
    assert search.coordinator.next_job() is None
    again = driven(search.study, trials=7)
    assert again.run() == 2


def test_no_more_are_handed_out_than_are_left(driven):
    search = driven(trials=3)
    jobs = [search.coordinator.next_job() for _ in range(4)]
    assert [job is None for job in jobs] == [False, False, False, True]
    assert search.coordinator.ended is None
    search.train(jobs[0])
    search.coordinator.failed(jobs[1].id, "it broke")
    assert search.coordinator.next_job() is not None  # a failed candidate does not count
    assert search.coordinator.next_job() is None


def test_a_record_holds_everything_a_candidate_is_known_by(driven, fakes):
    search = driven(trials=1, budget=Budget(params=10**6), objectives=("accuracy", "macs"))
    job = search.coordinator.next_job()
    search.train(job)
    (candidate,) = candidates(search.study)
    architecture = candidate.architecture
    assert architecture.to_json() == job.architecture
    assert (candidate.hash, candidate.key, candidate.family) == (
        architecture.hash,
        architecture.key,
        architecture.family,
    )
    assert (candidate.params, candidate.macs) == architecture.cost
    assert candidate.trained_alike == (3, 1000, 8)
    assert candidate.accuracy == candidate.curve[-1]["validation_accuracy"] == fakes.accuracy(architecture, 3)
    assert candidate.seed == job.recipe["seed"]
    assert candidate.params_drawn == search.study.trials[0].params
    assert search.study.trials[0].values == [candidate.accuracy, candidate.macs]
    assert json.dumps(search.study.trials[0].user_attrs)


def test_a_candidates_seed_depends_on_the_network_and_the_study_alone(driven):
    seeds = []
    for seed, sampler in ((0, "random"), (0, "tpe"), (1, "random")):
        search = driven(seed=seed, sampler=sampler, trials=8)
        search.run()
        seeds.append({c.key: c.seed for c in candidates(search.study)})
    shared = seeds[0].keys() & seeds[1].keys()
    assert all(seeds[0][key] == seeds[1][key] for key in shared)
    assert not set(seeds[0].values()) & set(seeds[2].values())


# What training learned (a hardened shuffle, say) is what is counted and shown; the proposal is what duplicates are settled on.
def test_the_hardened_architecture_is_shown_and_the_proposed_one_is_kept(driven, fakes):
    search = driven(trials=1, objectives=("accuracy", "params"))
    job = search.coordinator.next_job()
    hardened = fakes.make(search.coordinator.facts.problem(Budget()), "dense", (8,), (1,))
    result = {"accuracy": 0.5, "epochs": 3, "curve": [], "stopped": False, "architecture": hardened.to_dict()}
    search.coordinator.finished(job.id, result)
    (candidate,) = candidates(search.study)
    assert candidate.architecture == hardened
    assert json.dumps(candidate.proposed) == job.architecture
    assert search.study.trials[0].values == [0.5, hardened.params]


# A resumed study knows its candidates by what was proposed, as the running one does.
def test_a_resumed_study_knows_the_proposed_architecture(driven, fakes, tmp_path, monkeypatch):
    monkeypatch.setattr("igcsearch.search.coordinator.MAX_SETTLED", 40)
    search = driven(trials=4, space=fakes.TINY_SPACE, sampler="random")
    problem = search.coordinator.facts.problem(Budget())
    while (job := search.coordinator.next_job()) is not None:
        hardened = fakes.make(problem, "dense", (8 * (job.id + 1),), (3,))
        result = {"accuracy": 0.5, "epochs": 3, "curve": [], "stopped": False, "architecture": hardened.to_dict()}
        search.coordinator.finished(job.id, result)
    proposed = {json.dumps(c.proposed) for c in candidates(search.study) if c.proposed}
    assert len(proposed) == 4  # all that this space has
    left = tmp_path / "candidates" / search.study.trials[0].user_attrs["igcsearch:candidate"]["hash"]
    left.mkdir(parents=True)
    again = driven(search.study, trials=5, space=fakes.TINY_SPACE, sampler="random")
    assert not left.exists(), "a checkpoint that a kill left behind"
    assert again.coordinator.next_job() is None
    assert again.coordinator.ended[0] == "settled", "nothing is trained twice"


@pytest.mark.parametrize("stopping", ["halving", "hyperband"])
def test_early_stopping_leaves_stopped_candidates_that_count(driven, stopping):
    from igcsearch.training import Recipe

    search = driven(stopping=stopping, trials=25, sampler="random", recipe=Recipe(epochs=9))
    assert search.run() == 25
    found = candidates(search.study)
    stopped = [c for c in found if c.state == "stopped"]
    assert stopped
    assert all(c.state == "complete" for c in found[:MIN_COMPLETE])
    for candidate in stopped:
        assert candidate.epochs < 9
        assert search.study.trials[candidate.id].state == TrialState.PRUNED
        assert "stopped early" in candidate.reason
    assert sum(isinstance(event, events.Stopped) for event in search.events) == len(stopped)


def test_accuracy_against_a_cost_stops_early_too(driven):
    first = driven(
        stopping="halving", objectives=("accuracy", "macs"), trials=40, sampler="random", recipe=Recipe(epochs=8)
    )
    first.run()
    counts = first.coordinator.counts
    assert counts.trained == 40
    assert counts.stopped >= 10
    candidates = {c.id: c for c in map(read_candidate, first.study.get_trials()) if c is not None}
    assert {c.epochs for c in candidates.values() if c.state == "stopped"} <= {2, 6}
    assert not {t.number for t in first.study.best_trials} & {c.id for c in candidates.values() if c.state == "stopped"}
    # A resumed study decides by the curves of the first run.
    again = driven(
        first.study,
        stopping="halving",
        **{"objectives": ("accuracy", "macs"), "trials": 60},
        sampler="random",
        recipe=Recipe(epochs=8),
    )
    assert again.coordinator._halving._at == first.coordinator._halving._at


def test_a_lost_candidate_is_handed_out_again_and_failed_in_the_end(driven):
    search = driven(trials=2)
    job = search.coordinator.next_job()
    search.coordinator.report(job.id, {"epoch": 1, "validation_accuracy": 0.5})
    for attempt in range(2, MAX_ATTEMPTS + 1):
        search.coordinator.lost(job.id, "its process died")
        again = search.coordinator.next_job()
        assert (again.id, again.attempt, again.checkpoint) == (job.id, attempt, job.checkpoint)
        assert search.coordinator.report(job.id, {"epoch": 1, "validation_accuracy": 0.5})  # told before
    search.coordinator.lost(job.id, "its process died")
    (candidate,) = candidates(search.study)
    assert candidate.state == "failed"
    assert "its process died" in candidate.reason
    assert [type(event) for event in search.events if isinstance(event, events.Retried | events.Failed)] == (
        [events.Retried] * (MAX_ATTEMPTS - 1) + [events.Failed]
    )


# A machine that is taken away again and again is not the candidate's fault.
def test_a_candidate_that_goes_on_between_the_deaths_is_not_given_up(driven):
    search = driven(trials=1, recipe=Recipe(epochs=3 * MAX_ATTEMPTS))
    job = search.coordinator.next_job()
    for epoch in range(1, 2 * MAX_ATTEMPTS):
        search.coordinator.report(job.id, {"epoch": epoch, "validation_accuracy": 0.5})
        search.coordinator.lost(job.id, "its node went away")
        job = search.coordinator.next_job()
        assert job.attempt == epoch + 1
    assert search.coordinator.counts.failed == 0


def test_too_many_failures_end_the_run(driven):
    search = driven(trials=3)
    for _ in range(11):
        search.coordinator.failed(search.coordinator.next_job().id, "loss is not finite")
    assert search.coordinator.next_job() is None
    assert search.coordinator.ended[0] == "failures"
    assert "loss is not finite" in search.coordinator.ended[1]


def test_a_candidate_over_the_latency_budget_is_settled_before_it_is_trained(driven):
    search = driven(budget=Budget(latency_ms=0.5), objectives=("accuracy", "latency"), trials=6)
    while (job := search.coordinator.next_job()) is not None:
        search.train(job)
    found = candidates(search.study)
    assert {c.state for c in found} == {"complete", "settled"}
    assert all(c.latency_ms == pytest.approx(c.macs / 1e6) for c in found)
    assert all((c.latency_ms <= 0.5) == (c.state == "complete") for c in found)
    settled = [c for c in found if c.state == "settled"]
    assert all(c.seconds == 0 and "predicted" in c.reason for c in settled)
    assert all(search.study.trials[c.id].values[1] == c.latency_ms for c in found if c.state == "complete")


def test_events_tell_the_acceptance_rate(driven):
    search = driven(budget=Budget(params=15_000), trials=5)
    search.run()
    counts = search.coordinator.counts
    assert counts.proposals == len(search.study.trials) == 5 + counts.settled
    assert counts.acceptance == 5 / counts.proposals
    assert [e.id for e in search.events if isinstance(e, events.Finished) and e.best][
        -1
    ] == search.study.best_trial.number


# ---------------------------------------------------------------- a run that died


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
@pytest.mark.parametrize("finished", [0, 3, 11])
def test_a_resumed_study_proposes_what_an_uninterrupted_one_does(driven, sampler, finished):
    whole = driven(trials=16, sampler=sampler)
    whole.run()
    first = driven(trials=16, sampler=sampler)
    first.run(finished)
    assert first.coordinator.next_job() is not None  # dies with this one under way
    second = driven(first.study, trials=16, sampler=sampler)
    assert second.coordinator.recovered == 1
    second.run()
    hashes = [[c.hash for c in candidates(search.study)] for search in (whole, second)]
    assert hashes[0] == hashes[1]


# The run may die between any two writes. Each write of one candidate's life is made to be the last one, then the study is resumed,
# with its own recovery cut short at each write too.
def test_a_run_may_die_at_any_write(driven, monkeypatch):
    class Died(BaseException):
        pass

    left = [10**9]
    storage_type = type(optuna.create_study()._storage)
    for name in (
        "create_new_trial",
        "set_trial_param",
        "set_trial_user_attr",
        "set_trial_state_values",
        "set_trial_system_attr",
    ):
        original = getattr(storage_type, name)

        def dying(*args, _original=original, **kwargs):
            if left[0] <= 0:
                raise Died
            left[0] -= 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(storage_type, name, dying)

    reference = driven(trials=4, budget=Budget(params=60_000), seed=5)
    reference.run()
    expected = [c.hash for c in candidates(reference.study) if c.state == "complete"]
    deaths = 0
    for writes in range(0, 60, 3):
        for recovery in (0, 1, 2, 10**9):
            left[0] = 10**9
            search = driven(trials=4, budget=Budget(params=60_000), seed=5)
            for allowed in (writes, recovery):
                left[0] = allowed
                try:
                    search = driven(search.study, trials=4, budget=Budget(params=60_000), seed=5)
                    search.run()
                except Died:
                    deaths += 1
            left[0] = 10**9
            search = driven(search.study, trials=4, budget=Budget(params=60_000), seed=5)
            search.run()
            found = candidates(search.study)
            assert [c.hash for c in found if c.state == "complete"] == expected
            assert not [t for t in search.study.trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
            assert not [c for c in found if c.state == "failed"]
    assert deaths > 20


def test_interrupting_queues_what_runs(driven):
    search = driven(trials=4)
    jobs = [search.coordinator.next_job() for _ in range(3)]
    search.train(jobs[0])
    search.coordinator.interrupt("interrupted")
    assert search.coordinator.ended[0] == "interrupted"
    assert not [t for t in search.study.trials if t.state == TrialState.RUNNING]
    again = driven(search.study, trials=4)
    assert again.coordinator.recovered == 2
    resumed = [again.coordinator.next_job() for _ in range(2)]
    assert [job.architecture for job in resumed] == [job.architecture for job in jobs[1:]]
    assert [job.checkpoint for job in resumed] == [job.checkpoint for job in jobs[1:]]
    assert [job.recipe for job in resumed] == [job.recipe for job in jobs[1:]]
    assert again.coordinator.counts.failed == 0
