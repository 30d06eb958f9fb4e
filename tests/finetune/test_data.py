"""Labelled clips: folders and csv files, classes, what is held out, groups, copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioset.errors import DatasetError, OptionError
from audioset.finetune.data import Sounds, read_class_names, read_sounds


def sound(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(1600), 16_000)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of AudioSet's and one of nobody's, three clips each, one in a folder of its own."""
    for place, name in enumerate(["Dog/1-a.wav", "Dog/2-b.wav", "Dog/deep/1-c.flac", "rain/1-a.wav", "rain/2-b.wav"]):
        sound(tmp_path / "pets" / name, place)
    for place, name in enumerate(["Ämsel/1-x.wav", "Ämsel/2-y.wav", "Ämsel/3-z.wav"]):
        sound(tmp_path / "pets" / name, place + 10)
    return tmp_path / "pets"


def csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "clips.csv"
    path.write_bytes(text.encode(encoding))
    return path


def by_name(sounds: Sounds) -> dict[str, tuple[str, ...]]:
    return {clip.name: tuple(sounds.classes.names[label] for label in clip.labels) for clip in sounds.clips}


def test_a_folder_has_a_class_a_subfolder(pets: Path) -> None:
    sounds = read_sounds(pets)
    assert sounds.classes.names == ("Dog", "rain", "Ämsel")
    assert sounds.classes.mids == ("/m/0bt9lr", "/m/06mb1", "Ämsel")  # AudioSet's own, whatever the case
    assert not sounds.multi_label
    assert by_name(sounds)["pets/Dog/deep/1-c.flac"] == ("Dog",)
    assert len(sounds.clips) == 8
    np.testing.assert_array_equal(sounds.targets().sum(axis=0), [3, 2, 3])
    assert sounds.warnings == ()


def test_a_folder_may_be_named_from_inside(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets)
    assert by_name(read_sounds(".", test="pets/*/3-*")) == by_name(read_sounds(pets))


def test_a_csv_has_windows_several_labels_and_columns_in_any_order(pets: Path) -> None:
    text = (
        "labels,PATH,end,start\r\nDog; rain,Dog/1-a.wav,0.08,0.02\r\n,rain/1-a.wav,,\r\n\r\n/m/06mb1,rain/2-b.wav,,\r\n"
    )
    sounds = read_sounds(csv(pets, "\ufeff" + text))
    assert sounds.multi_label
    assert by_name(sounds) == {"Dog/1-a.wav": ("Dog", "rain"), "rain/1-a.wav": (), "rain/2-b.wav": ("rain",)}
    assert sounds.classes.mids == ("/m/0bt9lr", "/m/06mb1")
    first = sounds.clips[0]
    assert Path(first.path) == pets / "Dog/1-a.wav"
    assert (first.start_s, first.duration_s) == (0.02, pytest.approx(0.06))


def test_one_label_a_row_is_one_class_a_clip(pets: Path) -> None:
    sounds = read_sounds(csv(pets, "path,labels\nDog/1-a.wav,Dog\nrain/1-a.wav,rain\n"))
    assert not sounds.multi_label


def test_a_column_that_says_nothing_to_us_is_named(pets: Path) -> None:
    sounds = read_sounds(csv(pets, "path,labels,strt,Take\nDog/1-a.wav,Dog,0.5,1\nrain/1-a.wav,rain,,2\n"))
    (warning,) = sounds.warnings
    assert warning.endswith(
        "clips.csv: columns 'strt', 'take' not used; those that are: path, labels, start, end, group, fold, split"
    )
    assert not read_sounds(csv(pets, "file,label,start_s\nDog/1-a.wav,Dog,\nrain/1-a.wav,rain,\n")).warnings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path;labels\na.wav;Dog\n", "the first line has the columns 'path;labels'"),
        ("", "the first line has the columns none"),
        ("path,labels\na.wav,Dog,Cat\n", "line 2: 3 cells; expected 2"),
        ("path,labels\n,Dog\n", "line 2: no path"),
        ("path,labels,start\na.wav,Dog,soon\n", "line 2: start 'soon'; expected seconds"),
        ("path,labels,start\na.wav,Dog,-1\n", "line 2: start '-1'; expected seconds"),
        ("path,labels,start,end\na.wav,Dog,2,1\n", "line 2: from 2 to 1 s; expected an end after"),
        ("path,labels,split\na.wav,Dog,tset\n", "line 2: split 'tset'; expected train"),
        ('path,labels\n"a.wav,Dog\n', "not csv"),
        ("path,labels\n", "no label"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused_by_line(pets: Path, text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=rf"clips\.csv: .*{said}"):
        read_sounds(csv(pets, text))


def test_a_csv_of_another_encoding_is_refused(pets: Path) -> None:
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_sounds(csv(pets, "path,labels\nä.wav,Dog\n", "latin-1"))


def test_a_folder_without_classes_or_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such folder or file"):
        read_sounds(tmp_path / "gone")
    sound(tmp_path / "loose" / "a.wav", 0)
    with pytest.raises(DatasetError, match="no subfolder"):
        read_sounds(tmp_path / "loose")


def test_a_class_without_a_clip_is_named(pets: Path) -> None:
    with pytest.raises(DatasetError, match=r"class 'Cat': no example in .*It has"):
        read_sounds(pets, classes=["Dog", "Cat"])
    (pets / "cat").mkdir()
    with pytest.raises(DatasetError, match="cat: no audio file in this folder"):
        read_sounds(pets)
    assert len(read_sounds(pets, classes=["Dog", "rain"]).classes) == 2


def test_classes_choose_and_order(pets: Path) -> None:
    sounds = read_sounds(pets, classes=["/m/06mb1", "dog"])
    assert sounds.classes.mids == ("/m/06mb1", "/m/0bt9lr")
    assert len(sounds.clips) == 5
    assert any("Ämsel: not among the classes" in warning for warning in sounds.warnings)


def test_labels_that_were_not_asked_for_are_listed(pets: Path) -> None:
    text = "path,labels\nDog/1-a.wav,Dog\nDog/2-b.wav,Dog;owl\nrain/1-a.wav,owl\nrain/2-b.wav,rain\n"
    sounds = read_sounds(csv(pets, text), classes=["Dog", "rain"])
    assert by_name(sounds)["Dog/2-b.wav"] == ("Dog",)
    assert by_name(sounds)["rain/1-a.wav"] == ()  # a clip without any of the classes is one to learn from
    assert sounds.warnings == ("labels of classes that were not asked for, left out: owl (2)",)


def test_a_pattern_holds_out(pets: Path) -> None:
    sounds = read_sounds(pets, test="pets/*/3-*")
    assert [clip.name for clip in sounds.clips if clip.split == "test"] == ["pets/Ämsel/3-z.wav"]
    with pytest.raises(
        OptionError, match="matches no clip and is no file; expected a pattern for names such as 'pets/"
    ):
        read_sounds(pets, test="*/9-*")


def test_other_data_hold_out_and_their_files_are_not_learnt(pets: Path, tmp_path: Path) -> None:
    shutil.copy(pets / "Dog/1-a.wav", tmp_path / "copy.wav")
    held = tmp_path / "held.csv"
    held.write_text("path,labels\ncopy.wav,Dog\n")
    sounds = read_sounds(pets, test=held)
    assert len(sounds.clips) == 8  # the copy, and all but its original
    assert {clip.name for clip in sounds.clips if clip.split == "test"} == {"copy.wav"}
    assert "pets/Dog/1-a.wav" not in by_name(sounds)
    assert sounds.warnings == ("1 copy of other clips, left out: pets/Dog/1-a.wav",)


def test_groups_come_from_names_or_a_column(pets: Path) -> None:
    def groups(sounds: Sounds) -> dict[str, str]:
        return {clip.name.rpartition("/")[2]: clip.group for clip in sounds.clips}

    found = groups(read_sounds(pets, group=r"/(\d)-"))
    assert found["1-a.wav"] == found["1-x.wav"] == found["1-c.flac"] == "group 1"
    text = "path,labels,group\nDog/1-a.wav,Dog,k\nDog/2-b.wav,Dog,k\nrain/1-a.wav,rain,m\n"
    assert set(groups(read_sounds(csv(pets, text))).values()) == {"group k", "group m"}
    with pytest.raises(OptionError, match="matches no clip"):
        read_sounds(pets, group="z{9}")
    with pytest.raises(OptionError, match="no regular expression"):
        read_sounds(pets, group="(")


def test_windows_of_one_file_are_one_group(pets: Path) -> None:
    text = "path,labels,start,end\nDog/1-a.wav,Dog,0,0.05\nDog/1-a.wav,rain,0.05,0.1\nrain/1-a.wav,rain,,\n"
    first, second, other = read_sounds(csv(pets, text)).clips
    assert first.group == second.group != other.group


def test_groups_that_share_a_file_are_one(pets: Path) -> None:
    text = (
        "path,labels,start,end,group\nDog/1-a.wav,Dog,0,0.05,k\nDog/1-a.wav,rain,0.05,0.1,m\n"
        "rain/1-a.wav,rain,,,m\nrain/2-b.wav,rain,,,n\n"
    )
    groups = [clip.group for clip in read_sounds(csv(pets, text)).clips]
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_a_tested_group_is_not_learnt(pets: Path) -> None:
    sounds = read_sounds(pets, test="pets/Dog/1-a.wav", group=r"/(\d)-")
    assert {clip.name for clip in sounds.clips if clip.split != "test"} == {
        "pets/Dog/2-b.wav", "pets/rain/2-b.wav", "pets/Ämsel/2-y.wav", "pets/Ämsel/3-z.wav",
    }  # fmt: skip
    assert "3 clips of the same groups or files as what is tested, left out of training" in sounds.warnings[0]


def test_the_same_sound_in_two_classes_is_left_out_and_listed(pets: Path) -> None:
    shutil.copy(pets / "Dog/1-a.wav", pets / "rain/9-copy.wav")
    shutil.copy(pets / "Dog/2-b.wav", pets / "Dog/9-copy.wav")
    sounds = read_sounds(pets)
    assert len(sounds.clips) == 7
    assert sounds.warnings == (
        "1 copy of other clips, left out: pets/Dog/9-copy.wav",
        "the same sound in different classes, all of it left out: pets/Dog/1-a.wav (Dog) = pets/rain/9-copy.wav (rain)",
    )


def test_clips_in_no_class_are_listed(pets: Path) -> None:
    sound(pets / "stray.wav", 99)
    (pets / "notes.txt").write_text("not sound")
    assert read_sounds(pets).warnings == (f"{pets}: 1 clip in no class's folder, left out: {pets / 'stray.wav'}",)


def test_the_same_data_elsewhere_have_the_same_hash(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "elsewhere" / "pets")
    before = read_sounds(pets).sha256
    assert read_sounds(tmp_path / "elsewhere" / "pets").sha256 == before
    sound(pets / "Dog/1-a.wav", 77)
    assert read_sounds(pets).sha256 != before


def test_class_names_come_from_a_list_or_a_file(tmp_path: Path) -> None:
    assert read_class_names("Dog, rain,/m/06mb1") == ("Dog", "rain", "/m/06mb1")
    file = tmp_path / "classes.txt"
    file.write_text("# mine\nChild speech, kid speaking\n\nDog\n")
    assert read_class_names(str(file)) == ("Child speech, kid speaking", "Dog")
    with pytest.raises(OptionError, match="none named"):
        read_class_names(" , ")
