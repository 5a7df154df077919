"""A search and an ablation whose numbers are made up, recorded as a launch records them."""

from pathlib import Path

from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.space import SearchSpace
from hpsearch.runs.messages import Completion, EpochMetrics, Failure, RunFacts
from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from hpsearch.system.installation import find_space

FACTS = RunFacts(4321, "somewhere", "cpu", "data", "split", 33.0)
ERRORS = {"L1Net": 0.5, "L0Net": 1.0, "L0NetDeep": 0.75}
WEIGHTS = {"L1Net": 1000, "L0Net": 2000, "L0NetDeep": 3000}
BASELINES = {"mean": {"mu": 7.25, "U0": 8123.4}, "composition": {"mu": 6.125, "U0": 777.0}}


def metrics(epoch, config, loss=1.0):
    names = config.targets
    return EpochMetrics(
        epoch,
        1e-3,
        2.5,
        loss,
        loss / epoch,
        dict.fromkeys(names, loss / epoch / len(names)),
        dict.fromkeys(names, 10.0 / epoch),
    )


def run_search(store, trials=3):
    """A study whose first trial diverged and whose trial k has the loss 1/k."""
    space = SearchSpace.load(find_space("quick")).with_overrides(trials=trials)
    search = launch_study(store, space, name="made-up")
    for index in range(trials + 1):
        assignment = search.next()
        search.started(assignment.key, FACTS)
        if index == 0:
            failure = Failure("diverged", "the loss is not finite at step 7 | x", epoch=1, step=7)
            search.finish(assignment.key, failure)
            continue
        for epoch in (1, 2):
            search.epoch(assignment.key, metrics(epoch, assignment.config, 2.0 / index))
        search.finish(assignment.key, Completion(2, 2, 1.0 / index))
    assert search.finished
    return Study.open(store)


def the_winner(study):
    """The search's winner, with vectors whatever was drawn."""
    config = study.winner().config.to_dict()
    config["network"].update(featurization_scalars=10, featurization_vectors=5)
    return study.winner().model_copy(
        update={"config": type(study.winner().config).from_dict(config)}
    )


def run_ablation(store, winner, *, skip=(), fail=(), train=1000, **options):
    """An ablation of mu and U0 whose errors are ``ERRORS``, times ten for U0."""
    options = {"targets": ["mu", "U0"], "variants": ["L1Net", "L0Net", "L0NetDeep"], **options}
    plan = AblationPlan.make(winner, stem="best", **options)
    data = DataSummary(130_831, train, 500, 2000, "data", "split", BASELINES)
    ablation = launch_ablation(store, winner, plan, Path("/nowhere"), data)
    while (assignment := ablation.next()) is not None:
        variant, target, repeat = assignment.key.split("/")
        if assignment.key in skip:
            continue
        ablation.started(assignment.key, RunFacts(WEIGHTS[variant], "h", "cpu", "data", "split", 3))
        ablation.epoch(assignment.key, metrics(1, assignment.config))
        ablation.epoch(assignment.key, metrics(2, assignment.config))
        error = ERRORS[variant] * (10 if target == "U0" else 1) + 0.125 * int(repeat)
        outcome = Completion(2, 2, 0.5, 0.5, {target: error})
        if assignment.key in fail:
            outcome = Failure("diverged", "no end of losses", epoch=1, step=2)
        ablation.finish(assignment.key, outcome)
    return plan.name
