"""A search and an ablation of real molecules whose records hold together; only errors are made up.

Hashes, splits, weights and fingerprints are those of the molecules and configurations, so that
everything that a report compares agrees until a test changes it.
"""

import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np

from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.architecture import count_weights
from hpsearch.config.space import SearchSpace
from hpsearch.data import qm9
from hpsearch.data.split import make_split
from hpsearch.runs.messages import Completion, RunFacts
from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from hpsearch.system.installation import find_space
from support.made_up import metrics

CODE = {"versions": {"hpsearch": "0.1.0", "torch": "2.13.0"}, "git_commit": "0123456789abcdef" * 2}
SCALES = {"L1Net": 0.5, "L0Net": 1.0, "L0NetDeep": 0.75}
"""Standard deviation of the made-up residuals by arm; half of it for any other."""


def space(trials=2):
    """The quick space with vectors in every draw."""
    text = find_space("quick").read_text()
    text = text.replace("low: 0.0, high: 1.0", "low: 0.3, high: 0.7")
    return SearchSpace.parse(text, "made-up.yaml").with_overrides(trials=trials)


def facts(config):
    """What a worker would record of a run."""
    molecules = qm9.load()
    weights = count_weights(config.network, len(config.targets))
    split = make_split(molecules, config.data)
    return RunFacts(weights, "somewhere", "cpu", molecules.content_hash, split.hash, 33.0)


def search(store, searched=None, *, name="made-up", code=CODE):
    """A study of ``searched``, by default `space()`, of which the last trial is the best."""
    searched = searched or space()
    with patch("hpsearch.system.installation.code", lambda: code):
        found = launch_study(store, searched, name=name)
        for index in range(searched.trials):
            assignment = found.next()
            found.started(assignment.key, facts(assignment.config))
            for epoch in (1, 2):
                found.epoch(assignment.key, metrics(epoch, assignment.config, 2.0 / (1 + index)))
            found.finish(assignment.key, Completion(2, 2, 1.0 / (1 + index)))
    return Study.open(store, name)


def residuals(key, count):
    """Made-up residuals of a run, the same at every call."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    scale = SCALES.get(key.split("/")[0], 0.25)
    return random.normal(scale=scale, size=count).astype(np.float32).tolist()


def ablate(store, winner, *, code=CODE, validation_mae=None, repeats=1, **options):
    """An ablation of mu and U0; returns its name.

    ``validation_mae`` maps a run's key to its error; by default it is about the test error.
    """
    molecules = qm9.load()
    options = {"targets": ["mu", "U0"], "variants": ["L1Net", "L0Net", "L0NetDeep"], **options}
    with patch("hpsearch.system.installation.code", lambda: code):
        plan = AblationPlan.make(winner, stem="best", repeats=repeats, **options)
        data = DataSummary.of(molecules, winner, plan)
        ablation = launch_ablation(store, winner, plan, Path("/nowhere"), data)
        while (assignment := ablation.next()) is not None:
            key, config = assignment.key, assignment.config
            ablation.started(key, facts(config))
            found = residuals(key, data.test)
            mae = float(np.abs(found).mean())
            epoch = metrics(1, config)
            chosen = mae if validation_mae is None else validation_mae(key)
            epoch.target_maes.update(dict.fromkeys(config.targets, chosen))
            ablation.epoch(key, epoch)
            (target,) = config.targets
            outcome = Completion(1, 1, 0.5, 0.5, {target: mae}, {target: found})
            ablation.finish(key, outcome)
    return plan.name
