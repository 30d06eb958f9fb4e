"""Small charts as SVG text, coloured by the page's style so that they suit a light and a dark one.

All text that comes in is escaped here; numbers are formatted, never pasted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

NUM_COLOURS = 8

# Room around the plotted area for ticks and labels.
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 44
_MIN_SCALE = 0.7  # of letters, on narrow screens; charts are scrolled there
_BAR_HEIGHT = 20
_NAME_CHARACTERS = 28
_NAME_WIDTH = 8.0  # px a character, in wide fonts too
_CELL = 30
_SHOWN_COUNTS = 30  # classes up to which a confusion matrix has its numbers written in


@dataclass(frozen=True)
class Axis:
    """What an axis shows and from where to where; a logarithmic one has positive ends."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where along the axis a value lies, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values along the axis: about five, or the powers of ten, with 2 and 5 times these where few."""
        if self.log:
            powers = [
                10.0**power for power in range(math.floor(math.log10(self.low)), 1 + math.ceil(math.log10(self.high)))
            ]
            factors = (1,) if self.high / self.low > 300 else (1, 2, 5)
            return [power * factor for power in powers for factor in factors if self.low <= power * factor <= self.high]
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Point:
    """A dot, what is said of it when pointed at, and the ends of its interval, if any."""

    x: float
    y: float
    said: str
    low: float = math.nan
    high: float = math.nan


def scatter(title: str, x: Axis, y: Axis, points: Iterable[Point], width: int = 560, height: int = 320) -> str:
    """Dots, with their intervals as thin lines behind them."""
    plot = _Plot(x, y, width, height)
    points = list(points)
    whiskers = "".join(
        f'<path class="whisker" d="M{plot.x(p.x):.1f} {plot.y(p.low):.1f}V{plot.y(p.high):.1f}"/>'
        for p in points
        if not math.isnan(p.low)
    )
    dots = "".join(
        f'<circle class="dot" cx="{plot.x(p.x):.1f}" cy="{plot.y(p.y):.1f}" r="3">'
        f"<title>{escape(p.said)}</title></circle>"
        for p in points
    )
    return plot.drawn(title, whiskers + dots)


def steps(
    title: str, x: Axis, y: Axis, series: Iterable[Sequence[tuple[float, float]]], width: int = 560, height: int = 340
) -> str:
    """One line for each series, at the height of each point up to it from the one before.

    In the colours `s0`, `s1`, … of the page, dashed from the ninth on.
    """
    plot = _Plot(x, y, width, height)
    paths = []
    for i, points in enumerate(series):
        path = "".join(f"V{plot.y(b):.1f}H{plot.x(a):.1f}" for a, b in points)
        dashed = " dashed" if i >= NUM_COLOURS else ""
        begin = f"M{plot.x(x.low):.1f} {plot.y(points[0][1]):.1f}"
        paths.append(f'<path class="line s{i % NUM_COLOURS}{dashed}" d="{begin}{path}"/>')
    return plot.drawn(title, "".join(paths))


def bars(title: str, label: str, points: Sequence[tuple[str, Point]], width: int = 720) -> str:
    """A bar from 0 to 1 for each named value, in this order, with its interval."""
    left, right = 210, 60
    length = width - left - right
    height = _BAR_HEIGHT * len(points) + _BOTTOM
    marks = []
    for fifth in range(6):
        at = left + length * fifth / 5
        marks.append(f'<path class="grid" d="M{at:.1f} 0V{height - _BOTTOM}"/>')
        marks.append(
            f'<text class="tick" x="{at:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{fifth / 5:g}</text>'
        )
    for i, (name, point) in enumerate(points):
        top = i * _BAR_HEIGHT
        middle = top + _BAR_HEIGHT / 2
        marks.append(
            f'<g><title>{escape(point.said)}</title><text class="name" x="{left - 8}" y="{middle + 4:.1f}" '
            f'text-anchor="end">{escape(shortened(name))}</text>'
            f'<rect class="bar" x="{left}" y="{top + 4}" width="{length * point.y:.1f}" height="{_BAR_HEIGHT - 8}"/>'
            f'<text class="tick" x="{width - right + 10}" y="{middle + 4:.1f}">{point.y:.3f}</text></g>'
        )
        if not math.isnan(point.low):
            low, high = left + length * point.low, left + length * point.high
            marks.append(f'<path class="bound" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>')
    marks.append(
        f'<text class="label" x="{left + length / 2:.1f}" y="{height - 8}" text-anchor="middle">{escape(label)}</text>'
    )
    return _svg(title, width, height, "".join(marks))


def matrix(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Counts as shaded cells: rows are what was, columns what was given; shade is the share of the row."""
    num = len(names)
    cell = _CELL if num <= _SHOWN_COUNTS else 14
    left = top = 12 + round(_NAME_WIDTH * min(_NAME_CHARACTERS, max(map(len, names))))
    marks = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        at = top + i * cell
        short = escape(shortened(name))
        across = left + i * cell + cell / 2 + 4
        marks.append(f'<text class="name" x="{left - 8}" y="{at + cell / 2 + 4}" text-anchor="end">{short}</text>')
        marks.append(f'<text class="name" transform="translate({across} {top - 8}) rotate(-90)">{short}</text>')
        total = sum(row)
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            said = f"{name}, given {names[j]}: {count:,} of {total:,}"
            kind = "right" if i == j else "wrong"
            text = ""
            if count and num <= _SHOWN_COUNTS:
                strong = " strong" if share > 0.55 else ""
                middle = f'x="{left + j * cell + cell / 2}" y="{at + cell / 2 + 4}"'
                text = f'<text class="count{strong}" {middle} text-anchor="middle">{count}</text>'
            marks.append(
                f'<g><title>{escape(said)}</title><rect class="cell" x="{left + j * cell}" y="{at}" width="{cell - 1}" '
                f'height="{cell - 1}"/><rect class="{kind}" x="{left + j * cell}" y="{at}" width="{cell - 1}" '
                f'height="{cell - 1}" fill-opacity="{share:.3f}"/>{text}</g>'
            )
    side = num * cell
    return _svg(title, left + side + 2, top + side + 2, "".join(marks))


def shortened(name: str) -> str:
    """A name short enough to stand beside a bar."""
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"


class _Plot:
    """Two axes in a rectangle."""

    def __init__(self, x: Axis, y: Axis, width: int, height: int) -> None:
        self._x, self._y, self._width, self._height = x, y, width, height

    def x(self, value: float) -> float:
        return _LEFT + (self._width - _LEFT - _RIGHT) * self._x.share(value)

    def y(self, value: float) -> float:
        return self._height - _BOTTOM - (self._height - _TOP - _BOTTOM) * self._y.share(value)

    def drawn(self, title: str, inside: str) -> str:
        bottom, right = self._height - _BOTTOM, self._width - _RIGHT
        marks = []
        for tick in self._x.ticks():
            at = self.x(tick)
            marks.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{bottom}"/>')
            marks.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{_said(tick)}</text>')
        for tick in self._y.ticks():
            at = self.y(tick)
            marks.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>')
            marks.append(f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_said(tick)}</text>')
        across, down = (_LEFT + right) / 2, (_TOP + bottom) / 2
        marks.append(
            f'<text class="label" x="{across}" y="{self._height - 8}" text-anchor="middle">'
            f"{escape(self._x.label)}</text>"
        )
        marks.append(
            f'<text class="label" transform="translate(14 {down}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._y.label)}</text>"
        )
        return _svg(title, self._width, self._height, "".join(marks) + inside)


def _said(tick: float) -> str:
    return f"{tick:,.0f}" if tick >= 1000 else f"{tick:.6g}"


def _svg(title: str, width: float, height: float, inside: str) -> str:
    """As wide as the page lets it be, with letters never larger than the page's, nor too small to read."""
    widths = f"max-width:{width:.0f}px;min-width:{width * _MIN_SCALE:.0f}px"
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" style="{widths}"'
    return f'<svg {box} role="img" aria-label="{escape(title)}">{inside}</svg>'
