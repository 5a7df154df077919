"""The shipped pages draw the store's numbers; a page that fails is told in one line."""

from __future__ import annotations

import io
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from support import whole_chain
from support.made_up import ERRORS, run_ablation, run_search, the_winner

import hpsearch.pages.files
from hpsearch.ablation.cells import cell_table
from hpsearch.ablation.variants import Variant
from hpsearch.data import qm9
from hpsearch.data.split import make_split
from hpsearch.data.statistics import atom_references, target_values
from hpsearch.pages import colours_of, log_axis
from hpsearch.pages.figures import draw_pages
from hpsearch.pages.files import folder, load_page, load_pages, page_files
from hpsearch.pages.page import PageError
from hpsearch.report import table1
from hpsearch.results.subject import subject
from hpsearch.store import Store, StoreReader

SHIPPED = ["ablation", "cost", "learning_curves", "parity", "targets"]
MINE = Variant("Mine", "half the reach", lambda network: network, {"radial_maximum_angstrom": 3.0})


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A store with one search and one complete ablation of two repeats."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"
    with Store.create(url) as store:
        run_ablation(store, the_winner(run_search(store)), repeats=2)
    return url


@pytest.fixture(scope="module")
def whole_url(tmp_path_factory):
    """A store whose hashes are the molecules', with residuals and an arm that a user declared."""
    url = f"sqlite:///{tmp_path_factory.mktemp('whole')}/store.db"
    with Store.create(url) as store:
        whole_chain.ablate(
            store,
            whole_chain.search(store).winner(),
            variants=["L1Net", "L0Net", "Mine"],
            declared=(MINE,),
            repeats=2,
        )
    return url


@pytest.fixture
def whole(whole_url):
    with Store.open(whole_url) as store:
        yield store


@pytest.fixture
def store(url):
    with Store.open(url) as store:
        yield store


@pytest.fixture
def empty(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/empty.db") as store:
        yield store


def page(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


GOOD = """
import plotly.graph_objects as go
TITLE = "Mine & <yours>"
def figure(store, name=None):
    return go.Figure(go.Bar(x=["a"], y=[12345.5], name=name))
"""


def draw(name, store, of=None):
    return load_page(folder() / f"{name}.py").figure(store, of)


# --- The shipped pages


def test_every_shipped_page_loads():
    pages, problems = load_pages()
    assert [page.name for page in pages if page.name in SHIPPED] == SHIPPED
    assert problems == []


@pytest.mark.parametrize("name", SHIPPED)
def test_an_empty_store_has_nothing_to_show(name, empty):
    assert draw(name, empty) is None


@pytest.mark.parametrize("name", SHIPPED)
def test_a_search_without_an_epoch_has_nothing_to_show(name, empty):
    empty.begin_experiment("ablation", "begun", {})
    assert draw(name, empty) is None
    assert draw(name, empty, "unknown") is None


def test_learning_curves_of_an_ablation_are_the_stores(store):
    drawn = draw("learning_curves", store)
    experiment = store.experiment("ablation", subject(store).ablation)
    errors = store.target_errors(experiment.id)
    assert len(drawn.data) == 3 * 2 * 2
    for trace in drawn.data:
        key = trace.hovertemplate.split("<br>")[0]
        stored = errors[errors["key"] == key]
        assert list(trace.x) == stored["epoch"].tolist() == [1, 2]
        assert list(trace.y) == stored["mae"].tolist() == [10.0, 5.0]
        assert trace.name == key.split("/")[0]
    assert {trace.name for trace in drawn.data if trace.showlegend} == set(ERRORS)
    assert drawn.layout.xaxis.type == drawn.layout.yaxis.type == "log"
    assert [title.text for title in drawn.layout.annotations] == ["μ (D)", "U₀ (meV)"]


def test_an_arm_has_one_colour(store):
    drawn = draw("learning_curves", store)
    colours = {(trace.name, trace.line.color) for trace in drawn.data}
    assert len(colours) == len({name for name, _ in colours}) == len({c for _, c in colours}) == 3


def test_learning_curves_of_a_search_are_its_trials(store):
    drawn = draw("learning_curves", store, "made-up")
    assert len(drawn.data) == 3 * 12
    assert {trace.name for trace in drawn.data} == {"trial 1", "trial 2", "trial 3"}


def test_losses_by_target_stand_beside_the_zero_outputs(store):
    drawn = draw("targets", store)
    assert [trace.name for trace in drawn.data] == ["trial 3", "trial 2", "trial 1"]
    # The loss 1/3 of the best trial, in twelve equal parts.
    assert list(drawn.data[0].y) == pytest.approx([1 / 36] * 12)
    assert drawn.layout.shapes[0].y0 == pytest.approx(33.0 / 12)


def test_the_ablations_bars_are_table_1_over_the_l0nets(store):
    drawn = draw("ablation", store)
    table = table1(store, subject(store).ablation)
    bars = {trace.name: trace for trace in drawn.data if isinstance(trace, go.Bar)}
    assert list(bars) == ["L1Net", "L0Net", "L0NetDeep"]
    for arm, trace in bars.items():
        assert list(trace.x) == ["μ", "U₀"]
        assert list(trace.y) == (table[arm] / table["L0Net"]).tolist()
    assert "1,000 molecules" in drawn.layout.title.text
    assert "109,000" in drawn.data[-1].name


def test_an_arm_that_a_user_declared_is_drawn_on_every_page(whole):
    for name in ("ablation", "cost", "learning_curves", "parity"):
        arms = {trace.name for trace in draw(name, whole).data}
        assert {"L1Net", "L0Net", "Mine"} <= arms, name
        assert not {"L0NetDeep", "L0NetOutdeep"} & arms


def test_an_arm_has_the_same_colour_on_every_page(whole):
    lines = {t.name: t.line.color for t in draw("learning_curves", whole).data}
    assert lines == {name: colours_of(lines)[name] for name in lines}
    for page_name in ("ablation", "cost", "parity"):
        for trace in draw(page_name, whole).data:
            if trace.name in lines:
                assert trace.marker.color == lines[trace.name], page_name


# --- Parity


def panels(drawn):
    """Axis letter to its panel's traces, the diagonal apart."""
    found = {}
    for trace in drawn.data:
        found.setdefault(trace.xaxis, []).append(trace)
    return list(found.values())


def test_parity_is_reference_and_prediction_of_the_test_molecules(whole):
    drawn = draw("parity", whole)
    molecules = qm9.load()
    experiment = whole.experiment("ablation", subject(whole).ablation)
    run = whole.runs(experiment.id).iloc[0]
    rows = make_split(molecules, whole_chain.space().data).test
    residuals = whole.test_residuals(experiment.id).set_index("key")["residuals"]
    assert len(panels(drawn)) == 2
    for name, factor, traces in zip(("mu", "U0"), (1, 27211.386245988), panels(drawn), strict=True):
        *arms, diagonal = traces
        assert [trace.name for trace in arms] == ["L1Net", "L0Net", "Mine"]
        native = target_values(molecules, rows, [name]) - atom_references(molecules, rows, [name])
        references = native[:, 0] * factor
        for trace in arms:
            assert trace.x == pytest.approx(references)
            # The first of the two repeats.
            assert trace.y - trace.x == pytest.approx(residuals[f"{trace.name}/{name}/0"], abs=1e-9)
            assert trace.customdata.tolist() == molecules.identifiers[rows].tolist()
        assert list(diagonal.x) == list(diagonal.y) == [references.min(), references.max()]
    assert len(run["split_hash"]) == 64
    assert drawn.layout.title.text.endswith("predictions for test molecules")
    axes = [drawn.layout[axis].title.text for axis in ("xaxis", "yaxis", "xaxis2", "yaxis2")]
    assert axes == ["reference (D)", "prediction (D)", "reference (meV)", "prediction (meV)"]
    titles = [title.text for title in drawn.layout.annotations]
    assert titles == ["μ", "U₀ minus atomic references"]


def test_many_test_molecules_are_thinned_evenly_and_the_title_says_so(whole, monkeypatch):
    page = load_page(folder() / "parity.py")
    every = page.figure(whole)
    monkeypatch.setattr(page.module, "MOST_MOLECULES", 1_000)
    drawn = page.figure(whole)
    assert "at most 1,000 per network are drawn" in drawn.layout.title.text
    places = np.linspace(0, 1_999, 1_000).astype(int)
    assert len(set(places)) == 1_000
    assert drawn.data[0].x.tolist() == every.data[0].x[places].tolist()
    assert drawn.data[0].y.tolist() == every.data[0].y[places].tolist()
    assert drawn.data[1].x.tolist() == drawn.data[0].x.tolist()


def parity_of_changed_runs(url, tmp_path, statement, *values):
    path = shutil.copy(url.removeprefix("sqlite:///"), tmp_path / "copy.db")
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()
    with Store.open(f"sqlite:///{path}") as changed:
        return draw("parity", changed)


HASHES = {
    "data_hash": r"parity\.py: the molecules must be those of the run L1Net/U0/0 \(hash o",
    "split_hash": r"parity\.py: the split must be that of the run L1Net/U0/0 \(hash other",
}


@pytest.mark.parametrize("column", HASHES)
def test_parity_refuses_other_molecules_and_another_split(column, whole_url, tmp_path):
    statement = f"update hpsearch_runs set {column} = 'other' where key = 'L1Net/U0/0'"
    with pytest.raises(PageError, match=HASHES[column]) as caught:
        parity_of_changed_runs(whole_url, tmp_path, statement)
    assert "\n" not in str(caught.value)


def test_parity_refuses_residuals_of_another_number(whole_url, tmp_path):
    statement = (
        "update hpsearch_test_errors set residuals = ? where target = 'mu' and run_id = "
        "(select id from hpsearch_runs where key = 'L0Net/mu/0')"
    )
    with pytest.raises(PageError, match="each of 2,000 test molecules, got 3"):
        parity_of_changed_runs(whole_url, tmp_path, statement, np.zeros(3, "<f4").tobytes())


# --- Cost


def test_costs_are_the_stores(whole):
    drawn = draw("cost", whole)
    experiment = whole.experiment("ablation", subject(whole).ablation)
    cells = cell_table(whole, experiment.id).set_index("key")
    # Two targets, two costs, three arms; for each its runs and its mean.
    assert len(drawn.data) == 2 * 2 * 3 * 2
    for number, (runs, mean) in enumerate(zip(drawn.data[::2], drawn.data[1::2], strict=True)):
        target, cost = ("mu", "U0")[number // 6], ("weights", "seconds")[number // 3 % 2]
        assert list(runs.customdata) == [f"{runs.name}/{target}/{repeat}" for repeat in (0, 1)]
        of_arm = cells.loc[list(runs.customdata)]
        assert list(runs.x) == of_arm[cost].tolist()
        assert list(runs.y) == of_arm["test_mae"].tolist()
        assert list(mean.x) == [of_arm[cost].mean()]
        assert list(mean.y) == pytest.approx([of_arm["test_mae"].mean()])
        assert list(mean.error_y.array) == pytest.approx([of_arm["test_mae"].std(ddof=1)])
        assert runs.showlegend is False
    assert [trace.name for trace in drawn.data if trace.showlegend] == ["L1Net", "L0Net", "Mine"]
    assert {drawn.layout[f"xaxis{n or ''}"].type for n in ("", 2, 3, 4)} == {"log"}
    assert drawn.layout.xaxis.title.text == "trainable weights"
    assert drawn.layout.xaxis2.title.text == "seconds of training"
    assert [drawn.layout[f"yaxis{n}"].title.text for n in ("", 2, 3, 4)] == [
        *["test MAE (D)"] * 2,
        *["test MAE (meV)"] * 2,
    ]


def test_a_single_run_has_no_bar(empty):
    name = run_ablation(empty, the_winner(run_search(empty)))
    drawn = draw("cost", empty, name)
    assert all(trace.error_y.array is None for trace in drawn.data)


def test_pages_keep_to_the_experiment_that_is_named(store):
    for page_name in ("ablation", "cost", "parity"):
        assert draw(page_name, store, "made-up") is None
    assert draw("targets", store, subject(store).ablation) is None


# --- A study and an ablation of one name


@pytest.fixture(scope="module")
def namesakes(tmp_path_factory):
    """A store in which a study and an ablation have one name."""
    url = f"sqlite:///{tmp_path_factory.mktemp('namesakes')}/store.db"
    with Store.create(url) as store:
        run_ablation(store, the_winner(run_search(store)), name="made-up")
    return url


def test_pages_draw_the_kind_that_is_asked_for(namesakes):
    with Store.open(namesakes) as store:
        curves = load_page(folder() / "learning_curves.py")
        lines = {
            kind: {trace.name for trace in curves.figure(store, "made-up", kind).data}
            for kind in ("study", "ablation")
        }
        assert lines["study"] == {"trial 1", "trial 2", "trial 3"}
        assert lines["ablation"] == set(ERRORS)
        assert set(curves.frame(store, "made-up", "study")["kind"]) == {"study"}
        drawn = {kind: draw_pages(store, "made-up", kind).drawn for kind in lines}
        assert {figure.name.partition("-")[0] for figure in drawn["study"]} == {"study"}
        assert "study-ablation" not in {figure.name for figure in drawn["study"]}
        assert "ablation-targets" not in {figure.name for figure in drawn["ablation"]}


# --- The rows behind the figures


def test_every_figure_has_its_rows(whole):
    about = subject(whole)
    for kind, name in (("study", about.study), ("ablation", about.ablation)):
        drawn = draw_pages(whole, name, kind).drawn
        assert len(drawn) >= 4
        for figure in drawn:
            rows = pd.read_csv(io.StringIO(figure.csv))
            assert len(rows), figure.name


def test_rows_are_what_is_drawn(whole):
    costs = load_page(folder() / "search_cost.py")
    rows, drawn = costs.frame(whole), costs.figure(whole)
    assert [rows["weights"].tolist(), rows["seconds"].tolist()] == [list(t.x) for t in drawn.data]
    name = subject(whole).ablation
    parity = load_page(folder() / "parity.py")
    rows, drawn = parity.frame(whole, name), parity.figure(whole, name)
    of_arm = rows[(rows["variant"] == "L0Net") & (rows["target"] == "U0")]
    trace = [trace for trace in drawn.data if trace.name == "L0Net"][1]
    assert of_arm["reference"].tolist() == trace.x.tolist()
    assert of_arm["prediction"].tolist() == trace.y.tolist()
    assert set(of_arm["unit"]) == {"meV"}
    bars = load_page(folder() / "ablation.py")
    rows, drawn = bars.frame(whole, name), bars.figure(whole, name)
    for trace in drawn.data[:3]:
        of_arm = rows[rows["arm"] == trace.name]
        assert of_arm["relative"].tolist() == list(trace.y)
        half = (of_arm["high"] - of_arm["low"]) / 2 / of_arm["L0Net"]
        assert list(trace.error_y.array) == pytest.approx(half.tolist())


def test_the_ablations_tables_have_table_1_and_the_intervals(whole):
    tables = load_page(folder() / "ablation.py").tables(whole)
    headings = [table.title for table in tables]
    assert headings[:2] == ["Table 1: test errors", "Test errors over repeats"]
    errors, intervals = tables[:2]
    assert {"Mean", "Composition", "L1Net", "L0Net", "Mine"} <= set(errors.header)
    assert [row[0] for row in errors.rows] == ["μ", "U₀"]
    assert all("±" in cell and cell.endswith("(2)") for row in intervals.rows for cell in row[2:])


def test_tables_of_an_ablation_that_has_no_result_yet(store, empty):
    page = load_page(folder() / "ablation.py")
    assert page.tables(empty) == []
    winner = the_winner(run_search(empty))
    keys = [f"{arm}/{target}/0" for arm in ERRORS for target in ("mu", "U0")]
    run_ablation(empty, winner, skip=keys)
    assert page.figure(empty) is None
    assert page.tables(empty)[0].title == "Table 1: test errors"


# --- How figures look


def test_an_axis_has_numbers_to_be_read(whole):
    assert log_axis([1, 2, 7], "epoch") == {
        "type": "log",
        "title_text": "epoch",
        "tickvals": [1, 2, 5],
        "ticktext": ["1", "2", "5"],
    }
    assert log_axis([150_000, 420_000])["ticktext"] == ["150k", "200k", "300k", "400k"]
    assert log_axis([0.02, 30])["ticktext"] == ["0.1", "1", "10"]
    assert log_axis([510, 880])["ticktext"] == ["500", "600", "700", "800", "900"]
    assert log_axis([2.5])["ticktext"] == ["2.5"]
    assert log_axis([]) == {"type": "log"}


def test_every_axis_has_a_title(whole):
    about = subject(whole)
    for kind, name in (("study", about.study), ("ablation", about.ablation)):
        for page in load_pages()[0]:
            drawn = page.figure(whole, name, kind)
            if drawn is None:
                continue
            layout = drawn.to_plotly_json()["layout"]
            for key, axis in layout.items():
                if re.fullmatch(r"[xy]axis\d*", key):
                    assert axis.get("title", {}).get("text"), (page.name, key)


def test_what_is_no_mark_is_left_to_the_style_sheet(store, tmp_path):
    drawn = draw("targets", store)
    assert drawn.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
    # A page's own choice stays.
    text = GOOD.replace("name=name))", "name=name), layout={'template': 'seaborn'})")
    mine = load_page(page(tmp_path, text)).figure(store)
    assert mine.layout.template.layout.paper_bgcolor == "white"


def test_a_line_at_the_zero_outputs_loss_has_its_name_beside_it(store):
    drawn = draw("targets", store)
    [name] = drawn.layout.annotations
    assert 10**name.y == pytest.approx(drawn.layout.shapes[0].y0)


def test_of_many_trials_the_best_are_named(empty):
    run_search(empty, 12)
    drawn = draw("learning_curves", empty)
    assert {trace.name for trace in drawn.data} == {
        "other trials",
        *(f"trial {number}" for number in range(3, 13)),
    }
    assert sum(trace.showlegend for trace in drawn.data) == 11


# --- Documents


def test_drawings_share_one_script_and_ask_for_nothing(store):
    figures = draw_pages(store, "made-up", "study")
    assert figures.problems == ()
    assert figures.script.count("plotly.js v") == 1
    # Importance needs more than three trials.
    drawn = ["learning_curves", "targets", "failures", "features", "parallel", "search_cost"]
    assert {each.name for each in figures.drawn} == {f"study-{name}" for name in drawn}
    for each in figures.drawn:
        assert f'id="{each.name}"' in each.html
        assert "plotly.js v" not in each.html
        assert not re.search(r"<(script|link)[^>]+(src|href)=", each.html)


def test_only_python_files_without_an_underscore_are_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(hpsearch.pages.files, "folder", lambda: tmp_path)
    for name in ("b.py", "a.py", "_shared.py", ".hidden.py", "README.md"):
        page(tmp_path, GOOD, name)
    assert [path.name for path in page_files()] == ["a.py", "b.py"]


def test_a_folder_s_pages_are_drawn_beside_the_shipped_ones_and_win(store, tmp_path):
    page(tmp_path, GOOD, "features.py")
    page(tmp_path, GOOD, "mine.py")
    names = [path.name for path in page_files(tmp_path)]
    assert names == sorted({path.name for path in page_files()} | {"mine.py"})
    drawn = {each.name: each.title for each in draw_pages(store, own=tmp_path).drawn}
    assert drawn["features"] == drawn["mine"] == load_page(tmp_path / "mine.py").title
    assert "targets" in drawn


def test_a_page_of_an_earlier_version_knows_everything_by_its_old_name(url):
    own = load_page(Path(__file__).parent / "fixtures" / "pages" / "by_old_names.py")
    with StoreReader.open(url) as reader:
        drawn, rows, tables = own.figure(reader), own.frame(reader), own.tables(reader)
    assert [trace.type for trace in drawn.data] == ["bar", "scatter"]
    assert {"L0Net", "L1Net"} < set(rows["variant"])
    assert tables[0].title == "Lengths"
    assert len(tables) > 4


# --- Pages that fail

BROKEN = {
    "def figure(:": r"mine\.py:1: SyntaxError: ",
    "TITLE = 'x'\nimport nonsense": r"mine\.py:2: ModuleNotFoundError: .*nonsense",
    "def figure(store, name=None): ...": r"mine\.py: a page needs a text TITLE",
    "TITLE = 'x'": r"mine\.py: a page needs a function figure",
    "TITLE = 'x'\nfigure = 3": r"mine\.py: a page needs a function figure",
    "raise SystemExit(3)": r"mine\.py:1: SystemExit: 3",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_page_that_does_not_load_is_told_in_one_line(text, tmp_path):
    with pytest.raises(PageError, match=BROKEN[text]) as caught:
        load_page(page(tmp_path, text))
    assert "\n" not in str(caught.value)


WRONG = {
    "frame = 3": r"mine\.py: a page's frame must be a function",
    "def frame(store, name): return 3": r"mine\.py: frame must return a pandas.DataFrame or None",
    "def tables(store, name): return [3]": r"mine\.py: tables must return a list of .*Section; got",
    "KIND = 'other'": r"mine\.py: a page's KIND must be 'study' or 'ablation', got 'other'",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_else_a_page_gets_wrong_is_told_in_one_line(text, tmp_path, empty):
    with pytest.raises(PageError, match=WRONG[text]) as caught:
        mine = load_page(page(tmp_path, f"{GOOD}\n{text}\n"))
        mine.frame(empty)
        mine.tables(empty)
    assert "\n" not in str(caught.value)


FAILING = {
    "    return 1 / 0": r"mine\.py:3: ZeroDivisionError: division by zero",
    "    raise ValueError('two\\nlines')": r"mine\.py:3: ValueError: two lines",
    "    return store.find().name": r"mine\.py: the store .* has no study",
    "    return 'text'": r"mine\.py: figure must return .*; got str",
    "    import json; json.loads('{')": r"mine\.py:3: JSONDecodeError: ",
}


@pytest.mark.parametrize("body", FAILING)
def test_a_page_that_does_not_draw_is_told_in_one_line(body, tmp_path, empty):
    text = f"TITLE = 'x'\ndef figure(store, name=None):\n{body}\n"
    with pytest.raises(PageError, match=FAILING[body]) as caught:
        load_page(page(tmp_path, text)).figure(empty)
    assert "\n" not in str(caught.value)


def test_a_broken_page_costs_only_itself(store, tmp_path, monkeypatch):
    monkeypatch.setattr(hpsearch.pages.files, "folder", lambda: tmp_path)
    page(tmp_path, GOOD, "good.py")
    page(tmp_path, "nonsense(", "broken.py")
    page(tmp_path, "TITLE = 'x'\ndef figure(store, name=None):\n    return 1 / 0", "failing.py")
    figures = draw_pages(store)
    assert [each.name for each in figures.drawn] == ["good"]
    assert len(figures.problems) == 2
    assert "broken.py:1: SyntaxError" in figures.problems[0]
    assert "failing.py:3: ZeroDivisionError" in figures.problems[1]


def test_the_readmes_page_works(store, tmp_path):
    readme = (folder() / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    drawn = load_page(page(tmp_path, code)).figure(store, "made-up")
    assert list(drawn.data[0].y) == [2.5] * 3


def test_the_readme_lists_every_page():
    readme = (folder() / "README.md").read_text()
    assert all(f"| `{path.name}` |" in readme for path in page_files())
