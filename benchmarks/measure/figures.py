"""Repeats and what is made of them: medians, and ratios that are taken within a repeat."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

from measure.protocol import NotAvailableError, Reply

Job = Callable[[], Reply]


class Spread(TypedDict):
    """A figure over the repeats."""

    median: float
    min: float
    max: float


def spread(values: Iterable[float], digits: int = 4) -> Spread:
    """Return median, least and greatest, to so many significant digits."""
    known = list(values)
    return Spread(
        median=rounded(statistics.median(known), digits),
        min=rounded(min(known), digits),
        max=rounded(max(known), digits),
    )


def rounded(value: float, digits: int = 4) -> float:
    """Return a number to so many significant digits."""
    return float(f"{value:.{digits}g}")


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Return the ratios within each repeat, so that a machine whose speed drifts does not decide them."""
    return spread(one / other for one, other in zip(above, below, strict=True))


def interleaved(
    jobs: Mapping[str, Job], repeats: int, say: Callable[[str], None], *, warm_up: bool = True
) -> tuple[dict[str, list[Reply]], dict[str, str]]:
    """Run every job once, then every job again, and so on: A B C A B C.

    Returns
    -------
    replies : dict of str to list
        Of each job, one a repeat; without the first round, which warms caches up.
    failed : dict of str to str
        Jobs that failed in some round, and why; they are not in `replies`.
    """
    replies: dict[str, list[Reply]] = {name: [] for name in jobs}
    failed: dict[str, str] = {}
    for number in range(-1 if warm_up else 0, repeats):
        say("warm-up" if number < 0 else f"repeat {number + 1} of {repeats}")
        for name, job in jobs.items():
            if name in failed:
                continue
            try:
                reply = job()
            except NotAvailableError as error:
                failed[name] = str(error)
                continue
            if number >= 0:
                replies[name].append(reply)
    return {name: found for name, found in replies.items() if name not in failed}, failed
