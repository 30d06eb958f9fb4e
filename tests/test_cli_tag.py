"""`audioset tag`, as users run it, with a tiny model whose scores mean nothing."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import audioset
from audioset.cli import app, main
from audioset.cli._common import say_if_small
from audioset.errors import OptionError, OutputError
from audioset.models.spec import ModelSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("tiny_tagger"),
]

WEIGHTS = ["-m", "tiny-tagger", "-w", "untrained:0"]


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three clips of 1 to 3 s, one with a name that needs quoting everywhere."""
    sounds = tmp_path / "sounds"
    (sounds / "b").mkdir(parents=True)
    for name, seconds in (("a.wav", 1.0), ("b/a.flac", 2.0), ('c, "鳥".wav', 3.0)):
        soundfile.write(sounds / name, 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
    return sounds


def run(*arguments: object, status: int = 0, input: bytes | None = None) -> Result:  # noqa: A002
    result = CliRunner().invoke(app, ["tag", *map(str, arguments), *WEIGHTS], input=input)
    if status == 0 and result.exception:
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def tar(path: Path, folder: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(folder / name, name)
    return path


def files_in(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("a.wav", 'c, "鳥".wav', "b/a.flac")]


def test_table_names_the_top_classes_of_each_file(folder: Path) -> None:
    lines = run(folder).stdout.splitlines()
    assert lines[0].split() == ["FILE", "SCORE", "CLASS"]
    assert len(lines) == 1 + 3 * 5
    scores = audioset.load("tiny-tagger", "untrained:0").tag(folder / "a.wav")
    rows = [line.split(maxsplit=2) for line in lines if line.startswith(str(folder / "a.wav"))]
    assert [(float(score), name) for _, score, name in rows] == [
        (pytest.approx(score, abs=5e-4), name) for name, score in scores.top(5)
    ]


def test_csv_and_json_give_the_librarys_scores(folder: Path) -> None:
    model = audioset.load("tiny-tagger", "untrained:0")
    rows = list(csv.DictReader(io.StringIO(run(folder, "--format", "csv", "--top", 2).stdout)))
    items = json.loads(run(folder, "--format", "json", "--top", 2).stdout)
    assert [item["file"] for item in items] == files_in(folder)
    for item in items:
        scores = model.tag(item["file"])
        expected = [(name, pytest.approx(score, rel=1e-5)) for name, score in scores.top(2)]
        assert [(row["name"], row["score"]) for row in item["tags"]] == expected
        assert [(row["name"], float(row["score"])) for row in rows if row["file"] == item["file"]] == expected
        assert item["duration_s"] == scores.duration_s
        assert item["weights"] == model.weights.sha256
        assert all(scores.mids[scores.classes.index(row["name"])] == row["mid"] for row in item["tags"])


def test_timeline_gives_the_librarys_events(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "events.csv"
    run(folder, "--timeline", "--threshold", 0.52, "--hop", 0.3, "-o", out)
    model = audioset.load("tiny-tagger", "untrained:0")
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for name in files_in(folder):
        expected = model.tag(name, hop_s=0.3).events(0.52)
        got = [row for row in rows if row["file"] == name]
        assert [(row["mid"], float(row["start_s"]), float(row["end_s"])) for row in got] == [
            (event.mid, event.start_s, event.end_s) for event in expected
        ]


def test_top_of_a_timeline_are_the_classes_with_the_highest_peaks(folder: Path) -> None:
    options = ("--timeline", "--threshold", 0.3, "--format", "json")
    (every,) = json.loads(run(folder / "a.wav", *options).stdout)
    (two,) = json.loads(run(folder / "a.wav", *options, "--top", 2).stdout)
    highest = sorted(every["events"], key=lambda event: -event["score"])[:2]
    assert {event["mid"] for event in two["events"]} == {event["mid"] for event in highest}


def test_threshold_leaves_out_low_scores_and_a_dash_says_so(folder: Path) -> None:
    lines = run(folder / "a.wav", "--threshold", 1).stdout.splitlines()
    assert lines[1].split()[1:] == ["-", "-"]
    assert json.loads(run(folder / "a.wav", "--threshold", 1, "--format", "json").stdout)[0]["tags"] == []


def test_bad_files_are_named_and_the_rest_is_tagged(folder: Path, tmp_path: Path) -> None:
    (folder / "text.wav").write_text("hello")
    out = tmp_path / "out.json"
    result = run(folder, tmp_path / "gone.wav", "-o", out, status=1)
    for name in ("text.wav", "gone.wav"):
        assert f"failed: {folder if name == 'text.wav' else tmp_path}/{name}: " in result.stderr
    assert "3 files tagged" in result.stderr
    assert "2 failed" in result.stderr
    items = json.loads(out.read_text(encoding="utf-8"))
    assert [Path(item["file"]).name for item in items if "error" in item] == ["text.wav", "gone.wav"]
    assert len(items) == 5


def test_nothing_readable_leaves_no_output(tmp_path: Path) -> None:
    result = run(tmp_path / "gone.wav", "-o", tmp_path / "out.csv", status=1)
    assert "gone.wav: no such file" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_silent_and_short_clips_are_tagged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), 16_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    items = json.loads(run(tmp_path, "--timeline", "--threshold", 0.01, "--format", "json").stdout)
    assert [item["duration_s"] for item in items] == [100 / 16_000, 2.0]
    for item in items:
        assert item["events"]
        assert {(event["start_s"], event["end_s"]) for event in item["events"]} == {(0.0, item["duration_s"])}


def test_labels_of_one_input_go_to_standard_output_or_a_file(folder: Path, tmp_path: Path) -> None:
    said = run(folder / "a.wav", "--format", "audacity", "--threshold", 0.3).stdout
    run(folder / "a.wav", "--format", "audacity", "--threshold", 0.3, "-o", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == said
    events = audioset.load("tiny-tagger", "untrained:0").tag(folder / "a.wav").events(0.3)
    assert [line.split("\t")[2] for line in said.splitlines()] == [event.name for event in events]


def test_ending_of_a_textgrid_is_its_format(folder: Path, tmp_path: Path) -> None:
    run(folder / "a.wav", "-o", tmp_path / "a.TextGrid", "--top", 3)
    text = (tmp_path / "a.TextGrid").read_text(encoding="utf-8")
    assert 'Object class = "TextGrid"' in text
    assert "\nsize = 3\n" in text


def test_labels_of_several_inputs_go_to_a_folder_and_are_kept(folder: Path, tmp_path: Path) -> None:
    soundfile.write(folder / "a.aiff", np.zeros(16_000), 16_000)
    out = tmp_path / "grids"
    options = (folder, "--format", "textgrid", "-o", out, "--top", 2)
    run(*options)
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.TextGrid"))
    assert written == ["a.aiff.TextGrid", "a.wav.TextGrid", "b/a.TextGrid", 'c, "鳥".TextGrid']
    (out / "b/a.TextGrid").write_text("mine")
    (out / "a.wav.TextGrid").unlink()
    result = run(*options)
    assert "1 file tagged" in result.stderr
    assert "kept: 3" in result.stderr
    assert (out / "b/a.TextGrid").read_text() == "mine"
    run(*options, "--overwrite")
    assert (out / "b/a.TextGrid").read_text(encoding="utf-8") != "mine"


def test_plots_are_written_beside_the_table(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run(folder / "a.wav", folder / "b", "--plot", tmp_path / "plots", "--top", 3)
    assert len(result.stdout.splitlines()) == 1 + 2 * 3
    plots = sorted((tmp_path / "plots").rglob("*.png"))
    assert [path.relative_to(tmp_path / "plots").as_posix() for path in plots] == ["a.png", "b/a.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots)
    run(folder / "a.wav", "--plot", tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


@pytest.mark.parametrize("arguments", [("--plot", "all.png"), ("--format", "textgrid", "-o", "all.TextGrid")])
def test_one_file_cannot_take_what_several_inputs_give(folder: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match=r"one file; expected a folder"):
        run(folder, *arguments)


def test_an_archive_gives_what_its_recordings_give(folder: Path, tmp_path: Path) -> None:
    shard, other = (tar(tmp_path / f"{order}.tar", folder, ["a.wav", "b/a.flac"][::order]) for order in (1, -1))
    whole = shard.read_bytes()
    found = json.loads(run(folder / "a.wav", shard, "--format", "json").stdout)
    names = [str(folder / "a.wav"), f"{shard}::a.wav", f"{shard}::b/a.flac"]
    assert [item.pop("file") for item in found] == names
    assert found[0] == found[1]
    lines = run(other, "--top", 1).stdout.splitlines()
    assert len({line.index("  0.") for line in lines[1:]}) == 1

    shard.write_bytes(whole[: len(whole) // 2])  # within the second
    cut = run(shard, "--format", "json", status=1)
    assert [item["file"] for item in json.loads(cut.stdout) if "error" not in item] == names[1:2]
    assert f"failed: {shard}: damaged or incomplete" in cut.stderr
    assert cut.stderr.count("failed") == 1


@pytest.mark.parametrize("option", ["--plot", "--format textgrid"])
def test_an_archive_has_no_output_for_each(folder: Path, tmp_path: Path, option: str) -> None:
    arguments = [*option.split(), tmp_path / "out.png"] if option == "--plot" else option.split()
    result = CliRunner().invoke(app, ["tag", "shard.tar", *map(str, arguments), *WEIGHTS])
    assert isinstance(result.exception, OptionError)
    assert str(result.exception).startswith(f"{option}: shard.tar is an archive; expected recordings")


def test_standard_input_is_read(folder: Path) -> None:
    items = json.loads(run("-", "--format", "json", input=(folder / "a.wav").read_bytes()).stdout)
    assert items[0]["file"] == "-"
    assert items[0]["tags"] == json.loads(run(folder / "a.wav", "--format", "json").stdout)[0]["tags"]


def test_list_of_files_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(files_in(folder)), encoding="utf-8")
    items = json.loads(run("--files-from", tmp_path / "list.txt", "--format", "json").stdout)
    assert [item["file"] for item in items] == files_in(folder)


def test_finished_output_is_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    run(folder, "-o", out)
    before = out.read_bytes()
    result = CliRunner().invoke(app, ["tag", str(folder), "-o", str(out), *WEIGHTS])
    assert "--overwrite" in str(result.exception)
    assert out.read_bytes() == before
    run(folder, "-o", out, "--overwrite", "--top", 1)
    assert len(out.read_bytes()) < len(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no input: expected files"),
        (["x.wav", "-m", "yamnt"], "unknown model 'yamnt'"),
        (["x.wav", "--top", "0"], "top: 0 is out of range"),
        (["x.wav", "--threshold", "2"], "threshold: 2.0 is out of range"),
        (["x.wav", "--timeline", "--threshold", "0"], "threshold: 0.0 is out of range"),
        (["x.wav", "--hop", "0"], "hop_s: 0.0 is out of range"),
        (["x.wav", "y.wav", "--format", "audacity"], "2 inputs and standard output"),
        (["-", "--plot", "p.png"], "standard input cannot be read twice"),
        (["x.wav", "--plot", "p.bmp"], "'.bmp' names no picture"),
        (["x.wav", "-o", "."], "a folder; expected a file"),
    ],
)
def test_wrong_usage_is_one_message_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["audioset", "tag", *WEIGHTS, *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_without_classes_is_refused(tiny: ModelSpec, folder: Path) -> None:
    result = CliRunner().invoke(app, ["tag", str(folder), "-m", "tiny", "-w", "untrained:0"])
    assert "tiny: gives embeddings and has no classes" in str(result.exception)


def test_the_small_model_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say_if_small("mini")
    say_if_small("yamnet")
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "small model for trying things out" in said.err
    assert "audioset models fetch yamnet" in said.err
    assert said.out == ""


def test_defaults_are_those_of_the_library() -> None:
    import inspect

    from audioset.cli.tag import tag

    parameters = inspect.signature(tag).parameters
    library = inspect.signature(audioset.load).parameters
    assert parameters["weights"].default == library["weights"].default
    assert parameters["threads"].default == library["threads"].default
    assert parameters["batch"].default == library["batch_size"].default
    assert parameters["hop"].default == inspect.signature(audioset.Model.tag).parameters["hop_s"].default


def test_a_pipe_that_closes_early_ends_quietly(folder: Path, data_dir: Path) -> None:
    weights = data_dir / "yamnet/lite-model_yamnet_classification_tflite_1.tflite"
    command = [sys.executable, "-c", "from audioset.cli import main; main()", "tag", *files_in(folder)]
    process = subprocess.Popen([*command, "-w", str(weights)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) != 0
    assert b"Traceback" not in error
    assert b"Exception ignored" not in error


def test_an_interrupt_says_what_is_left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audioset.cli import tag

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tag._Job, "run", interrupted)
    result = run(folder, "-o", tmp_path / "tags.csv", status=130)
    assert "interrupted; no file was written" in result.stderr
    assert not (tmp_path / "tags.csv").exists()


def test_an_output_named_with_dots_is_kept_too(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tags.csv"
    out.write_text("mine")
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputError, match="exists"):
        run(folder, "-o", tmp_path / "other" / ".." / "tags.csv")
    assert out.read_text() == "mine"
