"""Pictures that are cut with the sound."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from audioset.dataset.download import DownloadOptions, download_audio
from audioset.dataset.download.video import check_encoder
from audioset.errors import MissingExtraError

from ._media import FPS, RATE, MediaServer, brightness, encoded, film, noise, wav
from .conftest import table

Local = Callable[..., DownloadOptions]


def shown(path: Path) -> list[tuple[float, float, int]]:
    """Start and end in seconds, and brightness, of each picture."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            (
                float(f.pts * f.time_base),
                float((f.pts + f.duration) * f.time_base),
                int(f.to_ndarray(format="gray").mean()),
            )
            for f in container.decode(stream)
        ]


def heard(path: Path) -> float:
    """Seconds of sound."""
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize(("start_s", "first"), [(7.2, 180), (3.1, 77)], ids=["on a picture", "between two"])
def test_pictures_are_those_of_the_segment(
    server: MediaServer, local: Local, tmp_path: Path, start_s: float, first: int
) -> None:
    served = server.serve("abc", film(12.0, noise(12.0)), content_type="video/mp4")
    summary = download_audio(table(("abc", start_s, start_s + 2.0)), tmp_path, local(video=True))
    assert summary.failures == ()
    stem = f"abc_{round(start_s * 1000)}"
    pictures = shown(tmp_path / f"{stem}.mp4")
    numbers = range(first, first + (50 if start_s == 7.2 else 51))
    assert [abs(got - brightness(i)) <= 3 for (_, _, got), i in zip(pictures, numbers, strict=True)] == [True] * len(
        numbers
    )
    expected = [max(0.0, i / FPS - start_s) for i in numbers]
    assert np.allclose([begin for begin, _, _ in pictures], expected, atol=1e-4)
    assert pictures[-1][1] == pytest.approx(2.0, abs=1e-3)
    assert heard(tmp_path / f"{stem}.mp4") == pytest.approx(2.0, abs=1024 / RATE)
    assert (tmp_path / f"{stem}.flac").stat().st_size > 0
    assert len(served.asked) > 1


def test_a_clip_without_its_picture_is_made_again(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("abc", film(3.0, noise(3.0)), content_type="video/mp4")
    segments = table(("abc", 0.0, 1.0))
    download_audio(segments, tmp_path, local(video=True))
    assert download_audio(segments, tmp_path, local(video=True)).skipped == 1
    (tmp_path / "abc_0.mp4").unlink()
    assert download_audio(segments, tmp_path, local(video=True)).clips == 1
    assert (tmp_path / "abc_0.mp4").exists()


def test_a_sound_without_picture_fails_where_one_is_wanted(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("abc", encoded(noise(2.0), "aac", "mp4"), content_type="video/mp4")
    summary = download_audio(table(("abc", 0.0, 1.0)), tmp_path, local(video=True))
    assert [entry.reason for entry in summary.failures] == ["no_video"]
    assert not list(tmp_path.glob("abc*"))


def test_a_picture_without_sound_has_no_clip(server: MediaServer, local: Local, tmp_path: Path) -> None:
    out = io.BytesIO()
    with av.open(out, mode="w", format="mp4") as sink:
        stream = sink.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(FPS):
            sink.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        sink.mux(stream.encode())
    server.serve("abc", out.getvalue(), content_type="video/mp4")
    summary = download_audio(table(("abc", 0.0, 1.0)), tmp_path, local())
    assert [(entry.reason, entry.permanent) for entry in summary.failures] == [("no_audio", True)]


def test_a_build_without_an_encoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"aac"})
    with pytest.raises(MissingExtraError, match="has no libx264; expected it, to write MP4"):
        check_encoder()


MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT12S">
 <Period>
  <AdaptationSet mimeType="video/mp4">
   <Representation id="v" codecs="avc1.64000a" width="64" height="48" bandwidth="1000"><BaseURL>picture</BaseURL>
   </Representation>
  </AdaptationSet>
  <AdaptationSet mimeType="audio/mp4">
   <Representation id="a" codecs="mp4a.40.2" bandwidth="1000" audioSamplingRate="16000"><BaseURL>sound</BaseURL>
   </Representation>
  </AdaptationSet>
 </Period>
</MPD>"""


def test_picture_and_sound_may_be_two_files_that_a_page_names(
    server: MediaServer, local: Local, tmp_path: Path
) -> None:
    server.serve("abc", MPD.encode(), content_type="application/dash+xml")
    picture = server.serve("picture", film(12.0, noise(12.0)), content_type="video/mp4")
    sound = server.serve("sound", encoded(noise(12.0, seed=1), "aac", "mp4"), content_type="audio/mp4")
    segments = table(("abc", 4.0, 5.0), ("abc", 14.0, 15.0))
    summary = download_audio(segments, tmp_path / "both", local(video=True))
    assert [(e.key, e.reason, e.message) for e in summary.failures] == [
        ("abc_14000", "too_short", "the video is 12.000 s long; the segment ends at 15.000 s")
    ]
    pictures = shown(tmp_path / "both" / "abc_4000.mp4")
    assert [abs(got - brightness(100 + i)) <= 3 for i, (_, _, got) in enumerate(pictures)] == [True] * 25
    assert heard(tmp_path / "both" / "abc_4000.mp4") == pytest.approx(1.0, abs=1024 / RATE)
    asked = len(picture.asked)
    download_audio(segments, tmp_path / "sound", local())
    assert len(picture.asked) == asked
    assert all(one is not None for one in sound.asked)  # parts only
    got = (tmp_path / "sound" / "abc_4000.flac").read_bytes()
    assert got == (tmp_path / "both" / "abc_4000.flac").read_bytes()


def test_without_video_nothing_of_it_is_written(server: MediaServer, local: Local, tmp_path: Path) -> None:
    server.serve("abc", wav(noise(2.0)))
    download_audio(table(("abc", 0.0, 1.0)), tmp_path, local())
    assert not list(tmp_path.glob("*.mp4"))
