"""`audioset tag --live`, as users run it: samples in a pipe, and a microphone that is not there."""

from __future__ import annotations

import csv
import importlib.machinery
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import audioset
from audioset import Model
from audioset.cli import _live, app, main
from audioset.cli._reports import Selection
from audioset.errors import AudioError, AudioSetError, MissingExtraError, OptionError
from audioset.models.spec import ModelSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("tiny_tagger"),
]

WEIGHTS = ["-m", "tiny-tagger", "-w", "untrained:0"]
PCM = ["-", "--pcm", "16000"]


@pytest.fixture
def model(tiny_tagger: ModelSpec) -> Model:
    return audioset.load("tiny-tagger", "untrained:0")


@pytest.fixture
def sound(rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Four seconds that end within an example, loud and faint in turn."""
    loudness = np.repeat([3_000, 30, 9_000, 3_000, 1], 13_000)[:64_123]
    return (loudness * rng.standard_normal(64_123)).clip(-32_768, 32_767).astype(np.int16)


def run(*arguments: object, status: int = 0, input: bytes | None = None) -> Result:  # noqa: A002
    result = CliRunner().invoke(app, ["tag", *map(str, arguments), *WEIGHTS], input=input)
    if status == 0 and result.exception:
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def error_of(*arguments: object, input: bytes | None = None) -> Exception:  # noqa: A002
    result = CliRunner().invoke(app, ["tag", *map(str, arguments), *WEIGHTS], input=input)
    assert isinstance(result.exception, AudioSetError), result.output
    return result.exception


def lines_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_raw_samples_are_tagged_as_the_array_that_they_are(model: Model, sound: npt.NDArray[np.int16]) -> None:
    (item,) = json.loads(run(*PCM, "--format", "json", input=sound.tobytes()).stdout)
    whole = model.tag(sound, 16_000)
    assert [(tag["name"], tag["score"]) for tag in item["tags"]] == [
        (name, pytest.approx(score, rel=1e-5)) for name, score in whole.top(5)
    ]
    assert (item["file"], item["duration_s"]) == ("-", whole.duration_s)


def test_format_and_channels_say_how_to_read_them(model: Model, sound: npt.NDArray[np.int16]) -> None:
    stereo = (np.stack([sound, sound[::-1]], axis=1) / 32_768).astype(np.float32)
    options = ("-", "--pcm", 44_100, "--pcm-format", "f32", "--channels", 2, "--format", "json")
    whole = model.tag(stereo, 44_100)
    (item,) = json.loads(run(*options, input=stereo.tobytes()).stdout)
    assert item["duration_s"] == whole.duration_s
    items = lines_of(run(*options, "--live", "--top", 1, input=stereo.tobytes()))
    assert [item["start_s"] for item in items] == pytest.approx(list(whole.start_s))
    assert [item["tags"][0]["score"] for item in items] == pytest.approx(list(whole.values.max(axis=1)), rel=1e-5)


def test_live_tags_of_each_example_are_json_lines_in_a_pipe(model: Model, sound: npt.NDArray[np.int16]) -> None:
    result = run(*PCM, "--live", "--top", 2, input=sound.tobytes())
    whole = model.tag(sound, 16_000)
    items = lines_of(result)
    assert len(items) == len(whole)
    for i, item in enumerate(items):
        assert (item["start_s"], item["end_s"]) == pytest.approx((whole.start_s[i], whole.end_s[i]))
        best = np.argsort(-whole.values[i], kind="stable")[:2]
        assert [tag["mid"] for tag in item["tags"]] == [whole.mids[column] for column in best]
        assert [tag["score"] for tag in item["tags"]] == pytest.approx(list(whole.values[i][best]), rel=1e-5)
    assert f"0:00:04 of standard input heard: {len(whole)} examples" in result.stderr


def test_live_events_are_those_of_the_whole(model: Model, sound: npt.NDArray[np.int16]) -> None:
    values = model.tag(sound, 16_000).values
    threshold = float(np.sort(values.max(axis=0))[-4])  # of four classes
    result = run(*PCM, "--live", "--timeline", "--threshold", threshold, input=sound.tobytes())
    items = sorted(lines_of(result), key=lambda item: (item["start_s"], item["mid"]))
    expected = sorted(model.tag(sound, 16_000).events(threshold), key=lambda event: (event.start_s, event.mid))
    assert expected
    assert [(item["start_s"], item["end_s"], item["mid"], item["name"]) for item in items] == [
        (event.start_s, event.end_s, event.mid, event.name) for event in expected
    ]
    assert f"{len(expected)} events" in result.stderr


def test_live_results_go_to_csv_and_columns_too(model: Model, sound: npt.NDArray[np.int16]) -> None:
    result = run(*PCM, "--live", "--top", 1, "--format", "csv", input=sound.tobytes())
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    items = lines_of(run(*PCM, "--live", "--top", 1, input=sound.tobytes()))
    assert [(float(row["start_s"]), row["mid"], float(row["score"])) for row in rows] == [
        (item["start_s"], item["tags"][0]["mid"], item["tags"][0]["score"]) for item in items
    ]
    header, first, *_ = run(*PCM, "--live", "--top", 1, "--format", "table", input=sound.tobytes()).stdout.splitlines()
    assert header.split() == ["START", "END", "SCORE", "CLASS"]
    assert first.split(maxsplit=3)[:2] == ["0.00", "0.96"]
    assert first.split(maxsplit=3)[3] == rows[0]["name"]


def test_results_leave_when_they_are_known() -> None:
    command = [sys.executable, "-c", "from audioset.cli import main; main()", "tag", *PCM, "--live", "-m", "mini"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    try:
        process.stdin.write(bytes(2 * 15_600))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["start_s"] == 0
        process.stdin.write(bytes(2 * 8_000))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["start_s"] == 0.48
        process.send_signal(signal.SIGINT)  # while it waits for more, which is how live sound ends
        rest = process.stdout.read()
        said = process.stderr.read().decode()
        assert process.wait(30) == 0
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
    assert [json.loads(line)["start_s"] for line in rest.splitlines()] == [0.96]  # padded, as of a file
    assert "0:00:01 of standard input heard: 3 examples" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("live", [(), ("--live",)])
@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "-: 0 bytes; expected raw samples"), (bytes(40_001), "-: ends within a frame: 1 of its 2 bytes")],
)
def test_an_empty_and_a_broken_pipe_are_said(
    live: tuple[str, ...],
    data: bytes,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["audioset", "tag", *PCM, *live, *WEIGHTS])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr()
    assert message in said.err
    assert ('"start_s": 0.0' in said.out) == bool(live and data)  # whole frames before the break are tagged


def test_a_closed_standard_input_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["audioset", "tag", *PCM, "--live", *WEIGHTS])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "-: standard input is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x.wav", "--live"), "--live: hears the microphone or, with --pcm RATE"),
        (("-", "--live"), "--live: hears the microphone or, with --pcm RATE"),
        (("x.wav", "--pcm", 16_000), "--pcm: is for standard input; expected - as the only input"),
        (("-", "x.wav", "--pcm", 16_000), "--pcm: is for standard input; expected - as the only input"),
        (("--live", "--pcm", 16_000), "--pcm: is for standard input"),
        (("-", "--pcm", 999), "--pcm: 999 is out of range; expected a rate of 1,000 to 1,000,000 Hz"),
        (("-", "--channels", 2), "--channels: would not be used; expected --pcm RATE"),
        (("-", "--pcm-format", "f32"), "--pcm-format: would not be used; expected --pcm RATE"),
        (("--live", "--pcm-format", "f32"), "--pcm-format: would not be used; expected --pcm RATE"),
        ((*PCM, "--channels", 0), "--channels: 0 is out of range"),
        (("--live", "--channels", 0), "--channels: 0 is out of range"),
        (("x.wav", "--microphone", 1), "--microphone: would not be used; expected --live"),
        ((*PCM, "--live", "--microphone", 1), "--microphone: would not be used beside --pcm"),
        ((*PCM, "--live", "-o", "x.csv"), "--out: needs the whole recording"),
        ((*PCM, "--live", "--plot", "x.png"), "--plot: needs the whole recording"),
        ((*PCM, "--live", "--format", "textgrid"), "--format textgrid: holds a whole recording"),
        ((*PCM, "--live", "--timeline", "--top", 3), "--top with --timeline: needs the whole recording"),
        ((*PCM, "--live", "--hop", 0), "hop_s: 0.0 is out of range"),
        ((*PCM, "--live", "--threads", 0), "threads: 0 is out of range"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: tuple[object, ...], message: str) -> None:
    error = error_of(*arguments, input=b"")
    assert isinstance(error, OptionError)
    assert message in str(error)


class Overflow:
    def __init__(self, input_overflow: bool) -> None:
        self.input_overflow = input_overflow


class Device:
    """An input that gives what it is told from a thread of its own, as PortAudio does, and then does `then`."""

    def __init__(self, samples: npt.NDArray[np.float32], then: Callable[[Device], None], overflows: int = 0) -> None:
        self.samples, self.then, self.overflows = samples, then, overflows
        self.active = False
        self.closed = False

    def __call__(self, *, callback: Callable[..., None], blocksize: int, **options: Any) -> Device:
        self.options = options
        self.callback, self.blocksize = callback, blocksize
        return self

    def __enter__(self) -> Device:
        self.active = True
        self.thread = threading.Thread(target=self.play)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False
        self.closed = True
        self.thread.join(10)

    def play(self) -> None:
        buffer = np.empty((self.blocksize, 1), np.float32)  # PortAudio's own, used again
        for number, at in enumerate(range(0, len(self.samples), self.blocksize)):
            block = self.samples[at : at + self.blocksize]
            buffer[: len(block), 0] = block
            self.callback(buffer[: len(block)], len(block), None, Overflow(number < self.overflows))
            buffer[:] = 9
        self.then(self)


def press_ctrl_c(device: Device) -> None:
    time.sleep(0.3)  # what has been heard is taken first
    os.kill(os.getpid(), signal.SIGINT)


def unplug(device: Device) -> None:
    device.active = False


class SoundDevice(types.ModuleType):
    """As much of the library as is used."""

    class PortAudioError(Exception):
        pass

    devices = (("Speakers", 0), ("Built-in Microphone", 1), ("USB Audio", 2))

    def __init__(self, device: Any, default: int | None = 1) -> None:
        super().__init__("sounddevice")
        self.__spec__ = importlib.machinery.ModuleSpec("sounddevice", None)
        self.InputStream = device
        self.default = default

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        every = [
            {"index": i, "name": name, "max_input_channels": inputs, "default_samplerate": 48_000.0}
            for i, (name, inputs) in enumerate(self.devices)
        ]
        if kind is None:
            return every
        if device is None:
            if self.default is None:
                raise self.PortAudioError("Error querying device -1")
            return every[self.default]
        if isinstance(device, int):
            if device >= len(every):
                raise self.PortAudioError(f"Error querying device {device}")
            if not every[device]["max_input_channels"]:
                raise ValueError(f"Not an input device: {every[device]['name']!r}")
            return every[device]
        matches = [one for one in every if device.lower() in str(one["name"]).lower() and one["max_input_channels"]]
        if len(matches) != 1:
            raise ValueError(f"{'Multiple' if matches else 'No'} input devices found for {device!r}:\n[1] …")
        return matches[0]


@pytest.fixture
def speech(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return (0.1 * rng.standard_normal(150_000)).astype(np.float32)


def test_the_microphone_is_tagged_until_ctrl_c(
    model: Model, speech: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(speech, press_ctrl_c)
    monkeypatch.setitem(sys.modules, "sounddevice", SoundDevice(device))
    before = signal.getsignal(signal.SIGINT)
    result = run("--live", "--top", 1)
    whole = model.tag(speech, 48_000)
    items = lines_of(result)
    assert [item["start_s"] for item in items] == pytest.approx(list(whole.start_s))
    assert [item["tags"][0]["score"] for item in items] == pytest.approx(list(whole.values.max(axis=1)), rel=1e-5)
    assert "listening to Built-in Microphone; Ctrl-C ends" in result.stderr
    assert f"0:00:03 of Built-in Microphone heard: {len(whole)} examples" in result.stderr
    assert "lost" not in result.stderr
    assert device.options == {"device": 1, "samplerate": 48_000, "channels": 1, "dtype": "float32"}
    assert device.closed
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(("wanted", "index"), [("2", 2), ("usb", 2), ("microphone", 1)])
def test_another_microphone_goes_by_number_or_name(
    wanted: str, index: int, speech: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(speech[:9_600], press_ctrl_c)
    monkeypatch.setitem(sys.modules, "sounddevice", SoundDevice(device))
    run("--live", "--microphone", wanted, "--channels", 1)
    assert device.options["device"] == index


def test_lost_sound_is_counted_and_said(speech: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", SoundDevice(Device(speech, press_ctrl_c, overflows=2)))
    assert "sound was lost 2 times" in run("--live").stderr
    monkeypatch.setattr(_live, "_MOST_WAITING_S", 0.05)  # one chunk
    microphone = _live.Microphone(None, 1)
    for _ in range(3):
        microphone._hear(np.zeros((10, 1), np.float32), 10, None, Overflow(False))
    assert microphone.num_overflows == 2


def test_a_microphone_that_goes_away_is_an_error_after_what_it_heard(
    speech: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_live, "_PATIENCE_S", 0.1)
    monkeypatch.setitem(sys.modules, "sounddevice", SoundDevice(Device(speech, unplug)))
    monkeypatch.setattr(sys, "argv", ["audioset", "tag", "--live", *WEIGHTS])
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr()
    assert said.out.count("\n") == 6
    assert "heard: 6 examples" in said.err
    assert "microphone 'Built-in Microphone': stopped giving sound" in said.err


def test_a_microphone_that_cannot_be_opened_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise SoundDevice.PortAudioError("Device unavailable [PaErrorCode -9985]")

    monkeypatch.setitem(sys.modules, "sounddevice", SoundDevice(refuse))
    error = error_of("--live")
    assert isinstance(error, AudioError)
    assert "'Built-in Microphone': cannot be recorded at 48,000 Hz, channels: 1 (Device unavailable" in str(error)


def test_no_microphone_is_an_error_that_lists_others(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SoundDevice(None, default=None)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    inputs = "1 (Built-in Microphone), 2 (USB Audio)"
    assert (
        f"no default one (Error querying device -1); expected an input device. Choose one with --microphone: {inputs}"
        in (str(error_of("--live")))
    )
    for wanted in ("0", "7", "webcam", "b"):
        error = error_of("--live", "--microphone", wanted)
        assert isinstance(error, OptionError)
        assert f"--microphone {wanted}: not found (" in str(error)
        assert f"expected one of {inputs}" in str(error)
        assert "\n" not in str(error)
    module.devices = (("Speakers", 0),)
    assert "expected an input device. Plug one in" in str(error_of("--live"))
    assert "an input device, of which there is none" in str(error_of("--live", "--microphone", "usb"))


def test_what_is_missing_for_a_microphone_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = error_of("--live")
    assert isinstance(error, MissingExtraError)
    assert "sounddevice is not installed; expected it. Install it with `pip install sounddevice`" in str(error)
    monkeypatch.undo()
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(MissingExtraError, match=r"PortAudio library not found\).*apt install libportaudio2"):
        _live.Microphone(None, 1)


def test_a_second_ctrl_c_ends_work_too() -> None:
    done = []

    def chunks() -> Iterator[int]:
        yield from range(9)

    with _live._Interrupt() as interrupt:
        for chunk in interrupt.until_asked(chunks()):
            if chunk == 2:
                signal.raise_signal(signal.SIGINT)  # while it works
            done.append(chunk)
    assert done == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt), _live._Interrupt() as interrupt:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_on_a_terminal_the_table_of_the_moment_stays_as_high_as_it_is(
    model: Model, sound: npt.NDArray[np.int16]
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=20, _environ={"TERM": "xterm"})
    piped = _live.Piped(audioset.audio.Pcm(io.BytesIO(), 16_000))
    whole = model.tag(sound, 16_000)
    best = float(np.sort(whole.values[-1])[-2])
    piped.num_overflows = 1
    with _live._LiveTable(console, piped, Selection(False, 4, best)) as table:
        table.show(whole, 3 * 60)
        assert isinstance(console.file, io.StringIO)
        drawn = console.file.getvalue()
        table.show(whole, 4 * 60)
        again = console.file.getvalue()[len(drawn) :]
    assert "standard input  0:03:00" in drawn
    assert "sound was lost once" in drawn
    assert whole.class_names[int(whole.values[-1].argmax())][:20] in drawn
    assert drawn.count("━") or drawn.count("╸")
    assert again.count("\x1b[1A") == 4  # one title and four rows: drawn in the same place
    assert "0:04:00" in again
