"""What libraries say of a failed request, sorted: tried again, reported, or told apart from a missing file."""

from __future__ import annotations

import pytest

from audioset.storage.troubles import of_error

_ARROW = "When reading information for key '{}' in bucket 'bucket': AWS Error {} during HeadObject operation: {}"


@pytest.mark.parametrize("key", ["clips/a.wav", "clips/401.wav", "it's 403.wav", "404/500.wav", "not found.wav", "503"])
@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        ("NETWORK_CONNECTION", "curlCode: 7, Couldn't connect to server", "transient"),
        ("SLOW_DOWN", "Please reduce your request rate.", "transient"),
        ("ACCESS_DENIED", "No response body.", "denied"),
        ("NO_SUCH_KEY", "The specified key does not exist.", "missing"),
        ("UNKNOWN (HTTP status 409)", "Conflict", "other"),
    ],
)
def test_names_decide_nothing(key: str, code: str, said: str, kind: str) -> None:
    assert of_error(OSError(_ARROW.format(key, code, said))).kind == kind


def test_addresses_decide_nothing() -> None:
    assert of_error(OSError("500 Server Error for url: https://host/403/404.wav")).kind == "transient"
    assert of_error(OSError("418 Client Error for url: https://host/403/404.wav")).kind == "other"
