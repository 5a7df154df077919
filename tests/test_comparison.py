"""The comparison of arms, by hand from a store's cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.made_up import FACTS, metrics

from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.export import Winner
from hpsearch.report import comparison_sections, interval_table
from hpsearch.results.comparison import comparison_table, over_targets, pairs_of
from hpsearch.results.findings import AblationFindings
from hpsearch.runs.messages import Completion
from hpsearch.store import Store
from hpsearch.system.installation import find_space

# mu differs between the arms by 0.25 in every repeat, up to a few hundredths; alpha hardly.
MAES = {
    ("L1Net", "mu"): (0.50, 0.52, 0.54),
    ("L0Net", "mu"): (0.75, 0.78, 0.78),
    ("L1Net", "alpha"): (1.00, 1.30, 1.10),
    ("L0Net", "alpha"): (1.20, 1.25, 1.15),
}
RESIDUALS = {"L1Net": [0.1, -0.2, 0.3, -0.4], "L0Net": [0.2, 0.2, -0.2, 0.2]}


def fill(store: Store, *, targets: list[str], repeats: int, maes=MAES) -> str:
    winner = Winner.read(find_space("paper_l1net"))
    plan = AblationPlan.make(
        winner, targets=targets, variants=["L1Net", "L0Net"], repeats=repeats, name="compared"
    )
    data = DataSummary(130_831, 1000, 500, 4, "data", "split", {"mean": {}, "composition": {}})
    ablation = launch_ablation(store, winner, plan, Path("/nowhere"), data)
    while (assignment := ablation.next()) is not None:
        arm, name, repeat = assignment.key.split("/")
        ablation.started(assignment.key, FACTS)
        ablation.epoch(assignment.key, metrics(1, assignment.config))
        mae = maes[arm, name][int(repeat)]
        outcome = Completion(1, 1, 0.5, 0.5, {name: mae}, {name: RESIDUALS[arm]})
        ablation.finish(assignment.key, outcome)
    store.leave()
    return plan.name


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def test_intervals_are_of_the_repeats(store: Store) -> None:
    table = interval_table(store, fill(store, targets=["mu"], repeats=3))
    row = table[table["arm"] == "L1Net"].iloc[0]
    assert (row["target"], row["unit"], row["repeats"]) == ("mu", "D", 3)
    assert row["mean"] == pytest.approx(0.52)
    half = stats.t.ppf(0.975, 2) * 0.02 / math.sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((0.52 - half, 0.52 + half))


def test_arms_are_compared_by_pairs_of_one_repeat(store: Store) -> None:
    table = comparison_table(
        AblationFindings.read(store, fill(store, targets=["mu", "alpha"], repeats=3))
    )
    assert table["first"].tolist() == ["L1Net"] * 2
    assert table["second"].tolist() == ["L0Net"] * 2
    mu, alpha = table.to_dict("records")
    differences = np.array([-0.25, -0.26, -0.24])
    assert mu["difference"] == pytest.approx(-0.25)
    assert mu["relative"] == pytest.approx(-0.25 / 0.77)
    expected = stats.ttest_1samp(differences, 0.0)
    assert mu["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (mu["low"], mu["high"]) == pytest.approx((low, high))
    # Two targets: the smaller p counts twice.
    assert mu["p_holm"] == pytest.approx(2 * expected.pvalue)
    assert mu["verdict"] == "significant: L1Net is better"
    assert alpha["p_holm"] == pytest.approx(alpha["p"])
    assert alpha["verdict"].startswith("not significant: ")
    assert alpha["verdict"].endswith(" more repeats needed")
    # |residuals| differ by -0.1, 0, 0.1, 0.2 from molecule to molecule, alike in every repeat.
    spread = np.std([-0.1, 0.0, 0.1, 0.2], ddof=1) / 2
    assert mu["molecule_error"] == pytest.approx(spread, rel=1e-5)


def test_one_repeat_is_open_and_has_no_interval(store: Store) -> None:
    name = fill(store, targets=["mu"], repeats=1)
    row = comparison_table(AblationFindings.read(store, name)).iloc[0]
    assert row["verdict"] == "not tested: at least two repeats are needed"
    assert row.isna()["p"]
    [intervals, differences, _] = comparison_sections(store, name)
    assert intervals.rows == (("μ", "D", "0.5 (1 repeat)", "0.75 (1 repeat)"),)
    assert differences.rows[0][4] == ""


def test_the_sections_say_what_the_tables_hold(store: Store) -> None:
    name = fill(store, targets=["mu"], repeats=3)
    [intervals, differences, over] = comparison_sections(store, name)
    half = stats.t.ppf(0.975, 2) * 0.02 / math.sqrt(3)
    assert intervals.rows[0][2] == f"0.52 ± {half:.4g} (3)"
    assert differences.rows[0][0] == "L1Net − L0Net"
    assert differences.rows[0][5] == "-32.5 %"
    assert over.rows[0][3] == ""
    assert "cannot be below 0.05" in over.rows[0][4]


def test_energies_count_once_where_asked(store: Store) -> None:
    targets = ["mu", "alpha", "homo", "lumo", "gap", "U0", "U", "H", "G"]
    maes = {
        (arm, name): (base + 0.01 * place,) * 2
        for arm, base in (("L1Net", 1.0), ("L0Net", 2.0))
        for place, name in enumerate(targets)
    }
    name = fill(store, targets=targets, repeats=2, maes=maes)
    comparisons = comparison_table(AblationFindings.read(store, name))
    every, once = (over_targets(comparisons, distinct=d).iloc[0] for d in (False, True))
    assert (every["targets"], once["targets"]) == (9, 6)
    assert every["p"] == pytest.approx(2 / 2**9)
    assert once["p"] == pytest.approx(2 / 2**6)


def test_the_pairs_are_table_1_s_and_every_other_arm_with_the_l0net() -> None:
    assert pairs_of(("L1Net", "L0Net", "L0NetDeep", "Mine")) == [
        ("L1Net", "L0Net"),
        ("L0NetDeep", "L0Net"),
        ("L1Net", "L0NetDeep"),
        ("Mine", "L0Net"),
    ]
    assert pairs_of(("L1Net", "Mine")) == []
