"""Table 1 from a store that is filled with made-up numbers, and the paper's own recomputed."""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from support.made_up import ERRORS, WEIGHTS, run_ablation, run_search, the_winner

from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig
from hpsearch.config.space import SearchSpace
from hpsearch.config.targets import TARGET_NAMES, TARGETS
from hpsearch.data import qm9
from hpsearch.report import search_table, table1, table1_sections
from hpsearch.report.document import Document
from hpsearch.report.render import (
    Figure,
    Figures,
    Section,
    html_document,
    latex,
    latex_escape,
    markdown,
    plain,
)
from hpsearch.report.text import number, percent, value
from hpsearch.report.write import write_files, write_report
from hpsearch.results import published
from hpsearch.results.findings import Findings
from hpsearch.results.status import read_status
from hpsearch.results.subject import subject
from hpsearch.results.tables import averages
from hpsearch.search.study import Study
from hpsearch.store import Store
from hpsearch.system.errors import HpsearchError, InputError
from hpsearch.system.installation import find_space
from hpsearch.terminal.lines import (
    WIDEST_MOLECULE_ANGSTROM,
    idle_line,
    molecule_lines,
    winner_lines,
)
from hpsearch.terminal.status import status_lines

PRINTED = {
    "mu": (-0.501, 0.055, -0.048, -0.556),
    "alpha": (-0.235, 0.000, -0.027, -0.235),
    "homo": (-0.022, -0.038, 0.721, 0.015),
    "lumo": (-0.133, -0.068, -2.571, -0.064),
    "gap": (-0.040, -0.035, -0.330, -0.005),
    "r2": (-0.389, -0.340, -0.028, -0.048),
    "zpve": (-0.135, -0.002, -0.239, -0.132),
    "U0": (-0.325, -0.073, -5.023, -0.252),
    "U": (-0.304, -0.018, -5.699, -0.287),
    "H": (-0.316, -0.012, -6.386, -0.304),
    "G": (-0.303, -0.065, -4.755, -0.237),
    "Cv": (-0.114, 0.057, -0.006, -0.171),
}
"""The right-hand columns as printed in Table 1 of arXiv:2008.08461."""

HALF_DIGIT = 0.0005 + 1e-9
"""The paper rounded to three decimals, after it had computed."""


# --- The paper's numbers


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_the_papers_columns_recompute_from_its_errors(name):
    errors = published.MAES[name]
    computed = published.compare(errors)
    # What the rounding of two errors and of their quotient can amount to.
    slack = HALF_DIGIT + 2 * HALF_DIGIT * (1 + abs(PRINTED[name][3])) / errors["L0Net"]
    for column, printed in zip(published.COMPARISONS, PRINTED[name], strict=True):
        allowed = 3 * HALF_DIGIT if column.startswith("delta") else slack
        assert computed[column] == pytest.approx(printed, abs=allowed), column


def test_the_last_column_divides_by_the_l0nets_error():
    # U0: by L0NetDeep's error it would be -0.272.
    assert published.compare(published.MAES["U0"])["relative_L1_Deep"] == pytest.approx(
        (13.464 - 18.487) / 19.943
    )
    assert PRINTED["U0"][3] == -0.252


def test_the_papers_averages_are_the_abstracts():
    columns = [published.compare(published.MAES[name]) for name in TARGET_NAMES]
    assert sum(c["relative_L1_L0"] for c in columns) / 12 == pytest.approx(-0.23, abs=0.005)
    assert sum(c["relative_Deep_L0"] for c in columns) / 12 == pytest.approx(-0.04, abs=0.005)


def test_a_comparison_without_its_networks_is_left_out():
    assert published.compare({}) == {}
    assert set(published.compare({"L1Net": 1.0, "L0Net": 2.0})) == {"relative_L1_L0"}
    assert set(published.compare({"L1Net": 1.0, "L0NetDeep": 2.0})) == {"delta_L1_Deep"}
    assert "relative_L1_L0" not in published.compare({"L1Net": 1.0, "L0Net": 0.0})


# --- A store of made-up numbers


def sections(store, name=None):
    return Document.of(Findings.read(store, name)).sections


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A store with one search and one complete ablation of two repeats."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"
    with Store.create(url) as store:
        study = run_search(store)
        run_ablation(store, the_winner(study), repeats=2)
    return url


@pytest.fixture
def store(url):
    with Store.open(url) as store:
        yield store


@pytest.fixture
def fresh(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/fresh.db") as store:
        yield store


def the_ablation(store):
    return subject(store).ablation


# --- Table 1


def test_table_1_holds_ours_and_the_papers(store):
    table = table1(store, the_ablation(store))
    assert list(table.index) == ["mu", "U0"]
    mu = table.loc["mu"]
    assert (mu["symbol"], mu["unit"], mu["train_molecules"]) == ("μ", "D", 1000)
    assert (mu["mean"], mu["composition"]) == (7.25, 6.125)
    # Repeats 0 and 1 differ by 0.125.
    assert (mu["L1Net"], mu["L0Net"], mu["L0NetDeep"]) == (0.5625, 1.0625, 0.8125)
    assert mu["relative_L1_L0"] == (0.5625 - 1.0625) / 1.0625
    assert mu["relative_Deep_L0"] == (0.8125 - 1.0625) / 1.0625
    assert mu["delta_L1_Deep"] == 0.5625 - 0.8125
    assert mu["relative_L1_Deep"] == (0.5625 - 0.8125) / 1.0625
    assert [mu[f"{arm}_weights"] for arm in WEIGHTS] == list(WEIGHTS.values())
    assert [mu[f"{arm}_runs"] for arm in WEIGHTS] == [2, 2, 2]
    assert [mu[f"paper_{name}"] for name in published.NETWORKS] == [
        0.033,
        0.021,
        0.038,
        0.043,
        0.086,
        0.091,
    ]
    assert mu["paper_relative_L1_L0"] == (0.043 - 0.086) / 0.086


def test_percentages_are_averaged_and_errors_are_not(store):
    table = table1(store, the_ablation(store))
    means = averages(table)
    assert means["relative_L1_L0"] == pytest.approx(table["relative_L1_L0"].mean())
    assert means["paper_relative_L1_L0"] == pytest.approx(
        ((0.043 - 0.086) / 0.086 + (13.464 - 19.943) / 19.943) / 2
    )
    assert not [name for name in means if "relative" not in name]


def test_what_has_not_been_run_is_blank_and_not_guessed(fresh):
    winner = the_winner(run_search(fresh))
    skip, fail = ["L0Net/mu/0"], ["L0NetDeep/U0/0"]
    name = run_ablation(fresh, winner, skip=skip, fail=fail)
    table = table1(fresh, name)
    assert table["L0Net"].isna().tolist() == [True, False]
    assert table["relative_L1_L0"].isna().tolist() == [True, False]
    assert table["delta_L1_Deep"].isna().tolist() == [False, True]
    assert table["L0Net_runs"].isna().tolist() == [True, False]
    assert averages(table)["relative_L1_L0"] == table.loc["U0", "relative_L1_L0"]
    text = markdown(sections(fresh))
    (average,) = [line for line in text.splitlines() if line.startswith("| average")]
    cells = [cell.strip() for cell in average.split("|")]
    assert cells[1] == "average"
    # U0 alone has both nets, mu alone the L1Net and the Deep; the paper has both targets.
    assert cells[3] == f"{percent(table.loc['U0', 'relative_L1_L0'])} (of 1)"
    assert cells[7].endswith("(of 2)")
    assert "no end of losses" in text
    assert "nan" not in text.lower()
    assert "<na>" not in text.lower()


def test_arms_that_were_not_planned_are_empty_columns(fresh):
    winner = the_winner(run_search(fresh))
    table = table1(fresh, run_ablation(fresh, winner, variants=["L1Net"]))
    assert table["L0Net"].isna().all()
    assert averages(table).keys() == {f"paper_{c}" for c in published.COMPARISONS if "rel" in c}


def test_more_arms_than_table_1_get_columns_of_their_own(fresh):
    winner = the_winner(run_search(fresh))
    WEIGHTS["L0NetOutdeep"], ERRORS["L0NetOutdeep"] = 2500, 0.9
    try:
        table = table1(fresh, run_ablation(fresh, winner, variants=["L0NetOutdeep"]))
    finally:
        del WEIGHTS["L0NetOutdeep"], ERRORS["L0NetOutdeep"]
    assert table["L0NetOutdeep"].tolist() == [0.9, 9.0]


def test_averages_over_the_same_targets_say_so_once(store):
    text = markdown(table1_sections(store, the_ablation(store)))
    assert "| average of 2 |" in text
    assert "(of " not in text


def test_vectors_are_said_to_keep_the_components_not_the_features(store):
    text = markdown(table1_sections(store, the_ablation(store)))
    assert "as many feature components, but more weights" in text
    assert "number of features" not in text


def test_an_edited_export_is_not_called_the_trial(fresh):
    winner = the_winner(run_search(fresh))
    edited = winner.provenance.model_copy(update={"edited": True})
    name = run_ablation(fresh, winner.model_copy(update={"provenance": edited}))
    text = markdown(sections(fresh, name))
    assert "; edited after export, so it is no longer the network of that trial." in text


def test_an_export_as_it_was_is_the_trial(store):
    text = markdown(sections(store))
    assert "of the study made-up, exported" in text
    assert "edited" not in text


def test_sizes_beside_a_split_file_are_not_told(fresh):
    winner = the_winner(run_search(fresh))
    config = winner.config.model_copy(update={"data": DataConfig(split_file="/mine.json")})
    by_hand = Winner(name="mine", config=config)
    name = run_ablation(fresh, by_hand, train=77)
    text = markdown(sections(fresh, name))
    assert "Trained on 77 molecules and tested on " in text
    assert "Another 500 molecules chose the epoch." in text
    assert "data.split\\_file | /mine.json" in text
    assert "109,000 |" not in text
    assert "data.train" not in text


# --- The terminal


def test_the_widest_molecule_is_as_wide_as_we_say():
    molecules, counts = qm9.load(), qm9.load().atom_counts
    widest = 0.0
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        for part in np.array_split(rows, max(1, len(rows) // 2_000)):
            atoms = molecules.offsets[part][:, None] + np.arange(count)
            at = molecules.positions[atoms].astype(np.float32)
            apart = np.square(at[:, :, None] - at[:, None]).sum(-1)
            widest = max(widest, float(apart.max()) ** 0.5)
    assert round(widest, 2) == WIDEST_MOLECULE_ANGSTROM


def test_a_space_of_cutoffs_beyond_every_molecule_is_told_so():
    line = idle_line(SearchSpace.load(find_space("table3")))
    assert "cutoffs up to 30 Å, but no molecule is wider than 12.04 Å" in line
    assert "up to 60 % of a trial's radial functions are idle" in line
    assert idle_line(SearchSpace.load(find_space("quick"))) is None


def test_status_says_nan_of_nothing(store):
    first, best, *lines = status_lines(read_status(store, "made-up"), "here", "hpsearch status")
    assert first == "study made-up in here: 3 of 3 complete, 1 failed"
    assert best == (
        "best so far: trial 3, validation loss 0.3333, 1.0 % of the loss of predicting zero "
        "(100 % = nothing learned)"
    )
    assert len(lines) == 1 + 4
    assert lines[1].endswith("the loss is not finite at step 7 | x")
    for line in lines[2:]:
        assert line.split()[1] == "complete"
        assert line.endswith("4,321")
    assert not [line for line in lines if "nan" in line.lower() and "finite" not in line]


def test_the_winner_stands_beside_the_baselines(store, tmp_path):
    winner = the_winner(Study.open(store, "made-up"))
    first, blank, head, *rows, legend, last = winner_lines(winner, qm9.load())
    assert first == (
        "winner: trial 3, validation loss 0.3333, 1.0 % of the loss of predicting zero "
        "(100 % = nothing learned)"
    )
    assert legend.startswith("composition: linear fit on the counts of each element")
    assert (blank, head.split()[:4]) == ("", ["target", "winner", "composition", "mean"])
    assert [row.split()[0] for row in rows] == list(winner.config.targets)
    assert all(row.split()[1] == "5" for row in rows)
    assert last.endswith(" of 12 targets")


def test_the_molecules_are_described_with_their_split():
    first, content, split, blank, note, head, *rows = molecule_lines(
        qm9.load(), DataConfig(train_size=300, validation_size=20, test_size=40)
    )
    assert first.startswith("130,831 molecules of 3-29 atoms, mean 18.0")
    assert content.startswith("content ")
    assert split.endswith(": 300 training, 20 validation, 40 test molecules")
    assert (blank, "Eq. 15" in note, head.split()[0]) == ("", True, "target")
    assert [row.split()[0] for row in rows] == list(TARGET_NAMES)


# --- The search


def test_the_trials_are_told_with_their_reasons(store):
    table = search_table(Study.open(store, "made-up"))
    assert table["state"].tolist() == ["failed", "complete", "complete", "complete"]
    assert table["value"].iloc[1:].tolist() == [1.0, 0.5, pytest.approx(1 / 3)]
    assert table["reason"].iloc[0] == "the loss is not finite at step 7 | x"
    assert table["weights"].tolist() == [4321] * 4
    assert table["seconds_per_epoch"].iloc[1] == 2.5
    assert "learning_rate" in table.columns


# --- What a report is about


def test_by_default_the_report_is_of_the_last_launch(fresh):
    with pytest.raises(InputError, match="has no study"):
        subject(fresh)
    winner = the_winner(run_search(fresh))
    assert subject(fresh).ablation is None
    name = run_ablation(fresh, winner)
    assert (subject(fresh).study, subject(fresh).ablation) == ("made-up", name)
    assert subject(fresh, "made-up") == subject(fresh, name) == subject(fresh)
    with pytest.raises(InputError, match=f"in the store .*: made-up, {name}; got 'nothing'"):
        subject(fresh, "nothing")


def test_a_configuration_written_by_hand_has_no_study(fresh):
    study = run_search(fresh)
    by_hand = Winner(name="mine", config=the_winner(study).config, assumed=("network.residual",))
    name = run_ablation(fresh, by_hand)
    assert subject(fresh).study is None
    text = markdown(sections(fresh, name))
    assert "mine was written by hand" in text
    assert "does not state them: network.residual" in text.replace("\\", "")


# --- Files


def test_the_files_hold_the_numbers(store, tmp_path):
    written = write_report(store, tmp_path / "out" / "report")
    assert {path.name for path in written.paths} == {
        "report.html",
        "report.md",
        "model_card_mu.md",
        "model_card_U0.md",
        "table1.csv",
        "cells.csv",
        "trials.csv",
        "intervals.csv",
        "comparisons.csv",
        "table1.tex",
        "comparisons.tex",
        "epochs.csv",
        "target_errors.csv",
        "importances.csv",
        "runs.csv",
    }
    assert sorted(written.paths) == sorted((tmp_path / "out" / "report").iterdir())
    page = (tmp_path / "out/report/report.html").read_text()
    for text in (
        "0.5625",
        "1.062",
        "0.8125",
        "-47.1 %",
        "8,123",
        "6.125",
        "1,000",
        "13.46",
        "-32.5 %",
    ):
        assert f"<td>{text}</td>" in page, text
    for remark in ("109,000", "20,831", "23,885", "cannot be compared", "not comparable"):
        assert remark in page


def test_csv_keeps_every_digit(store, tmp_path):
    write_report(store, tmp_path, formats=["csv"])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table1.csv").read_text())))
    assert [row["target"] for row in rows] == ["mu", "U0"]
    assert float(rows[0]["relative_L1_L0"]) == (0.5625 - 1.0625) / 1.0625
    cells = list(csv.DictReader(io.StringIO((tmp_path / "cells.csv").read_text())))
    assert len(cells) == 12
    assert {path.name for path in tmp_path.iterdir()} == {
        *("table1.csv", "cells.csv", "trials.csv"),
        *("intervals.csv", "comparisons.csv", "importances.csv"),
        *("epochs.csv", "target_errors.csv", "runs.csv"),
    }
    epochs = pd.read_csv(tmp_path / "epochs.csv")
    assert len(epochs) == len(store.epochs())
    errors = pd.read_csv(tmp_path / "target_errors.csv")
    assert errors["mae"].tolist() == store.target_errors()["mae"].tolist()
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert trials["failure"].fillna("").tolist() == ["diverged", "", "", ""]
    runs = pd.read_csv(tmp_path / "runs.csv")
    stored = store.runs()
    assert sorted(runs["key"].astype(str)) == sorted(stored["key"])
    vectors = {
        str(key): configuration["network"]["featurization_vectors"]
        for key, configuration in zip(stored["key"], stored["configuration"], strict=True)
    }
    written = runs["network.featurization_vectors"]
    assert dict(zip(runs["key"].astype(str), written, strict=True)) == vectors


def test_pages_come_with_html_and_their_problems_are_told(store, tmp_path):
    asked = []

    def pages(_, name, kind):
        asked.append(name)
        html = f"<b>curves of {name}</b>"
        drawn = Figure(f"{kind}-curves", "Learning <curves>", html, "epoch,loss\n1,2.5\n")
        return Figures("<script>once</script>", (drawn,), ("broken.py:3: oops",))

    written = write_report(store, tmp_path, formats=["html"], pages=pages)
    assert asked == [the_ablation(store), "made-up"]
    assert written.problems == ("broken.py:3: oops",)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text()
    assert text.count("<script>once</script>") == 1
    for name, kind in zip(asked, ("ablation", "study"), strict=True):
        assert f"<figure><b>curves of {name}</b></figure>" in text
        assert f'<a href="#figure-{kind}-curves">Learning &lt;curves&gt; ({kind})</a>' in text
        assert f'<h2 id="figure-{kind}-curves">Learning &lt;curves&gt; ({kind})</h2>' in text
    assert "figcaption>" not in text
    assert write_report(store, tmp_path / "x", formats=["md"], pages=pages).problems == ()


def test_the_rows_behind_each_figure_lie_beside_the_report(store, tmp_path):
    def pages(_, name, kind):
        known = Figure(f"{kind}-curves", "Curves", "<b></b>", f"of\n{name}\n")
        return Figures("", (known, Figure(f"{kind}-mine", "Mine", "<b></b>")))

    write_report(store, tmp_path, formats=["html", "csv"], pages=pages)
    names = sorted(path.name for path in tmp_path.glob("figure-*"))
    assert names == ["figure-ablation-curves.csv", "figure-study-curves.csv"]
    assert (tmp_path / names[1]).read_text() == "of\nmade-up\n"
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r'<figcaption>.*?href="(.*?)"', text) == names
    write_report(store, tmp_path / "csv", formats=["csv"], pages=pages)
    assert (tmp_path / "csv" / names[0]).exists()


def test_a_wide_table_lies_on_its_side_on_paper():
    narrow = Section("Narrow", header=("a",) * 8, rows=(("1",) * 8,))
    wide = Section("Wide", header=("a",) * 9, rows=(("1",) * 9,))
    page = html_document("t", [narrow, wide])
    assert "<section><h2>Narrow</h2>" in page
    assert '<section class="broad"><h2>Wide</h2>' in page
    assert "@page broad { size: A4 landscape" in page


def test_a_full_training_set_is_not_called_incomparable(fresh):
    winner = the_winner(run_search(fresh))
    run_ablation(fresh, winner, train=109_000)
    text = markdown(sections(fresh))
    assert "cannot be compared" not in text
    assert "20,831 molecules, not 23,885" in text


def test_an_unknown_format_is_refused_and_nothing_written(store, tmp_path):
    with pytest.raises(InputError, match="one of html, csv, md, latex; got 'pdf'"):
        write_report(store, tmp_path / "out", formats=["pdf"])
    assert not (tmp_path / "out").exists()


def test_a_report_over_an_old_one_replaces_its_files_and_no_others(store, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "report.md").write_text("old")
    write_report(store, tmp_path, formats=["md"])
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "report.md").read_text().startswith("# hpsearch report")


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="must go into a folder"):
        write_files(tmp_path / "taken", {})
    with pytest.raises(HpsearchError, match="must be writable"):
        write_files(tmp_path / "taken" / "inner", {})


# --- Rendering

ODD = Section(
    "50 % of_it",
    ("a & b <script> $x$ {y} #1 ~ ^ \\ |",),
    ("Target", "a|b"),
    (("⟨R²⟩", "[1]"), ("C_v", "<b>a₀³")),
)


def test_html_is_escaped():
    page = html_document("<t>", [ODD])
    assert "<script>" not in page
    assert "<td>&lt;b&gt;a₀³</td>" in page
    assert "<title>&lt;t&gt;</title>" in page


def test_a_cell_cannot_break_a_markdown_table():
    lines = markdown([ODD]).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


HOSTILE = (
    "[a](http://evil) ![b](http://evil) <img src=x> &lt;b&gt; http://evil www.evil.org ~~~ \\[c]"
)


def test_no_name_becomes_a_link_an_image_or_html():
    section = Section(HOSTILE, (HOSTILE,), (HOSTILE,), ((HOSTILE,),))
    page = MarkdownIt("commonmark").enable("table").render(markdown([section]))
    assert not re.search("<(a|img|code|pre|b)[ >]", page)
    assert html.unescape(page).count(HOSTILE) == 4
    assert not re.search(r"[^\\]\[|[a-z]://|www\.", markdown([section]))


GROUPED = Section("t", (), ("a", "b", "c", "d"), (("1", "2", "3", "4"),), ("", "x", "x", "y"))


def test_groups_stand_above_their_columns():
    page = html_document("t", [GROUPED])
    assert '<th colspan="1"></th><th colspan="2">x</th><th colspan="1">y</th>' in page
    assert "| a | b (x) | c (x) | d (y) |" in markdown([GROUPED])
    assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{x}" in latex([GROUPED])
    check_latex(latex([GROUPED]))


def test_the_terminal_gets_aligned_columns():
    section = Section("t", (), ("a", "b", "cc"), (("long", "1", ""),), ("", "x", "a wide group"))
    assert plain(section) == (
        "t\n"
        "      x  a wide group\n"
        "a     b            cc\n"
        "long  1\n"
    )  # fmt: skip


def test_latex_escapes_what_is_special():
    assert latex_escape("%_&#${}~^\\") == (
        r"\%\_\&\#\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert latex_escape("⟨R²⟩ a₀³") == r"$\langle$R$^2$$\rangle$ a$_0$$^3$"
    assert latex_escape("字") == "?"


def test_every_target_symbol_and_unit_has_latex():
    for target in TARGETS:
        assert "?" not in latex_escape(f"{target.symbol} {target.unit}")


def columns_of(row):
    spans = [int(count) for count in re.findall(r"\\multicolumn\{(\d+)\}", row)]
    return sum(spans) or re.sub(r"\\&", "", row).count("&") + 1


def check_latex(text):
    """Plain LaTeX that balances: braces, environments, math, and the cells of every row."""
    bare = re.sub(r"\\[\\{}$&#%_]", "", text.replace(r"\\", ""))
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert text.isascii()
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)
    for body in re.findall(r"\\begin\{tabular\}\{(.*?)\\end\{tabular\}", text, re.DOTALL):
        specification, _, rows = body.partition("}")
        cells = [columns_of(row) for row in rows.split(r"\\")[:-1]]
        assert set(cells) == {len(specification)}


def test_the_latex_balances(store, tmp_path):
    write_report(store, tmp_path, formats=["latex"])
    text = (tmp_path / "table1.tex").read_text()
    check_latex(text)
    assert text.count(r"\begin{tabular}") == 3
    check_latex(latex([ODD]))
    with pytest.raises(AssertionError):
        check_latex(text.replace(r"\%E", "{E"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_the_latex_compiles(store, tmp_path):
    write_report(store, tmp_path, formats=["latex"])
    whole = r"\documentclass{article}\begin{document}\input{table1.tex}\end{document}"
    (tmp_path / "whole.tex").write_text(whole)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "whole.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_numbers_as_text():
    assert [number(x) for x in (0.0432, 13.4642, 8176.4, 12345678.0, None)] == [
        "0.0432",
        "13.46",
        "8,176",
        "12,345,678",
        "",
    ]
    assert [number(x, sign=True) for x in (0.5, -2.571, 1500)] == ["+0.5", "-2.571", "+1,500"]
    assert [percent(x) for x in (-0.5014, 0.0, 1.0)] == ["-50.1 %", "+0.0 %", "+100.0 %"]
    assert [value(x) for x in (True, 84, 11.1, 6.53e-3, "cosine", None)] == [
        "true",
        "84",
        "11.1",
        "0.00653",
        "cosine",
        "",
    ]


def test_the_default_data_configuration_is_the_papers():
    # The remark on the full test set rests on these sizes.
    assert DataConfig().train_size == published.TRAIN_MOLECULES
    assert DataConfig().validation_size == 1000
