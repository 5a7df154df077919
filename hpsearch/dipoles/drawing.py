"""Draws curves with a logarithmic y axis as a small SVG, for pages that cannot run scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COLUMNS = 2
"""Panels side by side."""

_WIDTH, _HEIGHT = 300, 220
"""Width and height of a panel's axes, in pixels."""

_LEFT, _ABOVE, _BELOW, _GAP, _LEGEND = 68, 34, 46, 24, 30
"""Space, in pixels, for y labels, panel title, x labels, between panels, and for the legend."""

_STYLE = """
text { font: 12px sans-serif; fill: #333; }
.title { font-weight: bold; }
.card { fill: #fff; }
.frame { fill: none; stroke: #888; }
.grid { stroke: #ddd; }
.mark { stroke: #666; stroke-dasharray: 5 4; fill: none; }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
@media (prefers-color-scheme: dark) {
text { fill: #ddd; }
.card { fill: #16191d; }
.grid { stroke: #333; }
.mark { stroke: #aaa; }
}
""".strip()


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: entry in the legend; lines with the same name share one.
        colour: colour in SVG's notation, visible on white and on black.
        points: x and y, with y > 0.
    """

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """Curves that share axes.

    Attributes:
        title: text above the axes.
        lines: the curves.
        marks: values of y with a label, drawn as dashed lines.
    """

    title: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class _Axes:
    """Pixel positions of values in a panel; ``left``, ``top`` is the axes' upper left corner."""

    left: float
    top: float
    last: float
    low: int
    high: int

    @property
    def right(self) -> float:
        return self.left + _WIDTH

    @property
    def bottom(self) -> float:
        return self.top + _HEIGHT

    def x(self, value: float) -> float:
        return self.left + _WIDTH * value / self.last

    def y(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.bottom - _HEIGHT * min(max(share, 0.0), 1.0)


def draw(panels: Sequence[Panel], x_label: str, y_label: str) -> str:
    """The SVG of the panels, :data:`COLUMNS` per row and all with the same axes."""
    points = [point for panel in panels for line in panel.lines for point in line.points]
    last = max(x for x, _ in points)
    logarithms = [math.log10(y) for _, y in points]
    low, high = math.floor(min(logarithms)), math.floor(max(logarithms)) + 1
    rows = math.ceil(len(panels) / COLUMNS)
    width = _LEFT + COLUMNS * (_WIDTH + _GAP)
    height = rows * (_ABOVE + _HEIGHT + _BELOW) + _LEGEND
    parts = [f'<rect class="card" width="{width}" height="{height}" rx="6"/>']
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        left = _LEFT + column * (_WIDTH + _GAP)
        top = _ABOVE + row * (_ABOVE + _HEIGHT + _BELOW)
        axes = _Axes(left, top, last, low, high)
        parts += _panel(panel, axes, x_label, y_label if column == 0 else None)
    parts += _legend(panels, height - _LEGEND / 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">\n<style>\n{_STYLE}\n</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(panel: Panel, axes: _Axes, x_label: str, y_label: str | None) -> Iterator[str]:
    yield _text((axes.left + axes.right) / 2, axes.top - 10, panel.title, kind="title")
    yield from _grid(axes, with_numbers=y_label is not None)
    if y_label is not None:
        middle = (axes.top + axes.bottom) / 2
        yield _text(16, middle, y_label, turned=True)
    yield _text((axes.left + axes.right) / 2, axes.bottom + 32, x_label)
    for line in panel.lines:
        path = "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in line.points)
        yield f'<path class="curve" stroke="{line.colour}" d="M{path}"/>'
    for value, label in panel.marks:
        y = axes.y(value)
        yield f'<path class="mark" d="M{axes.left:g} {y:.1f}H{axes.right:g}"/>'
        yield _text(axes.right - 4, y + (13 if value < 1 else -4), label, anchor="end")
    yield (
        f'<rect class="frame" x="{axes.left:g}" y="{axes.top:g}" width="{_WIDTH}" '
        f'height="{_HEIGHT}"/>'
    )


def _grid(axes: _Axes, *, with_numbers: bool) -> Iterator[str]:
    for exponent in range(axes.low, axes.high + 1):
        y = axes.y(10.0**exponent)
        yield f'<path class="grid" d="M{axes.left:g} {y:.1f}H{axes.right:g}"/>'
        if with_numbers:
            yield _text(axes.left - 6, y + 4, f"{10.0**exponent:g}", anchor="end")
    for value in (0.0, axes.last / 2, axes.last):
        yield _text(axes.x(value), axes.bottom + 16, f"{value:,.0f}")


def _legend(panels: Sequence[Panel], y: float) -> Iterator[str]:
    colours = {line.name: line.colour for panel in panels for line in panel.lines}
    x = float(_LEFT)
    for name, colour in colours.items():
        yield f'<path class="curve" stroke="{colour}" d="M{x:g} {y - 4:g}h24"/>'
        yield _text(x + 30, y, name, anchor="start")
        x += 60 + 7 * len(name)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    kind: str | None = None,
    turned: bool = False,
) -> str:
    more = f' class="{kind}"' if kind else ""
    more += f' transform="rotate(-90 {x:g} {y:g})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(text)}</text>'
