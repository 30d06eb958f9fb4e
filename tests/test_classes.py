"""Class names: the table that ships is the published lists."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from audioset.classes import class_list, class_names
from audioset.errors import OptionError

# In AudioSet's list and not in YAMNet's.
ABSENT = {
    "Male speech, man speaking",
    "Female speech, woman speaking",
    "Battle cry",
    "Male singing",
    "Female singing",
    "Funny music",
}


def published(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    return [(row["mid"], row["display_name"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "path", "count"),
    [
        ("audioset527", "audioset/class_labels_indices.csv", 527),
        ("yamnet521", "yamnet/yamnet_class_map.csv", 521),
    ],
)
def test_lists_are_the_published_ones(name: str, path: str, count: int, data_dir: Path) -> None:
    classes = class_list(name)
    assert list(zip(classes.mids, classes.names, strict=True)) == published(data_dir / path)
    assert len(classes) == count


def test_yamnet_has_all_but_six_in_the_same_order() -> None:
    every, of_yamnet = class_names("audioset527"), class_names("yamnet521")
    assert (len(every), len(of_yamnet)) == (527, 521)
    assert [name for name in every if name not in ABSENT] == list(of_yamnet)


def test_no_two_classes_share_a_name_or_mid() -> None:
    classes = class_list("audioset527")
    assert len({name.casefold() for name in classes.names}) == len(set(classes.mids)) == 527


def test_a_model_stands_for_its_list() -> None:
    assert class_list("yamnet") is class_list("yamnet521") or class_list("yamnet") == class_list("yamnet521")


def test_a_class_is_found_by_name_in_any_case_and_by_mid() -> None:
    classes = class_list("yamnet")
    place = classes.index("Dog")
    assert (classes.names[place], classes.mids[place]) == ("Dog", "/m/0bt9lr")
    assert classes.index("dOG") == classes.index("/m/0bt9lr") == place


@pytest.mark.parametrize(("wrong", "suggested"), [("Rooster", "Chicken, rooster"), ("Chainsaww", "Chainsaw")])
def test_an_unknown_class_is_refused_with_close_names(wrong: str, suggested: str) -> None:
    with pytest.raises(OptionError, match=f"class '{wrong}': not among these 521.*'{suggested}'"):
        class_list("yamnet").index(wrong)


def test_unknown_lists_and_models_without_classes_are_refused() -> None:
    with pytest.raises(OptionError, match="class list 'coco': unknown; expected one of audioset527, yamnet521, yamnet"):
        class_list("coco")
    with pytest.raises(OptionError, match="vggish: gives embeddings and has no classes"):
        class_list("vggish")
