from __future__ import annotations

import signal

import pytest

from audioset.cluster.session import _sigterm_kept


@pytest.mark.parametrize(
    ("before", "after"), [(signal.default_int_handler, signal.default_int_handler), (signal.SIG_DFL, signal.SIG_IGN)]
)
def test_who_knows_what_to_do_at_sigterm_goes_on_to_do_it(before: signal._HANDLER, after: signal._HANDLER) -> None:
    """Ray puts its own handler in the place of a program's; where there is none, its own is better than nothing."""
    found = signal.signal(signal.SIGTERM, before)
    try:
        with _sigterm_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray would its own
        assert signal.getsignal(signal.SIGTERM) is after
    finally:
        signal.signal(signal.SIGTERM, found)
