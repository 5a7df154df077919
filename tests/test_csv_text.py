"""CSV files: a spreadsheet that opens them calculates nothing."""

from __future__ import annotations

import csv

import pandas as pd
import pytest

from hpsearch.results.csv_text import csv_text, inert


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"]
)
def test_a_formula_is_shown_as_text(cell: str) -> None:
    assert inert(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["", "-1", "+2.5e-3", "-.5", "-inf", "a=1", "62x0+0x1", "'=1", "1-2"]
)
def test_numbers_and_other_texts_stay(cell: str) -> None:
    assert inert(cell) == cell


def test_every_cell_of_a_frame_is_treated_and_numbers_keep_their_digits() -> None:
    frame = pd.DataFrame(
        {
            "name": ["=a", "b", None],
            "loss": [-0.1, 1e-17, float("nan")],
            "@kind": pd.Categorical(["+x", "y", "+x"]),
            "mixed": [["=list"], -3, "-3"],
        },
        index=pd.Index(["=i", "j", "k"], name="key"),
    )
    head, *rows = csv.reader(csv_text(frame).splitlines())
    assert head == ["key", "name", "loss", "'@kind", "mixed"]
    assert rows == [
        ["'=i", "'=a", "-0.1", "'+x", "['=list']"],
        ["j", "b", "1e-17", "y", "-3"],
        ["k", "", "", "'+x", "-3"],
    ]
    assert frame["name"].tolist()[:2] == ["=a", "b"], "the frame itself is not changed"


def test_an_index_of_several_levels_keeps_its_names() -> None:
    index = pd.MultiIndex.from_tuples([("=a", 1), ("b", 2)], names=["arm", "epoch"])
    text = csv_text(pd.DataFrame({("x", "=y"): [1.5, 2.5]}, index=index))
    assert "arm,epoch" in text
    assert "'=a,1,1.5" in text
    assert "'=y" in text
