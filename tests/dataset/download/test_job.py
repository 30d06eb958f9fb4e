"""Downloads from a local server, through yt-dlp's generic extractor."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from audioset.dataset.download import (
    DownloadOptions,
    DownloadProgress,
    download_audio,
    extract,
    gate,
    job,
    read_status,
    remote,
)
from audioset.errors import DatasetError, FetchError, MissingExtraError, OptionError, OutputError

from ._media import RATE, MediaServer, encoded, noise, wav
from .conftest import table

Local = Callable[..., DownloadOptions]
SHORT = noise(3.0)


def reasons(summary: job.DownloadSummary) -> dict[str, str | None]:
    return {entry.key: entry.reason for entry in summary.failures}


def files(folder: Path) -> list[str]:
    """What a user sees in the folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and not path.name.endswith(".lock")]


def test_a_clip_has_the_samples_of_its_seconds(server: MediaServer, local: Local, tmp_path: Path) -> None:
    samples = noise(20.0)
    server.serve("abc", wav(samples))
    summary = download_audio(table(("abc", 3.1, 5.6)), tmp_path, local())
    got, rate = soundfile.read(tmp_path / "abc_3100.flac", dtype="int16")
    assert rate == RATE
    assert np.array_equal(got, samples[round(3.1 * RATE) : round(5.6 * RATE)])
    assert (summary.clips, summary.skipped, summary.failures, summary.audio_s) == (1, 0, (), 2.5)
    assert files(tmp_path) == ["abc_3100.flac", "ledger.sqlite"]
    assert leftovers(tmp_path) == []


def test_only_a_small_part_of_a_long_file_is_sent(server: MediaServer, local: Local, tmp_path: Path) -> None:
    content = wav(np.zeros((600 * RATE * 2, 1), np.int16))  # 38 MB
    served = server.serve("long", content)
    download_audio(table(("long", 1000.0, 1002.0)), tmp_path, local())
    ranges = [asked for asked in served.asked if asked]
    assert len(ranges) <= 3
    for asked in ranges:
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        assert last + 1 - first == remote.BLOCK_BYTES
    assert (tmp_path / "long_1000000.flac").exists()
    # yt-dlp looks at the page and hangs up: what a socket holds is sent, the rest is not.
    assert served.sent < len(content) / 4


@pytest.mark.parametrize(
    ("codec", "kind", "options"),
    [
        ("aac", "mp4", {}),
        ("aac", "mp4", {"movflags": "dash+empty_moov+default_base_moof+global_sidx", "frag_duration": "5000000"}),
        ("libopus", "webm", {}),
    ],
    ids=["m4a", "dash m4a", "webm"],
)
def test_a_cut_equals_the_part_of_the_whole(
    server: MediaServer, local: Local, tmp_path: Path, codec: str, kind: str, options: dict[str, str]
) -> None:
    content = encoded(noise(25.0, rate=48_000, channels=1), codec, kind, 48_000, **options)
    server.serve("m", content, content_type=f"audio/{kind}")
    segments = table(("m", 0.0, 25.0), ("m", 21.237, 23.0))
    summary = download_audio(segments, tmp_path, local(format="wav"))
    assert summary.failures == ()
    whole, rate = soundfile.read(tmp_path / "m_0.wav", dtype="int16")
    cut, _ = soundfile.read(tmp_path / "m_21237.wav", dtype="int16")
    assert len(cut) == round(23 * rate) - round(21.237 * rate)
    assert np.array_equal(cut, whole[round(21.237 * rate) : round(23 * rate)])


@pytest.mark.parametrize("form", ["flac", "wav", "opus"])
def test_every_format_has_the_seconds_that_were_asked_for(
    server: MediaServer, local: Local, tmp_path: Path, form: str
) -> None:
    server.serve("abc", wav(noise(4.0, rate=44_100), 44_100))
    download_audio(table(("abc", 1.0, 2.5)), tmp_path, local(format=form))
    info = soundfile.info(tmp_path / f"abc_1000.{form}")
    rate = 48_000 if form == "opus" else 44_100  # Opus does not know 44.1 kHz
    assert (info.samplerate, info.channels, info.frames) == (rate, 2, round(1.5 * rate))


def test_a_cut_resampled_equals_the_part_of_the_whole_resampled(
    server: MediaServer, local: Local, tmp_path: Path
) -> None:
    server.serve("abc", wav(noise(6.0, rate=44_100), 44_100))
    how = local(rate_hz=16_000, mono=True, format="wav")
    download_audio(table(("abc", 0.0, 6.0), ("abc", 2.345, 4.001)), tmp_path, how)
    whole, rate = soundfile.read(tmp_path / "abc_0.wav", dtype="int16")
    cut, _ = soundfile.read(tmp_path / "abc_2345.wav", dtype="int16")
    assert (rate, whole.ndim, len(whole)) == (16_000, 1, 96_000)
    part = whole[round(2.345 * rate) : round(4.001 * rate)].astype(int)
    assert len(cut) == len(part)
    assert np.abs(cut - part).max() <= 1


def test_24_bits_stay_24_bits(server: MediaServer, local: Local, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-(2**23), 2**23, (RATE, 1)).astype(np.int32) << 8
    server.serve("abc", wav(samples, subtype="PCM_24"))
    download_audio(table(("abc", 0.5, 1.0)), tmp_path, local())
    got, _ = soundfile.read(tmp_path / "abc_500.flac", dtype="int32", always_2d=True)
    assert np.array_equal(got, samples[RATE // 2 :])


def test_each_failure_has_its_reason_and_stops_no_other(server: MediaServer, local: Local, tmp_path: Path) -> None:
    content = wav(SHORT)
    server.serve("good", content)
    server.serve("refused", content, always=403)
    server.serve("gone", content, always=410)
    server.serve("broken", content, always=503)
    server.serve("dropped", content, drop_after=1000)
    server.serve(
        "cut_off",
        encoded(noise(20.0, channels=1), "aac", "mp4", movflags="+faststart")[:60_000],
        content_type="audio/mp4",
    )
    server.serve("nonsense", b"\x00\x01" * 50_000)
    server.serve("listed", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    server.serve("login", b"<!DOCTYPE html><html>sign in</html>")
    server.serve("page", b"<html><body>no video here</body></html>", content_type="text/html")
    server.serve("whole_only", wav(noise(20.0)), ranges=False)
    names = ["missing", *server.files]
    rows = [(name, 1.0, 18.0 if name == "cut_off" else 2.0) for name in names]
    summary = download_audio(table(*rows), tmp_path, local(tries=2, jobs=2))
    assert {key.rpartition("_")[0]: reason for key, reason in reasons(summary).items()} == {
        "missing": "removed",
        "refused": "refused",
        "gone": "removed",
        "broken": "network",
        "dropped": "network",
        "cut_off": "damaged",
        "nonsense": "damaged",
        "listed": "no_format",
        "login": "refused",
        "page": "no_format",
        "whole_only": "no_format",
    }
    assert files(tmp_path) == ["good_1000.flac", "ledger.sqlite"]
    by_key = {entry.key: entry for entry in summary.failures}
    assert (by_key["missing_1000"].tries, by_key["missing_1000"].permanent) == (1, True)
    assert (by_key["broken_1000"].tries, by_key["broken_1000"].permanent) == (2, False)
    assert by_key["broken_1000"].message == "the site answers 503 Service Unavailable"


def test_a_server_that_falls_silent_is_given_up(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("page", b"<html></html>", content_type="text/html", stall=True)
    server.serve("media", wav(SHORT), stall_ranges=True)
    segments = table(("page", 1.0, 2.0), ("media", 1.0, 2.0))
    summary = download_audio(segments, tmp_path, local(tries=1, timeout_s=0.3))
    assert reasons(summary)["media_1000"] == "stalled"
    assert reasons(summary)["page_1000"] == "stalled"


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(
    server: MediaServer, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "_CLIP_TIMEOUTS", 1)
    server.serve("page", bytes(10_000), content_type="text/html", drip_s=0.02)
    summary = download_audio(table(("page", 1.0, 2.0)), tmp_path, local(tries=1, timeout_s=0.5))
    assert [(entry.reason, entry.message) for entry in summary.failures] == [
        ("stalled", "the server sends too slowly; the time for one clip is over")
    ]
    assert summary.wall_s < 60  # of 200


def test_a_page_without_end_is_not_read_to_it(
    server: MediaServer, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MAX_ANSWER_BYTES", 1 << 20)
    served = server.serve("page", b"<html>" + bytes(1 << 25), content_type="text/html")
    summary = download_audio(table(("page", 1.0, 2.0)), tmp_path, local())
    assert reasons(summary) == {"page_1000": "no_format"}
    assert served.sent < len(served.content) / 2


def test_files_of_this_machine_are_no_videos(local: Local, tmp_path: Path) -> None:
    segments = pa.table({"url": ["file:///etc/hostname"], "start_s": [0.0], "end_s": [1.0]})
    (failure,) = download_audio(segments, tmp_path, local()).failures
    assert (failure.reason, failure.permanent, failure.tries) == ("address", True, 1)
    assert failure.message == "file:///etc/hostname: expected an address that begins with http:// or https://"


def test_a_video_that_ends_early_is_too_short(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("abc", wav(SHORT))
    segments = table(("abc", 1.0, 11.0), ("abc", 2.0, 3.2), ("abc", 2.5, 3.3), ("abc", 5.0, 6.0))
    summary = download_audio(segments, tmp_path, local())
    assert reasons(summary) == {"abc_1000": "too_short", "abc_2500": "too_short", "abc_5000": "too_short"}
    assert summary.failures[0].message == "the video is 3.000 s long; the segment ends at 11.000 s"
    assert soundfile.info(tmp_path / "abc_2000.flac").frames == RATE  # 0.2 s less is within what containers round
    again = download_audio(segments, tmp_path, local(allow_short=True), retry_failed=True)
    assert reasons(again) == {"abc_5000": "too_short"}  # nothing of it is there
    assert soundfile.info(tmp_path / "abc_1000.flac").frames == 2 * RATE


def test_what_is_done_is_not_asked_for_again(server: MediaServer, local: Local, tmp_path: Path) -> None:
    good, bad = server.serve("good", wav(SHORT)), server.serve("bad", b"", always=404)
    segments = table(("good", 1.0, 2.0), ("bad", 1.0, 2.0))
    download_audio(segments, tmp_path, local())
    asked = len(good.asked), len(bad.asked)
    again = download_audio(segments, tmp_path, local())
    assert (len(good.asked), len(bad.asked)) == asked
    assert (again.clips, again.skipped, reasons(again)) == (0, 1, {"bad_1000": "removed"})
    bad.always, bad.content = None, wav(SHORT)
    assert download_audio(segments, tmp_path, local(), retry_failed=True).failures == ()
    assert len(good.asked) == asked[0]


def test_a_file_that_was_deleted_and_is_no_longer_to_be_had_has_failed(
    server: MediaServer, local: Local, tmp_path: Path
) -> None:
    served = server.serve("abc", wav(SHORT))
    segments = table(("abc", 0.0, 1.0))
    download_audio(segments, tmp_path, local())
    (tmp_path / "abc_0.flac").unlink()
    served.always = 404
    again = download_audio(segments, tmp_path, local(), shard=(1, 2))  # whose ledger is not the one that says done
    assert (again.clips, again.skipped, reasons(again)) == (0, 0, {"abc_0": "removed"})


def test_a_file_that_was_changed_or_deleted_is_made_again(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("abc", wav(SHORT))
    segments = table(("abc", 0.0, 1.0), ("abc", 1.0, 2.0), ("abc", 2.0, 3.0))
    download_audio(segments, tmp_path, local())
    (tmp_path / "abc_0.flac").unlink()
    (tmp_path / "abc_1000.flac").write_bytes(b"half")
    summary = download_audio(segments, tmp_path, local())
    assert (summary.clips, summary.skipped) == (2, 1)
    assert soundfile.info(tmp_path / "abc_1000.flac").frames == RATE


def test_temporary_failures_are_tried_again_in_a_run_and_in_the_next(
    server: MediaServer, local: Local, tmp_path: Path
) -> None:
    served = server.serve("abc", wav(SHORT), statuses=[500, 502, 503, 500])
    segments = table(("abc", 0.0, 1.0))
    first = download_audio(segments, tmp_path, local(tries=3))
    assert [(entry.reason, entry.tries) for entry in first.failures] == [("network", 3)]
    assert len(served.asked) == 3
    second = download_audio(segments, tmp_path, local(tries=3))
    assert (second.clips, second.failures) == (1, ())
    (entry,) = read_status(tmp_path).entries
    assert (entry.state, entry.tries, entry.reason, entry.message) == ("done", 5, None, None)


def test_throttling_pauses_all_and_counts_against_no_clip(server: MediaServer, local: Local, tmp_path: Path) -> None:
    for name in "abcd":
        # The page is refused, then its media.
        server.serve(name, wav(SHORT), statuses=[429, 200, 429], headers={"Retry-After": "0"})
    seen: list[DownloadProgress] = []
    segments = table(*((name, 0.0, 1.0) for name in "abcd"))
    summary = download_audio(segments, tmp_path, local(jobs=4, tries=1), progress=seen.append)
    assert (summary.clips, summary.failures) == (4, ())
    assert max(at.paused_s for at in seen) > 0
    assert seen[-1].clips == seen[-1].total == 4
    assert {entry.tries for entry in read_status(tmp_path).entries} == {1}


def test_a_site_that_goes_on_refusing_ends_the_job_and_keeps_all(
    server: MediaServer, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_PAUSES", 2)
    server.serve("good", wav(SHORT))
    for name in "abc":
        server.serve(name, b"", always=429)
    segments = table(("good", 0.0, 1.0), *((name, 0.0, 1.0) for name in "abc"))
    with pytest.raises(FetchError, match=r"(?s)site refuses, clip after clip.*429.*1 clips made, 3 left.*--cookies"):
        download_audio(segments, tmp_path, local(jobs=1))
    assert read_status(tmp_path).counts == {"done": 1, "failed": 0, "pending": 3}
    for name in "abc":
        server.serve(name, wav(SHORT))
    again = download_audio(segments, tmp_path, local())
    assert (again.clips, again.skipped) == (3, 1)


def test_a_clip_that_is_always_refused_holds_up_no_other(
    server: MediaServer, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_PAUSES", 2)
    server.serve("bad", b"", always=429)
    for name in "abc":
        server.serve(name, wav(SHORT))
    with pytest.raises(FetchError, match="3 clips made, 1 left"):
        download_audio(table(*((name, 0.0, 1.0) for name in ("bad", "a", "b", "c"))), tmp_path, local(jobs=1))


def test_a_network_that_is_down_ends_the_job_and_counts_against_no_clip(
    server: MediaServer, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_PAUSES", 2)
    names = [f"v{i}" for i in range(30)]
    segments = table(*((name, 0.0, 1.0) for name in names))
    nobody = local(url_template="http://127.0.0.1:9/{ytid}", tries=1, jobs=4)
    with pytest.raises(FetchError, match=r"(?s)network.*cannot be reached, clip after clip, after 2 pauses.*30 left"):
        download_audio(segments, tmp_path, nobody)
    entries = list(read_status(tmp_path).entries)
    assert {(entry.state, entry.tries) for entry in entries} == {("pending", 0)}
    assert sum(entry.reason == "network" for entry in entries) < 20  # and no more were tried
    for name in names:
        server.serve(name, wav(SHORT))
    assert download_audio(segments, tmp_path, local(jobs=4)).clips == 30


def test_a_network_that_comes_back_is_waited_for(server: MediaServer, local: Local, tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(12)]
    for name in names:
        server.serve(name, wav(SHORT), statuses=[503])
    seen: list[DownloadProgress] = []
    segments = table(*((name, 0.0, 1.0) for name in names))
    summary = download_audio(segments, tmp_path, local(tries=1), progress=seen.append)
    assert (summary.clips, summary.failures) == (12, ())
    assert {entry.tries for entry in read_status(tmp_path).entries} == {1}
    assert max(at.paused_s for at in seen) > 0
    assert seen[-1].clips + seen[-1].failed == seen[-1].total == 12


def test_a_question_for_bots_is_throttling() -> None:
    from audioset.dataset.download.failures import of_saying

    said = "ERROR: [youtube] abc: Sign in to confirm you're not a bot. Use --cookies-from-browser or --cookies"
    assert of_saying(said).reason == "throttled"


@pytest.mark.parametrize(("said", "reason"), [
    ("[youtube] x: Private video. Sign in if you've been granted access to this video", "private"),
    ("[youtube] x: Video unavailable. This video has been removed by the uploader", "removed"),
    ("[youtube] x: Sign in to confirm your age. This video may be inappropriate for some users.", "age_restricted"),
    ("[youtube] x: The uploader has not made this video available in your country", "region"),
    ("[youtube] x: Join this channel to get access to members-only content like this video", "paid"),
    ("[youtube] x: This live event will begin in 3 days.", "live"),
    ("[youtube] x: Video unavailable. This content isn't available, try again later. The current session has been "
     "rate-limited by YouTube for up to an hour.", "throttled"),
    ("[youtube] x: Requested format is not available. Use --list-formats", "no_format"),
    ("[youtube] x: This video is no longer available because the YouTube account associated with this video has been "
     "terminated.", "removed"),
    ("[youtube] x: Read timed out. (read timeout=20.0)", "stalled"),
    ("[youtube] x: nsig extraction failed", "unknown"),
])  # fmt: skip
def test_what_yt_dlp_says_is_understood(said: str, reason: str) -> None:
    from audioset.dataset.download.failures import of_saying

    assert of_saying(said).reason == reason


def test_cookies_reach_page_and_media_and_are_noted_nowhere(server: MediaServer, local: Local, tmp_path: Path) -> None:
    secret = "s3cr3tsessionvalue"  # noqa: S105 - of no one
    cookies = tmp_path / "cookies.txt"
    text = f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\t{secret}\n"
    cookies.write_text(text)
    served = server.serve("abc", wav(SHORT), cookie=f"session={secret}")
    server.serve("bad", b"", always=404, cookie=secret)
    segments = table(("abc", 0.0, 1.0), ("bad", 0.0, 1.0))
    assert reasons(download_audio(segments, tmp_path / "without", local(tries=1)))["abc_0"] == "refused"
    out = tmp_path / "with"
    assert reasons(download_audio(segments, out, local(cookies=cookies))) == {"bad_0": "removed"}
    assert [asked is None for asked in served.asked] == [True, True, False]
    assert cookies.read_text() == text
    assert all(secret.encode() not in path.read_bytes() for path in out.iterdir())


def test_cookies_that_cannot_be_read_are_refused_at_once_and_shown_nowhere(
    local: Local, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match=r"none\.txt: cannot be read \(No such file"):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local(cookies=tmp_path / "none.txt"))
    bad = tmp_path / "bad.txt"
    for content, said in (
        ("# Netscape HTTP Cookie File\nhost\tsecret nonsense\n", "line 2 is no cookie; expected a Netscape"),
        ('[{"name": "session", "value": "secret"}]', "line 1 is no cookie"),
        ("host\tFALSE\t/\tFALSE\tsecret\tsession\tsecret\n", "line 1 is no cookie"),
        ("host\tFALSE\t/\tFALSE\t0\tsession\tsecret\n", "cannot be read"),  # no header
    ):
        bad.write_text(content)
        with pytest.raises(OptionError, match=said) as caught:
            download_audio(table(("abc", 0.0, 1.0)), tmp_path, local(cookies=bad))
        assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert "secret" not in "".join(capfd.readouterr())
    with pytest.raises(OptionError, match="lynx: expected BROWSER"):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local(cookies_from_browser="lynx"))


def test_shards_are_disjoint_complete_and_seen_together(server: MediaServer, local: Local, tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(7)]
    for name in names:
        server.serve(name, wav(SHORT))
    segments = table(*((name, 0.0, 1.0) for name in names))
    counts = [download_audio(segments, tmp_path, local(), shard=(i, 3)).clips for i in (1, 2, 3)]
    assert counts == [3, 2, 2]
    status = read_status(tmp_path)
    assert [path.name for path in status.ledgers] == [f"ledger-{i}-of-3.sqlite" for i in (1, 2, 3)]
    assert status.counts == {"done": 7, "failed": 0, "pending": 0}
    # Another division into shares finds what is there.
    assert download_audio(segments, tmp_path, local(), shard=(2, 2)).skipped == 3
    assert all(len(served.asked) == 2 for served in server.files.values())


def test_limit_counts_the_segments_of_all_shards(server: MediaServer, local: Local, tmp_path: Path) -> None:
    for name in "abcde":
        server.serve(name, wav(SHORT))
    segments = table(*((name, 0.0, 1.0) for name in "abcde"))
    for i in (1, 2):
        download_audio(segments, tmp_path, local(), limit=3, shard=(i, 2))
    assert sorted(path.name[0] for path in tmp_path.glob("*.flac")) == ["a", "b", "c"]


def test_ids_with_a_dash_in_front_and_ids_of_one_spelling_have_files_of_their_own(
    server: MediaServer, local: Local, tmp_path: Path
) -> None:
    ids = ["-dash", "--help", "AbC", "aBc", "plain"]
    for i, name in enumerate(ids):
        server.serve(name, wav(noise(1.0, seed=i)))
    segments = table(*((name, 0.0, 1.0) for name in ids))
    assert download_audio(segments, tmp_path, local()).clips == 5
    made = sorted(path.name for path in tmp_path.glob("*.flac"))
    assert made == ["--help_0.flac", "-dash_0.flac", "AbC_0~5.flac", "aBc_0~2.flac", "plain_0.flac"]
    assert len({name.lower() for name in made}) == 5
    assert download_audio(segments, tmp_path, local()).skipped == 5
    # One that comes later finds the name taken by the one that is there.
    server.serve("PLAIN", wav(noise(1.0, seed=9)))
    download_audio(table(("PLAIN", 0.0, 1.0)), tmp_path, local())
    got, _ = soundfile.read(tmp_path / "PLAIN_0~1f.flac", dtype="int16")
    assert np.array_equal(got, noise(1.0, seed=9))


def test_jobs_run_at_once_and_no_more(server: MediaServer, local: Local, tmp_path: Path) -> None:
    released = threading.Event()
    for name in "abcdef":
        server.serve(name, wav(SHORT), slow=released)

    def look(_: DownloadProgress) -> None:
        if server.parts_at_once >= 3:
            released.set()

    segments = table(*((n, 0.0, 1.0) for n in "abcdef"))
    assert download_audio(segments, tmp_path, local(jobs=3), progress=look).clips == 6
    assert server.most_at_once == 3


def test_addresses_may_have_braces(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("abc", wav(SHORT))
    how = local(url_template=f"{server.template}?filter={{a}}")
    assert download_audio(table(("abc", 0.0, 1.0)), tmp_path, how).failures == ()


def test_videos_of_other_sites_are_named_by_their_address(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("talk.wav", wav(SHORT))
    url = server.template.format(ytid="talk.wav")
    csv = tmp_path / "mine.csv"
    csv.write_text(f"url,start_s,end_s\n{url},0.5,1.5\n", encoding="utf-8")
    summary = download_audio(csv, tmp_path / "out", local(url_template="http://127.0.0.1:9/{ytid}"))
    assert (summary.clips, summary.failures) == (1, ())
    (made,) = (tmp_path / "out").glob("*_500.flac")
    assert len(made.name) == len("0123456789a_500.flac")


@pytest.mark.parametrize(("rows", "said"), [
    ([("a/../../b", 0.0, 1.0)], r"'a/\.\./\.\./b' from 0\.0 to 1\.0 s; expected letters"),
    ([("abc", 2.0, 1.0)], r"'abc' from 2\.0 to 1\.0 s; expected 0 ≤ start_s < end_s"),
    ([("abc", 0.0, 1.0), ("abc", 0.0, 2.0)], r"abc_0 ends at 1\.0 and at 2\.0 s; expected one clip"),
])  # fmt: skip
def test_segments_that_are_none_are_refused(
    local: Local, tmp_path: Path, rows: list[tuple[str, float, float]], said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        download_audio(table(*rows), tmp_path, local())


def test_tables_without_the_columns_are_refused(local: Local, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="columns a; expected start_s, end_s and ytid or url"):
        download_audio(pa.table({"a": [1]}), tmp_path, local())
    with pytest.raises(OptionError, match="no labels"):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local(), classes=["Dog"])


@pytest.mark.parametrize(("how", "said"), [
    ({"format": "mp3"}, "format: 'mp3'; expected flac, wav, opus"),
    ({"format": "opus", "rate_hz": 44_100}, "44100 with format opus, which knows 8000, 12000"),
    ({"rate_hz": 10}, "rate_hz: 10; expected"),
    ({"jobs": 0}, "jobs: 0; expected 1"),
    ({"max_height": 720}, "max_height: 720 without video; expected both, or neither"),
    ({"timeout_s": 0.0}, "timeout_s: 0.0; expected"),
    ({"pause_s": -1.0}, "pause_s: -1.0; expected"),
    ({"url_template": "http://x"}, "url_template"),
])  # fmt: skip
def test_options_out_of_range_are_refused(local: Local, tmp_path: Path, how: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local(**how))


def test_one_folder_holds_clips_of_one_kind(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("abc", wav(SHORT))
    download_audio(table(("abc", 0.0, 1.0)), tmp_path, local())
    with pytest.raises(OptionError, match=r"were made with format flac.*expected format wav.*another folder"):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local(format="wav"), shard=(1, 2))


def test_a_ledger_in_use_or_damaged_is_refused(server: MediaServer, local: Local, tmp_path: Path) -> None:
    from audioset.dataset.download.ledger import Ledger

    server.serve("abc", wav(SHORT))
    ledger = Ledger(tmp_path, (1, 1), local().settings)
    try:
        with pytest.raises(OutputError, match=r"ledger\.sqlite: another process is writing it"):
            download_audio(table(("abc", 0.0, 1.0)), tmp_path, local())
    finally:
        ledger.close()
    ledger.path.write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(DatasetError, match=r"ledger\.sqlite: damaged, or not a ledger.*Move it away"):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local())
    with pytest.raises(DatasetError, match="no ledger"):
        read_status(tmp_path / "nowhere")


def test_without_yt_dlp_it_says_what_to_install(local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(MissingExtraError, match=r"pip install yt-dlp"):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local())


SCRIPT = """
import signal
import sys
from pathlib import Path
import pyarrow as pa
from audioset.dataset.download import DownloadOptions, download_audio
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
names = sys.argv[3].split(",")
segments = pa.table({"ytid": names, "start_s": [0.0] * len(names), "end_s": [1.0] * len(names)})
try:
    download_audio(segments, sys.argv[1], DownloadOptions(url_template=sys.argv[2], jobs=2))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_stopped_job_goes_on_where_it_was(
    server: MediaServer, local: Local, tmp_path: Path, how: signal.Signals
) -> None:
    released = threading.Event()
    names = [f"v{i}" for i in range(6)]
    for i, name in enumerate(names):
        server.serve(name, wav(SHORT), slow=released if i >= 3 else None)
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, out, server.template, ",".join(names)])
    try:
        until = time.monotonic() + 60
        while len(list(out.glob("*.flac"))) < 3 or sum(len(server.files[n].asked) for n in names[3:]) < 4:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(how)
        assert process.wait(timeout=30) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    seen = [name for name in files(out) if not name.endswith("-journal")]  # SQLite's own, after a kill
    assert seen == ["ledger.sqlite", *(f"v{i}_0.flac" for i in range(3))]
    assert how == signal.SIGKILL or leftovers(out) == []
    assert read_status(out).counts["pending"] >= 3
    released.set()
    asked = len(server.files["v0"].asked)
    segments = table(*((name, 0.0, 1.0) for name in names))
    summary = download_audio(segments, out, local())
    assert (summary.clips + summary.skipped, summary.failures) == (6, ())
    assert summary.skipped >= 2  # of three files, a kill may leave the last without its note
    assert len(server.files["v0"].asked) == asked
    assert leftovers(out) == []


def test_a_ledger_that_is_written_can_be_read(server: MediaServer, local: Local, tmp_path: Path) -> None:
    released = threading.Event()
    server.serve("a", wav(SHORT))
    server.serve("b", wav(SHORT), slow=released)
    seen: list[dict[str, int]] = []

    def look(at: DownloadProgress) -> None:
        if at.clips == 1 and not seen:
            seen.append(read_status(tmp_path).counts)
            released.set()

    download_audio(table(("a", 0.0, 1.0), ("b", 0.0, 1.0)), tmp_path, local(jobs=1), progress=look)
    assert seen == [{"done": 1, "failed": 0, "pending": 1}]


def test_a_file_in_place_of_the_folder_is_called_so(local: Local, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    for folder in ("out", "out/deeper"):
        with pytest.raises(OutputError, match=rf"{folder}: .*a file is where a folder is wanted.; expected a folder"):
            download_audio(table(("abc", 0.0, 1.0)), tmp_path / folder, local())


def test_a_disk_that_refuses_ends_the_job(
    server: MediaServer, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("abc", wav(SHORT))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full"):
        download_audio(table(("abc", 0.0, 1.0)), tmp_path, local())
    monkeypatch.undo()
    assert read_status(tmp_path).counts["pending"] == 1


def test_reports_list_every_failure(server: MediaServer, local: Local, tmp_path: Path) -> None:
    from audioset.dataset.download import write_report

    server.serve("abc", wav(SHORT))
    summary = download_audio(table(("abc", 0.0, 1.0), ("x", 0.0, 1.0), ("y", 0.0, 1.0)), tmp_path, local())
    write_report(summary.failures, tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [(row["key"], row["reason"], row["permanent"], row["tries"]) for row in rows] == [
        ("x_0", "removed", True, 1),
        ("y_0", "removed", True, 1),
    ]
    write_report(summary.failures, tmp_path / "r.csv")
    lines = (tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("key,ytid,start_s,end_s,url,state,reason,permanent,message")
    assert len(lines) == 3
    with pytest.raises(OptionError, match=r"r\.txt: expected a name that ends in"):
        write_report(summary.failures, tmp_path / "r.txt")
