"""`audioset check`: does this installation give the numbers that it should?"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from audioset.features import SAMPLE_RATE_HZ

# 3 s of a 1 kHz sine at 16 kHz. Of the published weights: the figures published with them, to within 10%. Of
# "untrained:0": mean, standard deviation and first eight values as TensorFlow computes them, all examples alike.
SINE_S = 3
SINE_HZ = 1000
PUBLISHED_MEAN, PUBLISHED_STD = 0.000657, 0.343
PUBLISHED_BYTES_MEAN, PUBLISHED_BYTES_STD = 126.0, 89.3
PUBLISHED_TOLERANCE = 0.1
SEEDED_MEAN, SEEDED_STD = -0.5912344, 8.70925
SEEDED_VALUES = (-17.338757, -9.817861, 4.4746614, 8.093609, -1.3048625, 11.086284, -4.116974, -7.2097883)
SEEDED_TOLERANCE = 5e-4


@dataclass(frozen=True)
class _Result:
    what: str
    found: str
    expected: str
    passed: bool


def check(
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Weights to check.",
            show_default="the published ones where they have been fetched, untrained:0 otherwise",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check that this installation computes what it should.

    Embeds a synthesized 1 kHz sine, without reading or resampling a file, and compares with published figures; then
    writes and reads a short tone in every common format. Nothing is downloaded unless --weights
    names what is not there. Exit status 1 if anything is off.
    """
    results = [*_check_network(weights), *_check_formats()]
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results]))
    else:
        width = max(len(result.what) for result in results)
        for result in results:
            mark = "ok  " if result.passed else "FAIL"
            typer.echo(f"{mark}  {result.what:{width}}  {result.found}  (expected {result.expected})")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _check_network(name: str | None) -> Iterator[_Result]:
    import audioset
    from audioset.postprocess import quantize
    from audioset.weights import ready

    if name is None and not ready("vggish"):
        name = "untrained:0"
    model = audioset.load("vggish", name)
    values = model.embed(_sine(), SAMPLE_RATE_HZ).values
    if model.weights.published:
        yield _near("vggish, published weights: mean", values.mean(), PUBLISHED_MEAN, PUBLISHED_TOLERANCE)
        yield _near("vggish, published weights: deviation", values.std(), PUBLISHED_STD, PUBLISHED_TOLERANCE)
        if ready("vggish-pca"):
            released = quantize(model.pca.apply(values))
            yield _near("8-bit form: mean", released.mean(), PUBLISHED_BYTES_MEAN, PUBLISHED_TOLERANCE)
            yield _near("8-bit form: deviation", released.std(), PUBLISHED_BYTES_STD, PUBLISHED_TOLERANCE)
        return
    if model.weights.name == "untrained:0":
        yield _near("vggish, untrained:0: mean", values.mean(), SEEDED_MEAN, 1e-5)
        yield _near("vggish, untrained:0: deviation", values.std(), SEEDED_STD, 1e-5)
        worst = float(np.abs(values[:, : len(SEEDED_VALUES)] - SEEDED_VALUES).max())
        yield _Result(
            "vggish, untrained:0: first values",
            f"{worst:.1e} off at most",
            f"{SEEDED_TOLERANCE:.0e}, against TensorFlow",
            worst <= SEEDED_TOLERANCE,
        )
        return
    finite = bool(np.isfinite(values).all() and values.std() > 0)
    yield _Result(f"vggish, {model.weights.name}", f"mean {values.mean():.6g}", "finite, not constant", finite)


def _check_formats() -> Iterator[_Result]:
    from audioset import audio

    tone = _sine(seconds=1, rate=44_100)
    encoders: dict[str, Callable[[], bytes]] = {
        "WAV": lambda: _soundfile(tone, "WAV", "PCM_24"),
        "FLAC": lambda: _soundfile(tone, "FLAC", "PCM_16"),
        "OGG Vorbis": lambda: _soundfile(tone, "OGG", "VORBIS"),
        "OGG Opus": lambda: _soundfile(_sine(seconds=1, rate=48_000), "OGG", "OPUS", rate=48_000),
        "MP3": lambda: _soundfile(tone, "MP3", "MPEG_LAYER_III"),
        "M4A (AAC)": lambda: _aac(tone),
    }
    for name, encode in encoders.items():
        try:
            waveform = audio.read(io.BytesIO(encode()))
        except Exception as error:  # whatever it is, it is the finding
            yield _Result(f"read {name}", str(error), "a tone", passed=False)
            continue
        spectrum = np.abs(np.fft.rfft(waveform))
        loudest_hz = float(np.argmax(spectrum)) * SAMPLE_RATE_HZ / len(waveform)
        yield _Result(
            f"read {name}",
            f"{len(waveform) / SAMPLE_RATE_HZ:.2f} s, loudest at {loudest_hz:.0f} Hz",
            f"1 s or a little more, {SINE_HZ} Hz",
            abs(loudest_hz - SINE_HZ) < 5 and 1.0 <= len(waveform) / SAMPLE_RATE_HZ < 1.2,
        )


def _near(what: str, found: float, expected: float, tolerance: float) -> _Result:
    passed = bool(abs(found - expected) <= tolerance * abs(expected))
    return _Result(what, f"{found:.6g}", f"{expected:.6g} ± {tolerance:.3%}", passed)


def _sine(*, seconds: int = SINE_S, rate: int = SAMPLE_RATE_HZ) -> npt.NDArray[np.float32]:
    return np.sin(2 * np.pi * SINE_HZ * np.arange(seconds * rate) / rate).astype(np.float32)


def _soundfile(samples: npt.NDArray[np.float32], container: str, subtype: str, *, rate: int = 44_100) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, 0.5 * samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def _aac(samples: npt.NDArray[np.float32]) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(0.5 * samples[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()
