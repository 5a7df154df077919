"""The written pages in a real browser: its console stays empty, the store's numbers are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import whole_chain

from hpsearch.ablation.cells import cell_table
from hpsearch.ablation.variants import Variant
from hpsearch.config.targets import target
from hpsearch.data import qm9
from hpsearch.data.split import make_split
from hpsearch.data.statistics import atom_references, target_values
from hpsearch.pages.figures import draw_pages
from hpsearch.report import table1
from hpsearch.report.write import write_report
from hpsearch.results.subject import subject
from hpsearch.store import Store

pytestmark = pytest.mark.slow

MINE = Variant("Mine", "half the reach", lambda network: network, {"radial_maximum_angstrom": 3.0})
ARMS = ["L1Net", "L0Net", "Mine"]

# Plotly keeps large arrays as typed ones, or as base64 until it has drawn them.
READ_TRACES = """
(name) => {
  const decode = (values) => {
    if (!values || !values.bdata) return values && Array.from(values);
    const bytes = Uint8Array.from(atob(values.bdata), (character) => character.charCodeAt(0));
    const kinds = {f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array,
                   i1: Int8Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array};
    return Array.from(new kinds[values.dtype](bytes.buffer));
  };
  return document.getElementById(name).data.map((trace) => ({
    name: trace.name, x: decode(trace.x), y: decode(trace.y), mode: trace.mode,
    customdata: decode(trace.customdata),
    bar: trace.error_y && decode(trace.error_y.array),
    colour: trace.marker && trace.marker.color,
  }));
}
"""


# Pixels that WebGL has painted, of all its canvases: points, since axes are drawn elsewhere.
PAINTED = """
(name) => {
  let painted = 0;
  for (const canvas of document.querySelectorAll(`#${name} canvas`)) {
    const copy = document.createElement('canvas');
    copy.width = canvas.width;
    copy.height = canvas.height;
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0);
    const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
    for (let place = 3; place < pixels.length; place += 4) painted += pixels[place] > 0;
  }
  return painted;
}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db"
    with Store.create(url) as store:
        winner = whole_chain.search(store).winner()
        whole_chain.ablate(store, winner, variants=ARMS, declared=(MINE,), repeats=2)
    return url


@pytest.fixture
def store(url):
    with Store.open(url) as store:
        yield store


@pytest.fixture(scope="module")
def report(url, tmp_path_factory):
    """The folder of a report with its pages."""
    folder = tmp_path_factory.mktemp("report")
    with Store.open(url) as store:
        assert write_report(store, folder, pages=draw_pages).problems == ()
    return folder


@pytest.fixture
def opened(browser, report):
    """Opens a page of the report; in the end no page may have complained or asked the network."""
    context = browser.new_context(offline=True)
    complaints: list[str] = []

    def open_page():
        file = "report.html"
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"{file}: {error}"))
        page.on(
            "console",
            lambda said: said.type == "error" and complaints.append(f"{file}: {said.text}"),
        )
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith(("file:", "data:", "blob:"))
                or complaints.append(f"{file} asked for {asked.url}")
            ),
        )
        page.goto((report / file).as_uri())
        return page

    yield open_page
    context.close()
    assert complaints == []


def traces_of(page, name):
    page.wait_for_selector(f"#ablation-{name} .main-svg")
    return page.evaluate(READ_TRACES, f"ablation-{name}")


def cells_of(store):
    experiment = store.experiment("ablation", subject(store).ablation)
    return cell_table(store, experiment.id).set_index("key")


def test_the_report_links_to_every_page_and_holds_table_1(opened, report, store):
    page = opened()
    links = {link.get_attribute("href") for link in page.query_selector_all("nav a")}
    headings = {f"#{h.get_attribute('id')}" for h in page.query_selector_all("h2[id]")}
    assert links == headings
    drawn = {f"#figure-ablation-{n}" for n in ("ablation", "cost", "parity", "learning_curves")}
    assert drawn | {"#figure-study-learning_curves", "#figure-study-targets"} <= links
    assert [path.name for path in Path(report).glob("*.html")] == ["report.html"]
    table = table1(store, subject(store).ablation)
    rows = page.query_selector("table").query_selector_all("tbody tr")
    shown = [[cell.inner_text() for cell in row.query_selector_all("td")] for row in rows]
    heads = [cell.inner_text() for cell in page.query_selector_all("thead tr:nth-child(2) th")]
    assert [row[0] for row in shown] == ["μ", "U₀"]
    for arm in ARMS:
        drawn = [float(row[heads.index(arm)]) for row in shown]
        assert drawn == pytest.approx(table[arm].tolist(), rel=1e-3)
    text = page.inner_text("body")
    assert "The chain from the molecules to the code is unbroken." in text
    assert text.count("unbroken:") == 8


# The least contrast of any text in a figure with what the page's ground is.
CONTRAST = """
() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll('.main-svg text:not(.heatmap-label text)')];
  const inks = texts.filter((text) => text.textContent)
    .map((text) => light(getComputedStyle(text).fill));
  const ratio = (ink) => (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
  const svg = getComputedStyle(document.querySelector('.main-svg')).backgroundColor;
  return {ground, count: inks.length, least: Math.min(...inks.map(ratio)),
          clear: numbers(svg)[3] === 0};
}
"""


def test_figures_are_to_be_read_on_a_light_and_a_dark_screen_and_on_paper(opened):
    page = opened()
    page.wait_for_selector("#study-targets .xtitle")  # the last one
    for media, scheme, dark in (
        ("screen", "light", False),
        ("screen", "dark", True),
        ("print", "dark", False),
    ):
        page.emulate_media(media=media, color_scheme=scheme)
        seen = page.evaluate(CONTRAST)
        assert (seen["ground"] < 0.05) == dark, (media, scheme)
        assert seen["count"] > 50
        assert seen["least"] > 4.5, (media, scheme)
        assert seen["clear"], (media, scheme)


def test_on_paper_nothing_is_wider_than_the_page(opened):
    page = opened()
    page.wait_for_selector("#study-targets .main-svg")
    page.emulate_media(media="print")
    across = "(part) => document.querySelector(part).getBoundingClientRect().right"
    # 186 mm between the margins of a sheet that stands, 277 mm of one that lies.
    page.set_viewport_size({"width": 703, "height": 1030})
    assert page.evaluate(across, "#study-targets .main-svg") <= 703
    page.set_viewport_size({"width": 1047, "height": 718})
    assert page.evaluate(across, ".broad table") <= 1047


def test_the_report_holds_plotly_once(report):
    assert (report / "report.html").read_text().count("plotly.js v") == 1


def test_parity_draws_the_stores_residuals(opened, store, report):
    traces = traces_of(opened(), "parity")
    experiment = store.experiment("ablation", subject(store).ablation)
    residuals = store.test_residuals(experiment.id).set_index("key")["residuals"]
    molecules = qm9.load()
    rows = make_split(molecules, whole_chain.space().data).test
    markers = [trace for trace in traces if trace["mode"] == "markers"]
    assert [trace["name"] for trace in markers] == [*ARMS, *ARMS]
    for number, trace in enumerate(markers):
        name = ("mu", "U0")[number // 3]
        native = target_values(molecules, rows, [name]) - atom_references(molecules, rows, [name])
        references = native[:, 0] * target(name).reporting_factor
        assert trace["x"] == references.tolist()
        drawn = np.subtract(trace["y"], trace["x"])
        assert drawn == pytest.approx(residuals[f"{trace['name']}/{name}/0"], abs=1e-9)
        assert trace["customdata"] == molecules.identifiers[rows].tolist()
    written = pd.read_csv(report / "residuals.csv").set_index("key")
    for key, values in residuals.items():
        assert written.loc[key, "residuals"].tolist() == pytest.approx(values.tolist())
        assert written.loc[key, "molecule"].tolist() == list(range(len(rows)))


def test_parity_shows_its_points(opened):
    page = opened()
    page.wait_for_selector("#ablation-parity canvas", state="attached")
    page.wait_for_function(f"({PAINTED})('ablation-parity') > 1000")


def test_cost_draws_the_stores_cells(opened, store):
    traces = traces_of(opened(), "cost")
    cells = cells_of(store)
    runs = [trace for trace in traces if trace["customdata"]]
    means = [trace for trace in traces if not trace["customdata"]]
    assert len(runs) == len(means) == 2 * 2 * 3
    for number, (of_runs, mean) in enumerate(zip(runs, means, strict=True)):
        of_arm = cells.loc[of_runs["customdata"]]
        cost = ("weights", "seconds")[number // 3 % 2]
        assert set(of_arm["variant"]) == {of_runs["name"]} == {mean["name"]}
        assert of_runs["x"] == of_arm[cost].tolist()
        assert of_runs["y"] == of_arm["test_mae"].tolist()
        assert mean["x"] == [of_arm[cost].mean()]
        assert mean["y"] == pytest.approx([of_arm["test_mae"].mean()])
        assert mean["bar"] == pytest.approx([of_arm["test_mae"].std(ddof=1)])
    assert {trace["name"] for trace in runs} == set(ARMS)


def test_the_ablation_draws_table_1(opened, store):
    traces = traces_of(opened(), "ablation")
    table = table1(store, subject(store).ablation)
    bars = {trace["name"]: trace for trace in traces if trace["mode"] is None}
    assert list(bars) == ARMS
    for arm, trace in bars.items():
        assert trace["x"] == ["μ", "U₀"]
        assert trace["y"] == (table[arm] / table["L0Net"]).tolist()


def test_learning_curves_draw_the_stores_epochs(opened, store):
    traces = traces_of(opened(), "learning_curves")
    cells = cells_of(store)
    assert [trace["y"] for trace in traces] == [[mae] for mae in cells_in_order(cells)]
    assert {trace["name"] for trace in traces} == set(ARMS)


def cells_in_order(cells):
    """Validation errors as the page draws them: target by target, in the order of the runs."""
    for name in ("mu", "U0"):
        yield from cells.loc[cells["target"] == name, "validation_mae"]
