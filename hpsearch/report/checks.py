"""The report's checks: validation against test errors, and where the numbers come from."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpsearch.config.targets import Targets
from hpsearch.report.render import Section
from hpsearch.report.text import number
from hpsearch.results.comparison import LARGE_GAP, validation_gaps
from hpsearch.results.evidence import Link
from hpsearch.results.findings import AblationFindings


def provenance_section(links: tuple[Link, ...]) -> Section:
    """Return the chain of provenance as a table, with one sentence that sums it up."""
    return Section(
        "Where the numbers come from",
        (verdict(links),),
        ("Link", "Value", "Check"),
        tuple((link.name, link.value, f"{link.state}: {link.detail}") for link in links),
    )


def verdict(links: tuple[Link, ...]) -> str:
    """Return a sentence: the chain is unbroken, or which links are broken or unknown."""
    broken = ", ".join(link.name for link in links if link.state == "broken")
    unknown = ", ".join(link.name for link in links if link.state == "unknown")
    problems = [f"is broken at {broken}"] if broken else []
    problems += [f"could not be checked at {unknown}"] if unknown else []
    return f"The chain from the molecules to the code {' and '.join(problems) or 'is unbroken'}."


# --- Validation and test errors -------------------------------------------------------------------


def validation_gap_section(findings: AblationFindings) -> Section:
    """Return the best arms' validation and test errors, with a warning if they differ too much."""
    gaps = validation_gaps(findings)
    title = "Validation and test errors of the best arms"
    if gaps.empty:
        return Section(title, ("No network is complete yet.",))
    rows = tuple(_row(gap, findings.targets) for gap in gaps.to_dict("records"))
    header = (
        "Target",
        "Unit",
        "Arm",
        "Validation",
        "Test",
        "Standard error",
        "Gap in standard errors",
        "Verdict",
    )
    return Section(title, (_METHOD, *_warnings(gaps, findings.targets)), header, rows)


_METHOD = (
    "For each target, the arm with the lowest validation error, averaged over its completed "
    "repeats. The gap is test minus validation, in standard errors s·√(1/validation + 1/test "
    "molecules), where s is the standard deviation of the absolute errors of the test molecules. "
    "The validation molecules chose the epoch, so a slightly higher test error is expected."
)


def _row(gap: dict[Any, Any], targets: Targets) -> tuple[str, ...]:
    of, apart = targets[gap["target"]], gap["standard_errors_apart"]
    known = not pd.isna(apart)
    return (
        of.symbol,
        of.unit,
        gap["arm"],
        number(gap["validation_mae"]),
        number(gap["test_mae"]),
        number(gap["standard_error"]),
        f"{apart:+.1f}" if known else "",
        ("they differ" if abs(apart) > LARGE_GAP else "they agree") if known else "unknown",
    )


def _warnings(gaps: pd.DataFrame, targets: Targets) -> tuple[str, ...]:
    known = gaps.dropna(subset=["standard_errors_apart"])
    large = known[known["standard_errors_apart"].abs() > LARGE_GAP]
    said = [_warning(gap, targets) for gap in large.to_dict("records")]
    if len(known) < len(gaps):
        said.append(
            "Unknown if the errors of single test molecules were not recorded, because an earlier "
            "version trained the network."
        )
    if large.empty and len(known) == len(gaps):
        said.append(f"No gap is larger than {LARGE_GAP:.0f} standard errors.")
    return tuple(said)


def _warning(gap: dict[Any, Any], targets: Targets) -> str:
    of = targets[gap["target"]]
    apart = gap["standard_errors_apart"]
    side = "higher" if apart > 0 else "lower"
    return (
        f"Warning: {of.symbol}: the test error of {gap['arm']}, {number(gap['test_mae'])} "
        f"{of.unit}, is {abs(apart):.1f} standard errors {side} than the validation "
        f"error that chose it, {number(gap['validation_mae'])} {of.unit}. So the validation "
        "molecules do not represent new ones. Use more of them, or another split."
    )
