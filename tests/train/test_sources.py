"""Features as users have them, as clips with classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from audioset.classes import ClassList, class_list
from audioset.dataset.convert import convert_features
from audioset.dataset.features import FeatureRecord, write_features
from audioset.dataset.ontology import Ontology
from audioset.errors import DatasetError, RecordError, WeightsError
from audioset.train import sources
from audioset.train.batches import targets
from audioset.train.sources import FeatureClips, mid_of, open_clips, open_training, read_classes

DOG, BARK = 74, 75  # columns among the 527


def record(name: str, labels: list[int], frames: int = 3) -> FeatureRecord:
    rng = np.random.default_rng(len(name) + sum(labels))
    embedding = rng.integers(0, 256, (frames, 128), dtype=np.uint8)
    return FeatureRecord(name, 0.0, float(frames), np.array(labels, np.int32), embedding)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Twenty clips of ten videos, released as TFRecord."""
    path = tmp_path / "aa.tfrecord"
    write_features(path, [record(f"video-{place // 2}", [BARK, place % 5], place % 3 + 1) for place in range(20)])
    return path


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """Clips such as those of files that were embedded: no labels."""
    path = tmp_path / "own.arrow"
    names = ["birds/a.wav", "birds/b.wav", "rain/c.wav", "rain/d.wav"]
    write_features(tmp_path / "own.tfrecord", [record(name, []) for name in names])
    convert_features(tmp_path / "own.tfrecord", path)
    return path


def labels_csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


def names_of(clips: FeatureClips, classes: ClassList) -> dict[str, list[str]]:
    truth = targets(clips, np.arange(len(clips)))
    return {clips.name(place): [classes.names[c] for c in np.flatnonzero(truth[place])] for place in range(len(clips))}


def test_tfrecords_are_converted_once_and_again_when_they_change(shard: Path, isolated_cache: Path) -> None:
    first = open_clips(str(shard))
    assert len(first.clips) == 20
    assert first.classes == class_list("audioset527")
    assert (first.embedder.model, first.embedder.regime, first.embedder.dim) == ("vggish", "uint8", 128)
    open_clips(str(shard))
    assert len(list(isolated_cache.glob("features/*.arrow"))) == 1
    write_features(shard, [record("other", [3])])
    assert len(open_clips(str(shard)).clips) == 1


def test_clips_that_are_learnt_from_and_validated_by_are_counted(shard: Path, tmp_path: Path) -> None:
    other = tmp_path / "bb.tfrecord"
    write_features(other, [record(name, [BARK]) for name in ("video-3", "else", "video-3", "video-9")])
    said: list[str] = []
    open_training(str(shard), str(other), talk=said.append)
    assert any(line.startswith("3 of 4 clips to validate by are of videos or files that are learnt") for line in said)
    write_features(other, [record("else", [BARK])])
    said.clear()
    open_training(str(shard), str(other), talk=said.append)
    assert not any("files that are learnt from" in line for line in said)


def test_embeddings_and_targets_are_of_the_same_clip(shard: Path) -> None:
    clips = open_clips(str(shard)).clips
    chosen = clips.select(np.array([7, 0, 13]))
    embeddings, num_frames = chosen.frames(np.array([2, 0]))
    for row, place in enumerate((13, 7)):
        expected = record(f"video-{place // 2}", [BARK, place % 5], place % 3 + 1)
        np.testing.assert_array_equal(embeddings[row, : num_frames[row]], expected.embedding)
        np.testing.assert_array_equal(np.flatnonzero(targets(chosen, np.array([2, 0]))[row]), [place % 5, BARK])


def test_clips_of_a_video_are_held_out_together(shard: Path) -> None:
    found = open_training(str(shard), seed=3)
    ids = [{clips.name(place) for place in range(len(clips))} for clips in (found.train, found.valid)]
    assert not ids[0] & ids[1]
    assert (len(found.train), len(found.valid)) == (18, 2)
    again, other = open_training(str(shard), seed=3), open_training(str(shard), seed=4)
    assert again.valid.name(0) == found.valid.name(0)
    assert other.valid.name(0) != found.valid.name(0)


def test_of_many_clips_no_more_are_held_out_than_validation_needs(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "VALID_CLIPS", 1)
    found = open_training(str(shard))
    assert len(found.valid) == 2  # one video
    assert len(found.train) == 18


def test_propagated_labels_are_those_of_the_ontology(shard: Path) -> None:
    matrix = Ontology.load().ancestor_matrix(class_list("audioset527").mids, rule="unambiguous")
    plain = open_clips(str(shard)).clips
    climbed = plain.propagated(matrix)
    everything = np.arange(20)
    expected = (targets(plain, everything) @ matrix) > 0
    np.testing.assert_array_equal(targets(climbed, everything) > 0, expected)
    assert expected.sum() > targets(plain, everything).sum()
    training = open_training(str(shard), propagate=True)
    assert training.train.counts()[DOG] == 18  # every clip has Bark, a kind of Dog


def test_labels_of_a_csv_are_matched_by_file(tmp_path: Path, unlabelled: Path) -> None:
    said: list[str] = []
    csv = labels_csv(
        tmp_path, "file,labels\nbirds/a.wav,Bird\nbirds/b.wav,Bird; chirp\nrain/c.wav,Rain\ngone.wav,Rain\n"
    )
    opened = open_clips(str(unlabelled), csv, talk=said.append)
    assert names_of(opened.clips, opened.classes) == {
        "birds/a.wav": ["Bird"],
        "birds/b.wav": ["Bird", "chirp"],
        "rain/c.wav": ["Rain"],
    }
    assert opened.classes.names == ("Bird", "Rain", "chirp")
    assert opened.classes.mids == (mid_of("Bird"), mid_of("Rain"), "chirp")
    assert said == [
        f"left out: 1 clips of {unlabelled} that {csv} does not name",
        f"not embedded: 1 files that {csv} names: gone.wav",
    ]


def test_names_and_mids_of_a_csv_are_one_class(tmp_path: Path, unlabelled: Path) -> None:
    csv = labels_csv(
        tmp_path, "file,labels\na.wav,/m/03m9d0z\nb.wav,Wind;/m/03m9d0z\nc.wav,wind;chirp\nd.wav,/m/06mb1;/m/none\n"
    )
    opened = open_clips(str(unlabelled), csv)
    assert opened.classes == ClassList(
        ("/m/none", "/m/06mb1", "/m/03m9d0z", "chirp"), ("/m/none", "Rain", "Wind", "chirp")
    )
    expected = {
        "birds/a.wav": ["Wind"],
        "birds/b.wav": ["Wind"],
        "rain/c.wav": ["Wind", "chirp"],
        "rain/d.wav": ["/m/none", "Rain"],
    }
    assert names_of(opened.clips, opened.classes) == expected
    again = open_clips(str(unlabelled), csv, opened.classes)  # as validation and evaluation do
    assert names_of(again.clips, again.classes) == expected


def test_the_last_part_of_a_name_will_do_where_it_is_clear(tmp_path: Path, unlabelled: Path) -> None:
    csv = labels_csv(tmp_path, "file,labels\na.wav,x\n/elsewhere/rain/d.wav,y\n")
    opened = open_clips(str(unlabelled), csv)
    assert names_of(opened.clips, opened.classes) == {"birds/a.wav": ["x"], "rain/d.wav": ["y"]}


def test_a_last_part_that_two_files_share_matches_neither(tmp_path: Path) -> None:
    write_features(tmp_path / "own.tfrecord", [record(name, []) for name in ("x/a.wav", "y/a.wav", "b.wav")])
    csv = labels_csv(tmp_path, "file,labels\na.wav,no\nz/b.wav,no\nx/a.wav,yes\n")
    opened = open_clips(str(tmp_path / "own.tfrecord"), csv)
    assert names_of(opened.clips, opened.classes) == {"x/a.wav": ["yes"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,labels\n", "columns none; expected file and labels"),
        ("path,label\na.wav,x\n", "columns path, label; expected file and labels"),
        ("file,labels\na.wav,x,y\n", "row 1 has more or fewer cells"),
        ("file,labels\nnone.wav,x\n", r"names none of the 4 clips of .*such as 'birds/a\.wav'"),
        ("file,labels\na.wav, ;\n", "no label; expected some"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, unlabelled: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_clips(str(unlabelled), labels_csv(tmp_path, text))


def test_labels_unknown_to_the_list_are_named(tmp_path: Path, unlabelled: Path) -> None:
    csv = labels_csv(tmp_path, "file,labels\na.wav,Bird;Brid\n")
    with pytest.raises(DatasetError, match=r"labels\.csv: 1 labels that are no class: Brid"):
        open_clips(str(unlabelled), csv, class_list("audioset527"))


def test_clips_without_labels_ask_for_them(unlabelled: Path) -> None:
    with pytest.raises(DatasetError, match=r"own\.arrow: no clip has a label.*--labels"):
        open_clips(str(unlabelled))


def test_labels_beyond_the_list_are_refused(tmp_path: Path) -> None:
    write_features(tmp_path / "a.tfrecord", [record("a", [527])])
    with pytest.raises(DatasetError, match=r"labels from 527 to 527; expected 0 to 526"):
        open_clips(str(tmp_path / "a.tfrecord"))


def test_a_damaged_shard_is_not_half_used(shard: Path, isolated_cache: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(RecordError, match=r"aa\.tfrecord.*`audioset dataset convert` goes on past damage"):
        open_clips(str(shard))
    assert not list(isolated_cache.glob("features/*.arrow"))


@pytest.mark.parametrize(
    ("text", "names", "mids"),
    [
        ("name\nDog\nours\n", ("Dog", "ours"), ("/m/0bt9lr", "ours")),
        ('index,mid,display_name\n0,/m/1,"a, b"\n', ("a, b",), ("/m/1",)),
        ("Index,KnowledgeGraphId,Name\n0,/m/2,Game\n1,/m/3,\n", ("Game", "class 1"), ("/m/2", "/m/3")),
    ],
)
def test_lists_of_classes_are_read(tmp_path: Path, text: str, names: Any, mids: Any) -> None:
    assert read_classes(labels_csv(tmp_path, text)) == ClassList(mids, names)


def test_lists_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="columns kind; expected display_name or name"):
        read_classes(labels_csv(tmp_path, "kind\nDog\n"))
    with pytest.raises(DatasetError, match="class 'a' twice"):
        read_classes(labels_csv(tmp_path, "name\na\nb\na\n"))
    with pytest.raises(DatasetError, match="cannot be read"):
        read_classes(tmp_path / "gone.csv")


def test_the_real_shard_is_ready_to_learn_from(data_dir: Path) -> None:
    found = open_training(str(data_dir / "audioset" / "features" / "rm.tfrecord"))
    assert len(found.train) + len(found.valid) == 328
    counts: npt.NDArray[np.int64] = found.train.counts() + found.valid.counts()
    assert found.classes.names[int(counts.argmax())] in ("Music", "Speech")


def test_embeddings_of_other_weights_do_not_fit(tmp_path: Path, tiny: object, rng: np.random.Generator) -> None:
    import soundfile
    from typer.testing import CliRunner

    from audioset.cli import app

    embedders = []
    soundfile.write(tmp_path / "a.wav", rng.standard_normal(40_000) * 0.1, 16_000)
    (tmp_path / "labels.csv").write_text("file,labels\na.wav,noise\n")
    for seed in (0, 1):
        out = tmp_path / f"{seed}.parquet"
        told = ["embed", str(tmp_path / "a.wav"), "-o", str(out), "--model", "tiny", "--weights", f"untrained:{seed}"]
        with pytest.warns(match="random weights"):
            assert CliRunner().invoke(app, told).exit_code == 0
        embedders.append(open_clips(str(out), tmp_path / "labels.csv").embedder)
    assert (embedders[0].model, embedders[0].regime, embedders[0].dim) == ("tiny", "raw", 16)
    embedders[0].check(embedders[0], "0.parquet")
    with pytest.raises(WeightsError, match=r"1\.parquet: embeddings of tiny .* this head expects tiny"):
        embedders[0].check(embedders[1], "1.parquet")
