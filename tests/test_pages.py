"""The shipped pages draw the store's numbers; a page that fails is told in one line."""

from __future__ import annotations

import json
import re

import plotly.graph_objects as go
import pytest
from made_up import ERRORS, run_ablation, run_search, the_winner

from hpsearch.pages import (
    PageError,
    folder,
    load_page,
    load_pages,
    page_files,
    render_pages,
)
from hpsearch.report import subject, table1
from hpsearch.store import Store

SHIPPED = ["ablation", "learning_curves", "targets"]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A store with one search and one complete ablation of two repeats."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"
    with Store.create(url) as store:
        run_ablation(store, the_winner(run_search(store)), repeats=2)
    return url


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


def test_pages_keep_to_the_experiment_that_is_named(store):
    assert draw("ablation", store, "made-up") is None
    assert draw("targets", store, subject(store).ablation) is None


# --- Documents


def test_a_document_is_whole_and_holds_plotly_once(store):
    documents, problems = render_pages(store)
    assert problems == []
    assert set(documents) == {f"{name}.html" for name in SHIPPED}
    for text in documents.values():
        assert text.count("plotly.js v") == 1
        assert not re.search(r"<(script|link)[^>]+(src|href)=", text)


def test_the_document_holds_the_figures_numbers(store, tmp_path):
    path = load_page(page(tmp_path, GOOD))
    text = path.html(store, "of this")
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in text
    data = re.search(r'Plotly\.newPlot\(\s*"mine",\s*(\[.*?\]),\s*\{', text, re.DOTALL)
    (trace,) = json.loads(data[1])
    assert (trace["x"], trace["y"], trace["name"]) == (["a"], [12345.5], "of this")
    assert path.html(store, "of this") == text


def test_only_python_files_without_an_underscore_are_pages(tmp_path):
    for name in ("b.py", "a.py", "_shared.py", ".hidden.py", "README.md"):
        page(tmp_path, GOOD, name)
    assert [path.name for path in page_files(tmp_path)] == ["a.py", "b.py"]


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


FAILING = {
    "    return 1 / 0": r"mine\.py:3: ZeroDivisionError: division by zero",
    "    raise ValueError('two\\nlines')": r"mine\.py:3: ValueError: two lines",
    "    return store.latest_study()": r"mine\.py: the store .* holds no study",
    "    return 'text'": r"mine\.py: figure must return .*; got str",
    "    import json; json.loads('{')": r"mine\.py:3: JSONDecodeError: ",
}


@pytest.mark.parametrize("body", FAILING)
def test_a_page_that_does_not_draw_is_told_in_one_line(body, tmp_path, empty):
    text = f"TITLE = 'x'\ndef figure(store, name=None):\n{body}\n"
    with pytest.raises(PageError, match=FAILING[body]) as caught:
        load_page(page(tmp_path, text)).figure(empty)
    assert "\n" not in str(caught.value)


def test_a_broken_page_costs_only_itself(store, tmp_path):
    page(tmp_path, GOOD, "good.py")
    page(tmp_path, "nonsense(", "broken.py")
    page(tmp_path, "TITLE = 'x'\ndef figure(store, name=None):\n    return 1 / 0", "failing.py")
    documents, problems = render_pages(store, None, tmp_path)
    assert list(documents) == ["good.html"]
    assert len(problems) == 2
    assert "broken.py:1: SyntaxError" in problems[0]
    assert "failing.py:3: ZeroDivisionError" in problems[1]


def test_the_readmes_page_works(store, tmp_path):
    readme = (folder() / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    drawn = load_page(page(tmp_path, code)).figure(store, "made-up")
    assert list(drawn.data[0].y) == [2.5] * 3


def test_the_readme_lists_every_page():
    readme = (folder() / "README.md").read_text()
    assert all(f"| `{path.name}` |" in readme for path in page_files())
