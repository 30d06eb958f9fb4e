"""`audioset index`, as users run it."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from audioset import index as library
from audioset import weights
from audioset.classes import ClassList
from audioset.cli import app
from audioset.cli import index as command
from audioset.errors import AudioSetError, OptionError, OutputError
from audioset.hub import download
from audioset.models import own

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("tiny"),
]


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, AudioSetError) or (status == 0 and result.exception):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tones and noises of 6 s, and "both.wav": 3 s of tone2, then 3 s of noise2."""
    monkeypatch.chdir(tmp_path)
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    t = np.arange(6 * 16_000) / 16_000
    for number in range(3):
        tone = 0.5 * np.sin(2 * np.pi * (300 + 500 * number) * t)
        noise = 0.02 * (number + 1) * rng.standard_normal(len(t))
        soundfile.write(sounds / f"tone{number}.wav", tone, 16_000)
        soundfile.write(sounds / f"noise{number}.wav", noise, 16_000)
    soundfile.write(sounds / "both.wav", np.concatenate([tone[:48_000], noise[:48_000]]), 16_000)
    return tmp_path


@pytest.fixture
def index(folder: Path) -> Path:
    run("embed", "-m", "tiny", "-w", "untrained:0", "sounds", "-o", "sounds.parquet")
    run("index", "build", "sounds.parquet", "-o", "sounds.index")
    return folder / "sounds.index"


def test_a_part_of_a_recording_finds_where_it_came_from(index: Path) -> None:
    result = run("index", "search", "sounds.index", "sounds/both.wav", "--duration", 2.9, "-k", 2, "--by", "file")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["RANK", "SIMILARITY", "START", "END", "PEAK", "FILE"]
    assert {line[-1] for line in lines[1:]} == {"sounds/both.wav", "sounds/tone2.wav"}
    other = run("index", "search", "sounds.index", "sounds/both.wav", "--start", 3, "--json", "--exclude-same-file")
    found = json.loads(other.stdout)
    assert (found["query"], found["metric"]) == ("sounds/both.wav", "centred")
    assert found["answers"][0]["hits"][0]["file"] == "sounds/noise2.wav"
    assert all(hit["file"] != "sounds/both.wav" for hit in found["answers"][0]["hits"])


def test_embedding_again_and_what_is_stored_find_the_same(index: Path) -> None:
    def hits(*query: str) -> list[tuple[object, ...]]:
        found = json.loads(run("index", "search", "sounds.index", *query, "--json", "--start", 3).stdout)
        return [tuple(hit.values()) for hit in found["answers"][0]["hits"]]

    embedded = hits("sounds/both.wav", "-k", "3")
    stored = hits("--file", "both.wav", "-k", "3")
    from_file = hits("sounds.parquet", "--file", "both.wav", "-k", "3")
    assert [hit[1:4] for hit in from_file] == [hit[1:4] for hit in stored]
    assert {embedded[0][1], stored[0][1]} <= {"sounds/both.wav", "sounds/noise2.wav"}  # which are the same sound


def test_a_recording_may_come_through_a_pipe(index: Path) -> None:
    command = ["index", "search", "sounds.index"]
    piped = CliRunner().invoke(app, [*command, "-", "--csv"], input=Path("sounds/both.wav").read_bytes())
    assert piped.stdout == run(*command, "sounds/both.wav", "--csv").stdout


def test_each_row_has_an_answer_with_its_time(index: Path) -> None:
    result = run("index", "search", "sounds.index", "--file", "both.wav", "--each", "--csv", "-k", 1, "--by", "row")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["query_start_s"], row["query_end_s"]) for row in rows[:2]] == [("0.0", "0.96"), ("0.96", "1.92")]
    assert [(row["file"], row["start_s"]) for row in rows[-1:]] == [("sounds/both.wav", rows[-1]["query_start_s"])]
    talk = run("index", "search", "sounds.index", "--file", "both.wav", "--each", "-k", 1).stdout
    assert talk.startswith("0.00–0.96 s:\nRANK")


def test_the_same_file_is_known_by_another_name(index: Path) -> None:
    result = run("index", "search", "sounds.index", index.parent / "sounds" / "both.wav", "--exclude-same-file")
    assert "both.wav" not in result.stdout
    assert "tone2.wav" in result.stdout


def test_an_answer_is_written_whole_and_kept(index: Path) -> None:
    for name in ("a.csv", "a.json"):
        result = run("index", "search", "sounds.index", "--file", "both.wav", "-o", name)
        assert result.stdout == ""
        with pytest.raises(OutputError, match=f"{name}: exists already"):
            run("index", "search", "sounds.index", "--file", "both.wav", "-o", name)
        run("index", "search", "sounds.index", "--file", "both.wav", "-o", name, "--overwrite")
    written = json.loads(Path("a.json").read_text(encoding="utf-8"))["answers"][0]["hits"]
    assert len(Path("a.csv").read_text(encoding="utf-8").splitlines()) - 1 == len(written)


def test_what_is_built_is_said(index: Path) -> None:
    again = run("index", "build", "sounds.parquet", "-o", "sounds.index", "--add")
    assert again.stderr.splitlines() == [
        "left out: 7 files of a name that was there before",
        f"sounds.index: 0 added: 42 rows of 7 files, {os.path.getsize('sounds.index') / 1e6:,.1f} MB",  # noqa: PTH202
    ]
    done = json.loads(run("index", "build", "sounds.parquet", "-o", "p.index", "--pool", "mean", "--json").stdout)
    assert (done["path"], done["files"], done["rows"]) == ("p.index", 7, 7)
    assert run("index", "info", "p.index").stdout.splitlines()[3].split() == ["pool", "mean"]
    told = json.loads(run("index", "info", "sounds.index", "--json").stdout)
    assert (told["rows"], len(told["names"]), told["job"]["model"]) == (42, 7, "tiny")


# One test, because each would make the index again.
REFUSED: list[tuple[list[object], str]] = [
    (
        ["sounds/both.wav", "-w", "untrained:1"],
        r"weights untrained:1: sha256 .* is of untrained:0 with .*--weights",
    ),
    ([], "nothing to search for"),
    (["sounds/both.wav", "--file", "both.wav"], "--file: sounds/both.wav is searched for"),
    (["--file", "both.wav", "-w", "untrained:0"], "--weights: would not be used"),
    (["--file", "both.wav", "--csv", "--json"], "--csv and --json: expected one of them"),
    (["--file", "both.wav", "-o", "a.txt"], "--out a.txt: its ending names no format"),
    (["sounds.parquet"], r"which recording is not said; it has 7, such as sounds/both.wav"),
    (["sounds.parquet", "--file", "x.wav"], "no recordings called x.wav"),
    (["sounds/both.wav", "--pca", "x.npz"], "--pca: would not be used; sounds.index is of raw"),
    (["--file", "both.wav", "--start", 60], "no row at 60 s"),
    (["--file", "both.wav", "--csv", "-o", "sounds.index", "--overwrite"], "--out sounds.index: one of the inputs"),
]


def test_what_does_not_fit_is_refused(index: Path) -> None:
    for arguments, message in REFUSED:
        with pytest.raises(OptionError, match=message):
            run("index", "search", "sounds.index", *arguments)


def test_a_recording_too_short_for_an_embedding_is_refused(folder: Path) -> None:
    run("embed", "-m", "tiny", "-w", "untrained:0", "sounds", "-o", "e.parquet", "--pad", "none")
    run("index", "build", "e.parquet", "-o", "e.index")
    soundfile.write("short.wav", np.zeros(8_000), 16_000)
    with pytest.raises(OptionError, match=r"short.wav: no embedding; expected one at least"):
        run("index", "search", "e.index", "short.wav")


def test_weights_without_a_name_have_to_be_given(index: Path) -> None:
    run("models", "convert", "untrained:0", "--model", "tiny", "-o", "own.safetensors")
    run("embed", "-m", "tiny", "-w", "own.safetensors", "sounds", "-o", "own.parquet")
    run("index", "build", "own.parquet", "-o", "own.index")
    with pytest.raises(OptionError, match=r"own.index is of tiny with weights from own.safetensors .*--weights"):
        run("index", "search", "own.index", "sounds/both.wav")
    assert "sounds/both.wav" in run("index", "search", "own.index", "sounds/both.wav", "-w", "own.safetensors").stdout


def test_embeddings_of_another_model_are_refused(index: Path) -> None:
    run("embed", "-m", "tiny", "-w", "untrained:1", "sounds/both.wav", "-o", "other.npz")
    with pytest.raises(OptionError, match=r"other embeddings than sounds.index holds"):
        run("index", "search", "sounds.index", "other.npz")


def test_defaults_are_the_library_s() -> None:
    assert library.search.DEFAULT_COUNT == command.TOP
    assert command.ByChoice.range.value == library.search.DEFAULT_BY
    assert [choice.value for choice in command.ByChoice] == ["range", "row", "file"]


def test_a_model_of_ones_own_is_found_by_its_file_or_its_name_on_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = dict(weights.load("tiny", "untrained:0").tensors)
    tensors |= {"head/weights": np.zeros((16, 1), np.float32), "head/biases": np.zeros(1, np.float32)}
    own.save(own.OwnModel("tiny", ClassList(("a",), ("a",)), "softmax"), tensors, folder / "mine.safetensors")
    run("embed", "-m", "mine.safetensors", "sounds", "-o", "mine.parquet")
    run("index", "build", "mine.parquet", "-o", "mine.index")
    search = ("sounds/tone0.wav", "--json", "-k", 1)
    with pytest.raises(OptionError, match=r"of mine with weights from mine.safetensors .*Name it \(--weights\)"):
        run("index", "search", "mine.index", *search)
    found = json.loads(run("index", "search", "mine.index", *search, "-w", "mine.safetensors").stdout)
    assert found["answers"][0]["hits"][0]["file"] == "sounds/tone0.wav"

    name = f"hf://owner/mine@{'0' * 40}"
    pulled = download.Pulled(name, "model", folder / "mine.safetensors", "")
    monkeypatch.setitem(download._known, name, pulled)  # as if it had been fetched
    run("embed", "-m", name, "sounds", "-o", "hub.parquet")
    run("index", "build", "hub.parquet", "-o", "hub.index")
    assert json.loads(run("index", "search", "hub.index", *search).stdout)["answers"] == found["answers"]


def test_clips_of_a_class_are_alike(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowing cocks: of the five files most like one, most are cocks, and none is the same recording."""
    monkeypatch.chdir(tmp_path)
    clips = [path for of in ("rooster", "rain") for path in sorted((data_dir / "esc10" / of).glob("1-*.ogg"))[:6]]
    run("embed", "-m", "mini", *clips, "-o", "clips.parquet")
    run("index", "build", "clips.parquet", "-o", "clips.index")
    options = ("--by", "file", "-k", 5, "--exclude-same-file", "--json")
    hits = json.loads(run("index", "search", "clips.index", clips[0], *options).stdout)["answers"][0]["hits"]
    assert sum("rooster" in hit["file"] for hit in hits) >= 4
    assert all(hit["file"] != str(clips[0]) for hit in hits)
