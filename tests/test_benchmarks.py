"""What measures: turns, ratios, workers, inputs, report and picture. Nothing here is timed."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
EXAMPLES = Path(__file__).parents[1] / "examples"

FAKE_WORKER = """
import os
from measure.protocol import serve, timed

def load(*, threads, greeting):
    print("libraries talk")
    if greeting == "none":
        raise ImportError("No module named 'fake'")
    calls = []
    def run(files):
        print("and talk")
        measured = timed(lambda: calls.append(files))
        return {**measured, "embeddings": len(files), "threads": threads, "greeting": greeting, "calls": len(calls)}
    def exit_at_once():
        os.write(2, b"first\\nout of memory\\n")
        os._exit(3)
    return {"run": run, "fail": lambda: 1 / 0, "exit_at_once": exit_at_once}

serve(load)
"""


@pytest.fixture(autouse=True)
def measure_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that a worker started here can run."""
    (tmp_path / "fake_worker.py").write_text(FAKE_WORKER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return "fake_worker"


def test_ratios_are_taken_within_a_repeat() -> None:
    from measure.figures import paired_ratio

    # The machine was ten times slower in the second repeat, which says nothing about the ratio.
    assert paired_ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == {"median": 2.0, "min": 2.0, "max": 2.2}
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0], [1.0, 2.0])


def test_spread_is_median_and_range() -> None:
    from measure.figures import spread

    assert spread([3.0, 1.23456, 100.0]) == {"median": 3.0, "min": 1.235, "max": 100.0}


def test_jobs_take_turns_and_the_first_round_only_warms_up() -> None:
    from measure.figures import interleaved

    order: list[str] = []

    def job(name: str) -> dict[str, Any]:
        order.append(name)
        return {"seconds": float(len(order))}

    replies, failed = interleaved({"a": lambda: job("a"), "b": lambda: job("b")}, 2, lambda text: None)
    assert order == ["a", "b"] * 3
    assert [reply["seconds"] for reply in replies["a"]] == [3.0, 5.0]
    assert failed == {}


def test_job_that_fails_is_named_and_the_others_go_on() -> None:
    from measure.figures import interleaved
    from measure.protocol import NotAvailableError

    calls = 0

    def failing() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise NotAvailableError("out of memory")
        return {}

    replies, failed = interleaved({"a": failing, "b": lambda: {"seconds": 1.0}}, 3, lambda text: None)
    assert failed == {"a": "out of memory"}
    assert {name: len(found) for name, found in replies.items()} == {"b": 3}
    assert calls == 2


def test_worker_answers_again_and_again_whatever_it_prints(fake_worker: str) -> None:
    from measure.protocol import Worker

    with Worker(fake_worker, cores=1) as worker:
        worker.load(greeting="grüezi")
        for number in (1, 2):
            reply = worker.ask("run", files=["a b.wav", "\n.wav"])
            assert reply.pop("seconds") >= 0
            assert reply.pop("cpu_seconds") >= 0
            assert reply == {"embeddings": 2, "threads": 1, "greeting": "grüezi", "calls": number}
        spent = worker.ask("spent")
        assert spent["cpu_seconds"] > 0
        assert spent["peak_rss_mb"] is None or 5 < spent["peak_rss_mb"] < 500


def test_worker_says_why_it_is_not_available(fake_worker: str) -> None:
    from measure.protocol import NotAvailableError, Worker

    with Worker(fake_worker, cores=1) as worker:
        with pytest.raises(NotAvailableError, match=r"^ImportError: No module named 'fake'$"):
            worker.load(greeting="none")
        worker.load(greeting="hello")
        with pytest.raises(NotAvailableError, match="ZeroDivisionError"):
            worker.ask("fail")
        assert worker.ask("run", files=[])["embeddings"] == 0
        with pytest.raises(NotAvailableError, match="fake_worker ended: out of memory"):
            worker.ask("exit_at_once")
        with pytest.raises(NotAvailableError, match="ended"):
            worker.ask("run", files=[])


def test_interpreter_that_is_not_there_is_not_available(tmp_path: Path) -> None:
    from measure.protocol import NotAvailableError, Worker

    with pytest.raises(NotAvailableError, match=r"python cannot be started \(No such file"):
        Worker("fake_worker", cores=1, interpreter=str(tmp_path / "python"))


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("openl3_music", "openl3"),
        ("vggish_torchvggish", "torchvggish"),
    ],
)
def test_implementation_that_is_not_installed_is_not_available(module: str, library: str) -> None:
    import importlib.util

    from measure.configurations import Other
    from measure.protocol import NotAvailableError

    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed here")
    options = {} if library == "openl3" else {"arrays": "none.npz"}
    other = Other(library, f"measure.workers.{module}", sys.executable, options)
    with pytest.raises(NotAvailableError, match=f"ModuleNotFoundError: No module named '{library}'"):
        other.start(1)


def test_every_combination_is_asked_for_by_name() -> None:
    from measure.configurations import configurations, leading

    ours = configurations(["mini"], {"mini": "w"}, ["fp32", "int8"], ["onnxruntime", "openvino"])
    assert [each.name for each in ours] == [
        "mini fp32 onnxruntime",
        "mini fp32 openvino",
        "mini int8 onnxruntime",
        "mini int8 openvino",
    ]
    assert ours[3].options == {"precision": "int8", "engine": "openvino"}
    assert ours[3].arguments == ["--model", "mini", "--weights", "w", "--precision", "int8", "--engine", "openvino"]
    assert [each.name for each in leading(ours[1:])] == ["mini fp32 openvino", "mini int8 onnxruntime"]


def test_agreement_is_of_files_with_as_many_rows(rng: np.random.Generator) -> None:
    from measure.end_to_end import agreement

    expected = [rng.standard_normal((rows, 128)).astype(np.float32) for rows in (3, 1, 2)]
    turned = expected[2].copy()
    turned[1] *= -1
    found = agreement(expected, [2 * expected[0], expected[1][:0], turned])
    assert (found["files"], found["embeddings"]) == (2, 5)
    assert found["cosine_min"] == pytest.approx(-1)
    assert found["cosine_median"] == pytest.approx(1)
    assert agreement(expected[:1], [expected[0][:1]])["cosine_min"] is None


def test_limit_is_all_core_time_over_the_cores(tmp_path: Path) -> None:
    from measure.configurations import Configuration
    from measure.end_to_end import _limits, _network
    from measure.setting import Setting, quick

    each = Configuration("mini", None, "fp32", "onnxruntime")
    sound = np.zeros(1, np.float32)
    setting = Setting([], 100.0, sound, 2, quick(1, 1), tmp_path, [each], [])
    replies = {
        each.name: [{"seconds": 5.0, "cpu_seconds": 9.0, "embeddings": 200}],
        _network(each): [{"seconds": 2.0, "cpu_seconds": 3.0, "examples": 100}],
        "around": [{"seconds": 2.0, "cpu_seconds": 2.0}],
    }
    found = {name: figure["median"] for name, figure in _limits(setting, each, replies).items()}
    assert found["network_seconds"] == 4.0  # of 200 examples, of which 100 were in memory
    assert found["ratio_to_network"] == 1.25
    assert found["limit_seconds"] == (6.0 + 2.0) / 2
    assert found["rate_of_limit"] == 0.8


class Embedding:
    """A worker that gives these rows."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def ask(self, do: str, files: list[str], out: str) -> dict[str, Any]:
        assert do == "embed"
        np.save(out, self.values)
        return {"counts": [len(self.values)]}


def test_precision_with_the_bits_of_another_is_not_reported(tmp_path: Path, rng: np.random.Generator) -> None:
    from measure.configurations import configurations
    from measure.end_to_end import _agreements
    from measure.setting import Setting, quick

    ours = configurations(["mini"], {}, ["fp32", "bf16"], ["onnxruntime", "openvino"])
    values = rng.standard_normal((3, 8)).astype(np.float32)
    rows = [values, values, values + np.float32(1e-3), values]
    workers: Any = {each: Embedding(found) for each, found in zip(ours, rows, strict=True)}
    setting = Setting(["a.wav"], 1.0, np.zeros(1, np.float32), 1, quick(1, 1), tmp_path, ours, [])
    found = _agreements(setting, workers, {})
    assert found.keys() == {"mini fp32 openvino", "mini bf16 onnxruntime"}
    assert list(setting.not_available) == ["mini bf16 openvino"]
    assert "nothing is computed in bf16" in setting.not_available["mini bf16 openvino"]


@pytest.mark.parametrize(("turn", "same"), [(1e-4, True), (0.1, False)])
def test_other_implementation_must_do_the_same_work(
    turn: float, same: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    from measure.configurations import Other, configurations
    from measure.end_to_end import _agreements
    from measure.setting import Setting, quick

    ours = configurations(["vggish"], {}, ["fp32"], ["onnxruntime"])
    other = Other("torchvggish", "none", sys.executable, {}, agrees_with="relu")
    values = rng.standard_normal((3, 128)).astype(np.float32)
    theirs = np.maximum(values, 0) + np.float32(turn) * rng.standard_normal((3, 128)).astype(np.float32)
    one: Any = {ours[0]: Embedding(values)}
    two: Any = {other: Embedding(theirs)}
    setting = Setting(["a.wav"], 1.0, np.zeros(1, np.float32), 1, quick(1, 1), tmp_path, ours, [other])
    assert _agreements(setting, one, two)["torchvggish"]["same_work"] is same


def test_engine_that_does_not_run_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    import audioset
    from measure.protocol import NotAvailableError
    from measure.workers import ours

    monkeypatch.setattr(audioset, "load", lambda *args, **options: None, raising=False)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    options = {"precision": "fp32", "engine": "openvino"}
    with pytest.raises(NotAvailableError, match="without importing openvino: something else would be measured"):
        ours.load(threads=1, model="mini", weights=None, options=options)


def test_clips_are_written_in_every_format(tmp_path: Path, rng: np.random.Generator) -> None:
    from audioset import audio
    from measure.sounds import FORMATS, RATE_HZ, clips_in

    sound = (0.1 * rng.standard_normal(RATE_HZ)).astype(np.float32)
    for name in FORMATS:
        paths = clips_in(name, sound, tmp_path / name, 2, 1.5)
        assert len(paths) == 2
        for path in paths:
            assert len(audio.read(path)) / audio.SAMPLE_RATE_HZ == pytest.approx(1.5, abs=0.06), name


def test_more_and_longer_files_are_made_of_the_given_ones(tmp_path: Path, rng: np.random.Generator) -> None:
    from measure.sounds import RATE_HZ, loop, many, readable, write_long

    given = tmp_path / "given"
    given.mkdir()
    for name in "ab":
        stereo = 0.1 * rng.standard_normal((8000, 2))
        soundfile.write(given / f"{name}.wav", stereo, 16_000)
    (given / "c.wav").write_bytes(b"no audio")
    files, audio_s, left_out = readable(str(given))
    assert ([Path(file).name for file in files], audio_s, len(left_out)) == (["a.wav", "b.wav"], 1.0, 1)

    copies = sorted(many(files, 5, tmp_path / "many").iterdir())
    assert [path.read_bytes() for path in copies[:3]] == [Path(files[at]).read_bytes() for at in (0, 1, 0)]
    assert len(copies) == 5

    sound = loop(files, 0.75)
    assert sound.shape == (round(0.75 * RATE_HZ),)
    write_long(tmp_path / "long.flac", sound, 100 / 3600)
    assert soundfile.info(tmp_path / "long.flac").duration == 100
    start, _ = soundfile.read(tmp_path / "long.flac", frames=5, start=len(sound) * 90)
    np.testing.assert_allclose(start, sound[:5], atol=1e-4)


def test_machine_is_described_without_naming_it() -> None:
    from measure.machine import describe

    text = json.dumps(describe())
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert json.loads(text)["versions"]["numpy"] == np.__version__


def flat(value: float) -> dict[str, float]:
    return {"median": value, "min": 0.9 * value, "max": 1.2 * value}


def made_up_result() -> dict[str, Any]:
    """A result of every section, as `run.py` writes them."""
    name, other = "vggish int8 onnxruntime", "TensorFlow, batches of 32"
    speeds = {"seconds": flat(2.0), "cpu_seconds": flat(3.0), "times_real_time": flat(210.0)}
    process = {"seconds": 2.0, "cpu_seconds": 3.0, "peak_rss_mb": 250.0}
    return {
        "layout": 1,
        "machine": {
            "cpu": "A processor",
            "cores": 4,
            "cpu_features": ["avx2"],
            "system": "Linux",
            "python": "3.11.7",
            "versions": {"audioset": "1.0"},
        },
        "inputs": {"files": 10, "audio_s": 420.0, "left_out": 1},
        "settings": {"threads": 2, "repeats": 5, "quick": False, "load_before": 0.1, "weights": {}},
        "stages": {
            "threads": 1,
            "around": [{"stage": "decode WAV", "ms_per_audio_s": flat(0.03), "cpu_ms_per_audio_s": flat(0.03)}],
            "network": [
                {"name": name, "batch": batch, "ms_per_example": flat(7.0), "cpu_ms_per_example": flat(7.0)}
                for batch in (1, 32)
            ],
        },
        "end_to_end": [
            {"name": other, "model": "vggish", "embeddings": 400, **speeds, "times_as_fast_as": {}, "cpu_ratio_to": {}},
            {
                "name": name,
                "model": "vggish",
                "embeddings": 400,
                **speeds,
                "times_as_fast_as": {other: flat(9.5)},
                "cpu_ratio_to": {other: flat(0.1)},
                "ratio_to_network": flat(1.08),
                "rate_of_limit": flat(0.91),
                "network_seconds": flat(1.9),
                "limit_seconds": flat(1.8),
                "agreement": {"with": "x", "files": 9, "embeddings": 9, "cosine_min": 0.99991, "cosine_median": 1.0},
            },
        ],
        "startup": [
            {"name": "Python alone", "seconds": flat(0.02)},
            {"name": name, "seconds": flat(0.7), "import_s": flat(0.2), "load_s": flat(0.3), "first_s": flat(0.1)},
        ],
        "growth": {
            "clip_length": [{"name": name, "clip_s": clip_s, **speeds} for clip_s in (1, 600)],
            "files": [{"name": name, "files": number, **process} for number in (1, 1000)],
            "hours": [{"name": name, "hours": hours, **process} for hours in (1.5, 24)],
        },
        "not_available": [{"name": f"{model} bf16", "why": "no such engine"} for model in ("vggish", "mini")],
    }


def test_report_says_every_figure_and_what_is_missing() -> None:
    from measure.report import report

    text = report(made_up_result())
    for said in ("A processor, 2 of 4 cores", "1 left out", "9.5", "8.55–11.4", "0.91", "1.08", "0.99991", "24"):
        assert said in text
    assert "vggish bf16, mini bf16: no such engine" in text
    assert "--quick" not in text
    assert "busy" not in text
    assert max(map(len, text.splitlines())) < 160


def test_sections_that_were_not_measured_are_left_out() -> None:
    from measure.report import report

    result = made_up_result()
    for section in ("stages", "growth"):
        del result[section]
    result["settings"] |= {"quick": True, "load_before": 2.5}
    text = report(result)
    assert "the machine was busy before (load 2.5)" in text
    assert "Stages" not in text
    assert "--quick: too little work" in text


def test_picture_has_a_panel_for_everything_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from measure.picture import draw

    result = json.loads(json.dumps(made_up_result()))
    sizes = []
    for dropped in ((), ("growth", "stages"), ("end_to_end", "startup")):
        for section in dropped:
            del result[section]
        draw(result, tmp_path / "p.png")
        head = (tmp_path / "p.png").read_bytes()[:24]
        assert head.startswith(b"\x89PNG\r\n\x1a\n")
        sizes.append(int.from_bytes(head[20:24], "big"))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "vggish"], "--weights: 'vggish'; expected MODEL=WEIGHTS"),
        (["--models", "mini", "--weights", "vggish=untrained:0"], "with MODEL of mini"),
        (["--precisions", "fp16"], "'fp16' is unknown; expected some of fp32,bf16,int8"),
        (["--repeats", "0"], "must be above 0"),
    ],
)
def test_misuse_is_refused_before_anything_is_measured(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import run

    with pytest.raises(SystemExit, match="2"):
        run.main([str(EXAMPLES), *arguments])
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_everything_is_measured_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    import run

    arguments = "--quick --repeats 1 --models mini --engines onnxruntime --precisions fp32,bf16"
    run.main([str(EXAMPLES), "-o", str(tmp_path), *arguments.split(), "--openl3", sys.executable])
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    result = json.loads(text)
    name = "mini fp32 onnxruntime"
    assert [row["name"] for row in result["end_to_end"]] == [name]
    assert [row["name"] for row in result["startup"]] == ["Python alone", name]
    assert {row["name"] for row in result["stages"]["network"]} == {name}
    for section in ("clip_length", "files", "hours"):
        assert {row["name"] for row in result["growth"][section]} == {name}
    row = result["end_to_end"][0]
    for figure in ("seconds", "cpu_seconds", "times_real_time", "ratio_to_network", "rate_of_limit"):
        assert row[figure]["median"] > 0
    lacking = {each["name"]: each["why"] for each in result["not_available"]}
    assert lacking.keys() == {"mini bf16 onnxruntime", "openl3"}
    assert "bf16 is not to be had by onnxruntime" in lacking["mini bf16 onnxruntime"]
    assert str(Path.home()) not in text
    assert str(EXAMPLES) not in text
    assert (tmp_path / "results.png").stat().st_size > 10_000
    assert name in capsys.readouterr().out


@pytest.mark.slow
def test_others_that_are_not_installed_do_not_keep_ours_from_being_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import run

    arguments = "--quick --repeats 1 --models vggish --precisions fp32 --engines onnxruntime --sections end-to-end"
    weights = ["--weights", "vggish=untrained:0"]
    run.main([str(EXAMPLES), "-o", str(tmp_path), *arguments.split(), *weights, "--tensorflow", str(tmp_path / "none")])
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    result = json.loads(text)
    assert [row["name"] for row in result["end_to_end"]] == ["vggish fp32 onnxruntime"]
    assert result["not_available"] == [
        {"name": "TensorFlow", "why": "none cannot be started (No such file or directory)"}
    ]
    assert result["settings"]["weights"] == {"vggish": "untrained:0"}
