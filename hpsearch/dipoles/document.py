"""The experiment's results as a table, a drawing and a page."""

from __future__ import annotations

import csv
import io
import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpsearch.dipoles import drawing
from hpsearch.dipoles.arms import L0, L1, L1_ONE_BLOCK, L1_VECTOR
from hpsearch.dipoles.drawing import Line, Panel
from hpsearch.dipoles.experiment import TEST_SYSTEMS, ArmResult, DipoleResults
from hpsearch.report import Section
from hpsearch.report.render import html_document, markdown

_TITLE = "Two dipoles: Figure 2 and Eq. 4"
_X_LABEL = "training steps"
_Y_LABEL = "test MSE / bound of Eq. 4"

# Distinguishable on white and on black.
_COLOURS = {L0: "#e0701a", L1_ONE_BLOCK: "#a46bd1", L1: "#3b8bd4", L1_VECTOR: "#2f9e62"}

_HEADER = (
    "Systems",
    "Network",
    "Weights",
    "MSE / bound",
    "range over seeds",
    "least possible",
    "MSE / variance",
    "CPU seconds",
)


def documents(experiment: DipoleResults) -> dict[str, str]:
    """The content of all files that the command writes, by file name."""
    section = table(experiment)
    page = html_document(_TITLE, [section])
    drawn = figure(experiment).to_html(full_html=False, include_plotlyjs=True, div_id="dipoles")
    return {
        "dipoles.md": f"# {_TITLE}\n\n{markdown([section])}",
        "dipoles.csv": csv_text(experiment),
        "dipoles.svg": drawing.draw(panels(experiment), _X_LABEL, _Y_LABEL),
        "dipoles.html": page.replace("</body>", f"{drawn}\n</body>"),
    }


def table(experiment: DipoleResults) -> Section:
    """The test errors of all networks, in units of the bound."""
    remarks = (
        f"Mean squared errors of p² = |p1 + p2|² on {TEST_SYSTEMS:,} test systems after "
        f"{experiment.steps:,} training steps, divided by the bound of Eq. 4. The bound, "
        f"{experiment.bound:.4f} (e Å)⁴, is the error of predicting p1² + p2² on these systems. "
        f"The variance of p², {experiment.variance:.4f} (e Å)⁴, is the error of predicting its "
        "mean.",
        f"MSE / bound is the mean over {experiment.seeds} seeds; the next column has the lowest "
        "and the highest. Least possible is the lowest error on these systems that a network of "
        "this kind can reach, however wide. CPU seconds are those of one training.",
    )
    rows = tuple(_row(arm, experiment) for arm in experiment.arms)
    return Section("Test errors", remarks, _HEADER, rows)


def _row(arm: ArmResult, experiment: DipoleResults) -> tuple[str, ...]:
    mean, least, *of_seeds = (
        f"{error / experiment.bound:.4f}"
        for error in (arm.mean_error, arm.floor, min(arm.final_errors), max(arm.final_errors))
    )
    return (
        arm.case,
        arm.name,
        f"{arm.weights:,}",
        mean,
        " to ".join(of_seeds),
        least,
        f"{arm.mean_error / experiment.variance:.4f}",
        f"{arm.seconds:.1f}",
    )


def csv_text(experiment: DipoleResults) -> str:
    """All test errors of all trainings as CSV, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("systems", "network", "weights", "seed", "step", "test_mse", "bound", "least_possible")
    )
    for arm in experiment.arms:
        for curve in arm.curves:
            for step, error in zip(curve.steps, curve.errors, strict=True):
                values = (curve.weights, curve.seed, step, error, experiment.bound, arm.floor)
                writer.writerow((arm.case, arm.name, *values))
    return out.getvalue()


def panels(experiment: DipoleResults) -> list[Panel]:
    """A panel per case with a line per seed, in units of the bound."""
    return [
        Panel(case, _lines(cases, experiment.bound), _marks(cases, experiment.bound))
        for case, cases in _by_case(experiment).items()
    ]


def _by_case(experiment: DipoleResults) -> dict[str, list[ArmResult]]:
    cases: dict[str, list[ArmResult]] = {}
    for arm in experiment.arms:
        cases.setdefault(arm.case, []).append(arm)
    return cases


def _lines(arms: list[ArmResult], bound: float) -> tuple[Line, ...]:
    return tuple(
        Line(
            arm.name,
            _COLOURS[arm.name],
            tuple((step, error / bound) for step, error in zip(c.steps, c.errors, strict=True)),
        )
        for arm in arms
        for c in arm.curves
    )


def _marks(arms: list[ArmResult], bound: float) -> tuple[tuple[float, str], ...]:
    """The bound, and the other least possible errors of the arms that are not zero."""
    floors = sorted({arm.floor / bound for arm in arms} - {0.0, 1.0})
    return ((1.0, "bound"), *((floor, f"{floor:.3f}") for floor in floors))


def figure(experiment: DipoleResults) -> go.Figure:
    """The same panels for a browser; a click on the legend hides a network."""
    drawn_panels = panels(experiment)
    columns = drawing.COLUMNS
    rows = -(-len(drawn_panels) // columns)
    titles = [panel.title for panel in drawn_panels]
    drawn = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles, shared_yaxes="all", shared_xaxes="all"
    )
    in_legend: set[str] = set()
    for number, panel in enumerate(drawn_panels):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        for line in panel.lines:
            drawn.add_trace(_trace(line, show=line.name not in in_legend), **place)
            in_legend.add(line.name)
        for value, label in panel.marks:
            drawn.add_hline(y=value, line={"dash": "dash", "width": 1}, **place)
            # On a logarithmic axis Plotly wants the logarithm for annotations, the value for lines.
            drawn.add_annotation(
                x=experiment.steps,
                y=math.log10(value),
                text=label,
                showarrow=False,
                xanchor="right",
                yanchor="bottom" if value >= 1 else "top",
                **place,
            )
        drawn.update_xaxes(title_text=_X_LABEL, **place)
        drawn.update_yaxes(title_text=_Y_LABEL, type="log", dtick=1, **place)
    drawn.update_layout(height=420 * rows, hovermode="closest")
    return drawn


def _trace(line: Line, *, show: bool) -> go.Scatter:
    return go.Scatter(
        x=[x for x, _ in line.points],
        y=[y for _, y in line.points],
        mode="lines",
        line={"color": line.colour, "width": 1.5},
        name=line.name,
        legendgroup=line.name,
        showlegend=show,
    )
