"""What names say without a request."""

from __future__ import annotations

import pytest

from audioset.errors import OptionError
from audioset.storage import is_archive, is_url
from audioset.storage.names import Location, has_audio_suffix, is_audio, location, matcher, split_member


@pytest.mark.parametrize(
    "name", ["s3://b/k", "https://host/a.wav?x=1", "hf://datasets/u/r/a.wav", "GS://b/k", "file:///a"]
)
def test_urls(name: str) -> None:
    assert is_url(name)


@pytest.mark.parametrize(
    "name", ["C:\\x.wav", "C://x", "a::b", "-", "a/b.wav", "://x", "a b://c", "/s3:/b", "shard.tar::a.wav"]
)
def test_names_that_are_no_urls(name: str) -> None:
    assert not is_url(name)


def test_keys_are_taken_as_they_are() -> None:
    assert location("s3://b/a b#1?.wav") == Location("s3", "b/a b#1?.wav")


def test_options_of_the_connection_are_no_part_of_the_key_and_come_back_in_names() -> None:
    where = location("s3://b/k?endpoint_override=http://127.0.0.1:9000&anonymous=1")
    assert where.path == "b/k"
    assert dict(where.options) == {"endpoint_override": "http://127.0.0.1:9000", "anonymous": "1"}
    assert location(where.name("b/other")) == Location("s3", "b/other", where.options)


def test_passwords_in_urls_are_refused_and_not_repeated() -> None:
    with pytest.raises(OptionError, match=r"^s3://…@bucket: holds a password") as refused:
        location("s3://key:secret@bucket/k")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.tar", True),
        ("s3://b/A.TAR.GZ?anonymous=1", True),
        ("https://host/a.tgz?signature=1", True),
        ("d/a.zip", True),
        ("a.wav", False),
        ("tar", False),
        ("d/._a.tar", False),
        ("https://host/a.wav?from=a.tar", False),
    ],
)
def test_archives_by_name(name: str, expected: bool) -> None:
    assert is_archive(name) is expected


def test_audio_by_name() -> None:
    assert is_audio("s3://b/d.tar/x.WAV")
    assert is_audio("https://host/a.flac?signature=a.b")
    assert not is_audio("d/._x.wav")
    assert not has_audio_suffix(".wav")


def test_members_have_an_archive_before_the_mark() -> None:
    assert split_member("s3://b/a.tar::d/x::y.wav") == ("s3://b/a.tar", "d/x::y.wav")
    assert split_member("a::b.wav") is None
    assert split_member("a.tar::") is None
    assert split_member("12::30/a.tar::b.wav") == ("12::30/a.tar", "b.wav")
    assert split_member("http://[::1]:8000/a.tar::b.wav") == ("http://[::1]:8000/a.tar", "b.wav")
    assert split_member("http://[::1]/b.wav") is None


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("b/*.wav", "b/x.wav", "b/d/x.wav"),
        ("b/**/*.wav", "b/x.wav", "c/x.wav"),
        ("b/**/*.wav", "b/d/e/x.wav", "b/x.wave"),
        ("b/?.wav", "b/é.wav", "b/.wav/x"),
        ("b/[a-c]x", "b/bx", "b/dx"),
        ("b/[!a]x", "b/bx", "b/ax"),
        ("b/[x", "b/[x", "b/x"),
        ("b/a.b", "b/a.b", "b/axb"),
    ],
)
def test_patterns_match_as_they_do_on_disks(pattern: str, matching: str, other: str) -> None:
    assert matcher(pattern)(matching)
    assert not matcher(pattern)(other)
