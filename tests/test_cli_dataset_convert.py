"""`audioset dataset convert` and `show`: what is said, what is written, and with which exit status."""

from __future__ import annotations

import inspect
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from audioset.cli import app
from audioset.cli.dataset import features as cli
from audioset.dataset.convert import convert_features
from audioset.dataset.feature_dataset import FeatureDataset
from audioset.dataset.features import FeatureRecord, read_features
from audioset.dataset.youtube8m import write_youtube8m
from audioset.errors import AudioSetError, OptionError, OutputError, RecordError
from dataset._released import random_records, write_shard
from dataset.test_youtube8m import RECORDS

runner = CliRunner()


def run(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, ["dataset", *map(str, arguments)])
    if isinstance(result.exception, AudioSetError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def records(rng: np.random.Generator) -> list[FeatureRecord]:
    found = random_records(rng, 20)
    found[0] = FeatureRecord("-abcdefghij", 30, 32, np.array([0, 74, 600], np.int32), found[1].embedding[:2])
    return found


@pytest.fixture
def folder(tmp_path: Path, records: list[FeatureRecord]) -> Path:
    write_shard(tmp_path / "shards" / "a.tfrecord", records[:12])
    write_shard(tmp_path / "shards" / "b.tfrecord", records[12:])
    return tmp_path / "shards"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_a_folder_becomes_one_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    status, stdout, stderr = run("convert", folder, "-o", out)
    assert (status, stdout) == (0, "")
    assert stderr.startswith(f"{out}: 20 records from 0.0 MB in ")
    assert stderr.endswith(" MB/s\n")
    assert len(FeatureDataset(out)) == 20


def test_several_shards_may_be_named(folder: Path, tmp_path: Path) -> None:
    assert run("convert", folder / "a.tfrecord", folder / "b.tfrecord", "-o", tmp_path / "x.parquet")[0] == 0
    assert run("convert", tmp_path / "x.parquet", "-o", tmp_path / "back")[0] == 0
    assert len(list(read_features(tmp_path / "back"))) == 20


def test_only_some_shards_of_an_archive_may_be_taken(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "features.tar.gz", "w:gz") as archive:
        archive.add(folder, "v1/eval")
        archive.add(folder, "v1/bal_train")
    one, all_ = tmp_path / "one.arrow", tmp_path / "all.arrow"
    run("convert", tmp_path / "features.tar.gz", "-o", one, "--only", "eval/*")
    run("convert", tmp_path / "features.tar.gz", "-o", all_, "--only", "eval/*", "--only", "bal_train/*")
    assert 2 * len(FeatureDataset(one)) == len(FeatureDataset(all_)) > 0
    with pytest.raises(OptionError, match=r"one\.arrow: a table has no shards"):
        run("convert", one, "-o", tmp_path / "again.arrow", "--only", "eval/*")


def test_damage_is_named_and_ends_with_status_1(folder: Path, tmp_path: Path) -> None:
    damage(folder / "a.tfrecord")
    status, stdout, stderr = run("convert", folder, "-o", tmp_path / "x.arrow", "--json")
    assert status == 1
    found = json.loads(stdout)
    assert (found["num_records"], len(found["damages"])) == (19, 1)
    assert found["damages"][0]["file"] == str(folder / "a.tfrecord")
    at = found["damages"][0]["offset"]
    assert f"failed: {folder / 'a.tfrecord'}: the checksum of the data of the record at byte {at:,} differs" in stderr
    assert "19 records" in stderr
    assert "1 damaged place\n" in stderr


def test_what_exists_is_kept_unless_overwrite(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    assert run("convert", folder / "a.tfrecord", "-o", out)[0] == 0
    with pytest.raises(OutputError, match="exists already"):
        run("convert", folder, "-o", out)
    assert len(FeatureDataset(out)) == 12
    assert run("convert", folder, "-o", out, "--overwrite")[0] == 0
    assert len(FeatureDataset(out)) == 20


def test_wrong_usage_is_an_option_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="names no format"):
        run("convert", folder, "-o", tmp_path / "x.csv")
    assert run("convert", folder)[0] == 2
    assert run("show", folder, "--limit", "0")[0] == 2


def test_an_interruption_says_that_nothing_was_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("audioset.dataset.convert.convert_features", interrupt)
    status, _, stderr = run("convert", folder, "-o", tmp_path / "x.arrow")
    assert (status, stderr) == (130, f"interrupted: {tmp_path / 'x.arrow'} was not written\n")


@pytest.mark.parametrize("kind", ["shards", "x.arrow", "x.parquet"])
def test_records_are_shown_legibly(folder: Path, tmp_path: Path, records: list[FeatureRecord], kind: str) -> None:
    file = tmp_path / kind
    if kind != "shards":
        convert_features(folder, file)
    status, stdout, stderr = run("show", file, "--limit", 2)
    lines = stdout.splitlines()
    assert status == 0
    assert len(lines) == 4
    assert lines[0] == "-abcdefghij  30–32 s  2 frames  Speech; Dog; class 600"
    assert lines[1] == f"    {' '.join(map(str, records[0].embedding[0, :12]))} …"
    assert lines[2].startswith(records[1].video_id)
    assert stderr == f"{file}: vggish, 128 uint8 values a frame (uint8)\n"


def test_records_are_shown_as_json_lines(folder: Path, records: list[FeatureRecord]) -> None:
    status, stdout, stderr = run("show", folder, "--json", "-n", 100)
    assert (status, stderr) == (0, "")
    found = [json.loads(line) for line in stdout.splitlines()]
    assert [row["video_id"] for row in found] == [record.video_id for record in records]
    assert found[0] == {
        "video_id": "-abcdefghij",
        "start_s": 30,
        "end_s": 32,
        "num_frames": 2,
        "labels": [
            {"index": 0, "name": "Speech"},
            {"index": 74, "name": "Dog"},
            {"index": 600, "name": None},
        ],
        "first_values": records[0].embedding[0, :12].tolist(),
    }


def test_damage_is_named_while_showing(folder: Path) -> None:
    damage(folder / "b.tfrecord")
    status, stdout, stderr = run("show", folder, "--limit", 100, "--json")
    assert status == 1
    assert len(stdout.splitlines()) == 19
    assert "failed: " in stderr
    assert "b.tfrecord: the checksum of the data" in stderr


def test_what_is_no_file_of_features_is_refused_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_text("file,start_s,end_s\n")
    result = runner.invoke(app, ["dataset", "show", str(tmp_path / "x.tfrecord")])
    assert isinstance(result.exception, RecordError)
    assert "no record can be read" in str(result.exception)
    assert "failed: " in result.stderr


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("frame", ["eXbF  0–2 s  2 frames  class 3; class 3861", "    0 1 7 …"]),
        (
            "segment",
            [
                "eXbF  0–2 s  2 frames  class 3; class 3861",
                "    rated: 60–65 s class 3: 1, 60–65 s class 300: 0, 25–30 s class 3: 0.5",
                "    0 1 7 …",
            ],
        ),
        ("video", ["eXbF  0–? s  1 frame  class 3; class 3861", "    0.25 -1.5 2 …"]),
    ],
)
def test_youtube8m_is_shown_at_every_level(level: str, expected: list[str], tmp_path: Path) -> None:
    write_youtube8m(tmp_path / "x.tfrecord", [RECORDS[level][1]])
    status, stdout, _ = run("show", tmp_path / "x.tfrecord")
    assert (status, stdout.splitlines()) == (0, expected)
    assert json.loads(run("show", tmp_path / "x.tfrecord", "--json")[1])["video_id"] == "eXbF"


def test_defaults_are_those_of_the_function() -> None:
    ours, theirs = (inspect.signature(each).parameters["overwrite"] for each in (cli.convert, convert_features))
    assert ours.default == theirs.default
