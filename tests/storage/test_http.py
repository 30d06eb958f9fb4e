"""Files on web servers: what is asked of the server, and what becomes of its faults."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from audioset import audio
from audioset.errors import AudioError
from audioset.storage import open_input, size_of, troubles

from .conftest import wav
from .servers import WebServer


def test_a_small_file_is_one_request(web: WebServer) -> None:
    web.files["/a.wav"] = wav(1.0)
    assert len(audio.read(f"{web.url}/a.wav")) == 16_000
    assert len(web.requests) == 1


def test_a_window_of_a_long_file_reads_no_more_than_it_needs(web: WebServer) -> None:
    content = wav(100.0)
    web.files["/long.wav"] = content
    whole = np.concatenate([*audio.stream(f"{web.url}/long.wav")])
    web.sent_bytes = 0
    window = np.concatenate([*audio.stream(f"{web.url}/long.wav", start_s=70.0, duration_s=1.0)])
    np.testing.assert_array_equal(window, whole[70 * 16_000 : 71 * 16_000])
    assert web.sent_bytes < len(content) // 10


def test_reading_on_takes_ever_larger_blocks(web: WebServer, rng: np.random.Generator) -> None:
    web.files["/long.wav"] = content = rng.bytes(19_000_000)
    with open_input(f"{web.url}/long.wav") as file:
        assert file.read() == content
    assert len(web.requests) < 20


def test_names_with_spaces_and_letters_of_any_language_are_escaped(web: WebServer) -> None:
    web.files["/dé/a b.wav"] = wav(1.0)
    assert len(audio.read(f"{web.url}/dé/a b.wav")) == 16_000
    assert len(audio.read(f"{web.url}/d%C3%A9/a%20b.wav")) == 16_000


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"a\.wav: does not exist \(the server answers 404 Not Found\)"),
        (403, r"a\.wav: access denied .* ~/\.netrc"),
    ],
)
def test_what_will_not_change_is_not_asked_for_again(web: WebServer, status: int, message: str) -> None:
    web.files["/a.wav"] = wav(1.0)
    web.faults["/a.wav"].append(status)
    with pytest.raises(AudioError, match=message):
        audio.read(f"{web.url}/a.wav")
    assert len(web.requests) == 1


def test_what_may_pass_is_asked_for_again(web: WebServer) -> None:
    web.files["/a.wav"] = wav(1.0)
    web.faults["/a.wav"].extend([500, 503, ("cut", 1000)])
    assert len(audio.read(f"{web.url}/a.wav")) == 16_000
    assert len(web.requests) == 4


def test_trying_again_has_an_end(web: WebServer) -> None:
    web.files["/a.wav"] = wav(1.0)
    web.faults["/a.wav"].extend([500] * 20)
    with pytest.raises(
        AudioError, match=r"a\.wav: cannot be reached \(the server answers 500 .*\), also when tried again"
    ):
        audio.read(f"{web.url}/a.wav")
    assert len(web.requests) == troubles.TRIES


def test_a_host_that_does_not_answer_is_named() -> None:
    with pytest.raises(AudioError, match=r"http://127\.0\.0\.1:9/a\.wav: cannot be reached \(.*refused"):
        audio.read("http://127.0.0.1:9/a.wav")


def test_servers_without_ranges_are_read_too(web: WebServer) -> None:
    web.has_ranges = False
    web.files["/a.wav"] = wav(10.0)
    assert len(audio.read(f"{web.url}/a.wav")) == 160_000


def test_an_empty_file_is_named_as_such(web: WebServer) -> None:
    web.files["/a.wav"] = b""
    with pytest.raises(AudioError, match=r"a\.wav: empty file"):
        audio.read(f"{web.url}/a.wav")


def test_a_file_that_changes_meanwhile_is_refused(web: WebServer) -> None:
    web.files["/a.wav"] = wav(60.0)
    with open_input(f"{web.url}/a.wav") as file:
        file.read(1000)
        web.files["/a.wav"] = wav(60.0, 880.0)
        with pytest.raises(AudioError, match=r"a\.wav: failed \(the file has changed while it was read\)"):
            file.read()


def test_redirects_are_followed_but_not_from_https_to_http(web: WebServer) -> None:
    from requests import Response

    from audioset.storage.http import _Session
    from audioset.storage.troubles import Trouble

    web.files["/a.wav"] = web.files["/old.wav"] = wav(1.0)
    web.faults["/old.wav"].append(("to", f"{web.url}/a.wav"))
    assert len(audio.read(f"{web.url}/old.wav")) == 16_000
    answer = Response()
    answer.status_code, answer.url = 302, "https://host/a.wav"
    answer.headers["Location"] = "http://host/a.wav"
    with pytest.raises(Trouble, match="from https to http"):
        _Session().get_redirect_target(answer)


def test_sizes_are_asked_for_without_the_content(web: WebServer) -> None:
    web.files["/a.wav"] = wav(1.0)
    assert size_of(f"{web.url}/a.wav") == 32_044
    assert size_of(f"{web.url}/gone.wav") is None
    assert web.sent_bytes == 0


def test_many_files_are_read_at_once(web: WebServer) -> None:
    web.files["/long.wav"] = content = wav(100.0)
    read: list[bytes] = []

    def work() -> None:
        with open_input(f"{web.url}/long.wav") as file:
            read.append(file.read())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [content] * 8


def test_files_behave_as_files_do(web: WebServer) -> None:
    web.files["/a.wav"] = content = wav(30.0)
    with open_input(f"{web.url}/a.wav") as file:
        assert file.name == f"{web.url}/a.wav"
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert file.seek(-10, 2) == len(content) - 10
        assert file.read(100) == content[-10:]
        assert file.read(1) == b""
        assert file.seek(500_000) == 500_000
        assert file.read(70_000) == content[500_000:570_000]
        file.seek(-70_000, 1)
        assert file.read(4) == content[500_000:500_004]
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
