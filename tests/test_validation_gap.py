"""Whether a winner's validation and test errors part: in standard errors, warned of, or unknown."""

from __future__ import annotations

import pytest
from support import whole_chain
from support.made_up import run_ablation, run_search, the_winner

from hpsearch.report.checks import validation_gap_section
from hpsearch.report.render import markdown
from hpsearch.results.comparison import validation_gaps
from hpsearch.results.findings import AblationFindings
from hpsearch.store import Store


@pytest.fixture
def fresh(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/fresh.db") as store:
        yield store


def test_the_gap_is_measured_in_standard_errors(fresh):
    winner = whole_chain.search(fresh).winner()
    name = whole_chain.ablate(fresh, winner, repeats=2, validation_mae=lambda key: 0.4)
    # All arms validate alike, so the first of them is taken; its test error is about 0.399.
    gaps = validation_gaps(AblationFindings.read(fresh, name)).set_index("target")
    residuals = [whole_chain.residuals(f"L1Net/mu/{repeat}", 2000) for repeat in (0, 1)]
    of_molecule = [(abs(a) + abs(b)) / 2 for a, b in zip(*residuals, strict=True)]
    mean = sum(of_molecule) / 2000
    variance = sum((x - mean) ** 2 for x in of_molecule) / 1999
    error = (variance * (1 / 500 + 1 / 2000)) ** 0.5
    mu = gaps.loc["mu"]
    assert (mu["arm"], mu["repeats"], mu["validation_mae"]) == ("L1Net", 2, 0.4)
    assert mu["test_mae"] == pytest.approx(mean, rel=1e-6)
    assert mu["standard_error"] == pytest.approx(error, rel=1e-6)
    assert mu["standard_errors_apart"] == pytest.approx((mean - 0.4) / error, rel=1e-3)
    text = markdown([validation_gap_section(AblationFindings.read(fresh, name))])
    assert "they agree" in text
    assert "No gap is larger than 3 standard errors." in text
    assert "Warning" not in text


def test_a_winner_whose_errors_part_is_warned_of(fresh):
    winner = whole_chain.search(fresh).winner()
    errors = {"L0Net/mu/0": 0.2, "L1Net/U0/0": 0.38}
    name = whole_chain.ablate(
        fresh, winner, variants=["L1Net", "L0Net"], validation_mae=lambda key: errors.get(key, 0.9)
    )
    gaps = validation_gaps(AblationFindings.read(fresh, name)).set_index("target")
    assert gaps["arm"].to_dict() == {"mu": "L0Net", "U0": "L1Net"}
    section = validation_gap_section(AblationFindings.read(fresh, name))
    (warning,) = [remark for remark in section.remarks if remark.startswith("Warning")]
    assert "μ: the test error of L0Net" in warning
    assert "higher than the validation error that chose it, 0.2 D" in warning
    assert [row[-1] for row in section.rows] == ["they differ", "they agree"]


def test_without_residuals_the_gap_is_unknown(fresh):
    name = run_ablation(fresh, the_winner(run_search(fresh)))
    section = validation_gap_section(AblationFindings.read(fresh, name))
    assert [row[-1] for row in section.rows] == ["unknown", "unknown"]
    assert "Unknown if" in section.remarks[-1]


def test_before_any_network_is_complete_there_is_no_gap(fresh):
    fresh.begin_experiment("ablation", "begun", {})
    assert validation_gap_section(AblationFindings.read(fresh, "begun")).remarks == (
        "No network is complete yet.",
    )
