"""A search and an ablation whose numbers are made up, recorded as a launch records them."""

from pathlib import Path

import yaml

from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.space import SearchSpace
from hpsearch.runs.messages import Completion, EpochMetrics, Failure, RunFacts
from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from support.commands import PLAIN_QUICK

FACTS = RunFacts(4321, "somewhere", "cpu", "data", "split", 33.0)
ERRORS = {"L1Net": 0.5, "L0Net": 1.0, "L0NetDeep": 0.75}
WEIGHTS = {"L1Net": 1000, "L0Net": 2000, "L0NetDeep": 3000}
BASELINES = {"mean": {"mu": 7.25, "U0": 8123.4}, "composition": {"mu": 6.125, "U0": 777.0}}


OWN_TARGETS = {
    "energy": {"unit": "eV", "report_in": "meV", "references": "fit"},
    "gap": {"unit": "eV", "extensive": False, "symbol": "E_gap"},
}
"""Targets of a user's own molecules, of whose file there is none."""


def own_space(targets=OWN_TARGETS, trials=3, **data):
    """The quick space with a user's own molecules and ``targets``; ``data`` changes its section."""
    content = yaml.safe_load(PLAIN_QUICK)
    content["trials"] = trials
    content["data"] |= {
        "molecules": "/private/folder/cells.extxyz",
        "targets": targets,
        "method": "PBE0/def2-TZVP",
        "elements": ["H", "C", "S"],
        **data,
    }
    return SearchSpace.parse(
        yaml.safe_dump(content, allow_unicode=True, sort_keys=False), "own.yaml"
    )


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


def run_search(store, trials=3, space=None):
    """A study whose first trial diverged and whose trial k has the loss 1/k."""
    space = space or SearchSpace.parse(PLAIN_QUICK, "quick.yaml").with_overrides(trials=trials)
    trials = space.trials
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


def run_ablation(
    store, winner, *, skip=(), fail=(), train=1000, baselines=BASELINES, residuals=None, **options
):
    """An ablation of mu and U0 whose errors are ``ERRORS``, times ten for U0.

    ``residuals`` maps a run's key to its residuals; without it none are recorded.
    """
    options = {"targets": ["mu", "U0"], "variants": ["L1Net", "L0Net", "L0NetDeep"], **options}
    plan = AblationPlan.make(winner, stem="best", **options)
    data = DataSummary(130_831, train, 500, 2000, "data", "split", baselines)
    ablation = launch_ablation(store, winner, plan, Path("/nowhere"), data)
    while (assignment := ablation.next()) is not None:
        variant, target, repeat = assignment.key.split("/")
        if assignment.key in skip:
            continue
        ablation.started(assignment.key, RunFacts(WEIGHTS[variant], "h", "cpu", "data", "split", 3))
        ablation.epoch(assignment.key, metrics(1, assignment.config))
        ablation.epoch(assignment.key, metrics(2, assignment.config))
        error = ERRORS[variant] * (10 if target == "U0" else 1) + 0.125 * int(repeat)
        recorded = {} if residuals is None else {target: residuals(assignment.key)}
        outcome = Completion(2, 2, 0.5, 0.5, {target: error}, recorded)
        if assignment.key in fail:
            outcome = Failure("diverged", "no end of losses", epoch=1, step=2)
        ablation.finish(assignment.key, outcome)
    return plan.name
