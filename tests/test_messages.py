"""What a worker reports, as text and back."""

from __future__ import annotations

import json

import pytest

from hpsearch.runs.messages import (
    Completion,
    EpochEnded,
    EpochMetrics,
    Failure,
    Finished,
    Report,
    RunFacts,
    Started,
    from_json,
    to_json,
)

FACTS = RunFacts(12, "host", "cpu", "data", "split", 2.5, 1, ("checkpoint-00002",), 3)
METRICS = EpochMetrics(1, 1e-3, 0.1, 2.0, 1.9, {"mu": 1.9}, {"mu": 0.4})


@pytest.mark.parametrize(
    "report",
    [
        Started("7", FACTS),
        Started("7", FACTS, (METRICS, METRICS)),
        EpochEnded("L0Net/mu/0", METRICS),
        Finished("7", Completion(3, 2, 1.5, 1.6, {"mu": 0.3}, {"mu": [0.1, -0.2]}, 10**9)),
        Finished("7", Failure("diverged", "not finite", epoch=1, step=2)),
    ],
    ids=lambda report: type(report).__name__,
)
def test_a_report_comes_back_as_it_was(report: Report) -> None:
    text = to_json(report)
    assert json.loads(text)["type"] == type(report).__name__
    assert from_json(text) == report


def test_an_unknown_type_is_no_report() -> None:
    text = to_json(EpochEnded("7", METRICS)).replace("EpochEnded", "EpochBegun")
    with pytest.raises(ValueError, match="EpochBegun"):
        from_json(text)
