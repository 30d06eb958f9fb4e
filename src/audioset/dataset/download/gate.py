"""When the next clip may begin: spacing, and longer and longer pauses once a site refuses or the network is down."""

from __future__ import annotations

import random
from typing import Final

FIRST_PAUSE_S = 10.0  # doubled for each that does not help
LONGEST_PAUSE_S = 600.0
MAX_PAUSES = 8  # in a row, half an hour in all
_REFUSALS: Final = 3  # in a row before a refusal of one clip (403) is taken for one of us
_UNREACHED: Final = 10  # in a row before the trouble of one clip's server is taken for the network's


class Gate:
    """Knows no clock: whoever asks says what time it is, in seconds."""

    def __init__(self, spacing_s: float = 0.0) -> None:
        self._spacing_s = spacing_s
        self._refusals = self._unreached = 0
        self._closed_at = float("-inf")
        self.pauses = 0
        self.opens_at = float("-inf")

    @property
    def exhausted(self) -> bool:
        """Whether as many pauses as make sense have been of no use."""
        return self.pauses > MAX_PAUSES

    @property
    def offline(self) -> bool:
        """Whether so many clips in a row could not be reached that it is the fault of none of them."""
        return self._unreached >= _UNREACHED

    @property
    def width(self) -> float:
        """How many clips may be under way at once: after a pause one, until it has gone well."""
        return 1 if self.pauses else float("inf")

    def pass_through(self, now: float) -> None:
        """A clip begins."""
        self.opens_at = max(self.opens_at, now + self._spacing_s)

    def well(self, began: float) -> None:
        """A clip that began then came through, or failed for reasons of its own."""
        if began >= self._closed_at:
            self._refusals = self._unreached = self.pauses = 0

    def refused(self, now: float, began: float, *, surely: bool, wait_s: float = 0.0) -> None:
        """A clip that began then was refused: `surely` for what we are, or perhaps for what it is."""
        if began < self._closed_at:  # one of those that were under way when the pause began
            return
        self._unreached = 0
        self._refusals += 1
        if surely or self._refusals >= _REFUSALS or self.pauses:
            self._close(now, wait_s)

    def unreached(self, now: float, began: float, *, wait_s: float = 0.0) -> None:
        """A clip that began then failed for the network, or for its server."""
        if began < self._closed_at:
            return
        self._unreached += 1
        if self.offline:
            self._close(now, wait_s)

    def _close(self, now: float, wait_s: float) -> None:
        pause_s = min(FIRST_PAUSE_S * 2**self.pauses, LONGEST_PAUSE_S)
        self.pauses += 1
        self._closed_at = now
        # All shards of a cluster are refused at once, and should not come back at once.
        self.opens_at = now + max(wait_s, pause_s) * random.uniform(1.0, 1.5)
