from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from audioset import models
from audioset.errors import WeightsError
from audioset.weights import CatalogueEntry, catalogue

SHA256 = "ab" * 32
OURS = {"name": "ours", "model": "vggish", "url": "http://example.org/a/ours%20v1.ckpt?x=1", "sha256": SHA256}


@pytest.fixture
def override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "catalogue.json"
    monkeypatch.setenv("AUDIOSET_CATALOGUE", str(path))
    return path


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_every_built_in_entry_is_complete(entry: CatalogueEntry) -> None:
    assert catalogue()[entry.name] == entry
    assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert urlsplit(entry.url).scheme == "https"
    assert entry.licence
    assert entry.citation
    assert entry.about
    assert entry.size_bytes


def test_file_names_do_not_collide() -> None:
    names = [entry.file_name for entry in catalogue().values()]
    assert len(names) == len(set(names))


def test_other_files_of_the_same_name_are_kept_apart(override: Path) -> None:
    theirs = {**OURS, "name": "theirs", "sha256": "cd" * 32}
    as_published = {**OURS, "name": "vggish", "url": "http://example.org/vggish_model.ckpt"}
    override.write_text(json.dumps([OURS, theirs, as_published]))
    names = [entry.file_name for entry in catalogue().values()]
    assert len(names) == len(set(names))
    assert "vggish_model.ckpt" not in names


@pytest.mark.parametrize(
    "last",
    ["a%2Fb.ckpt", "..%2F..%2Fb.ckpt", "a%5Cb.ckpt", "a\\b.ckpt", "C%3Ab.ckpt", "a%0Ab.ckpt", "a%00b.ckpt", "%3F"],
)
def test_a_url_that_ends_in_what_cannot_be_a_file_name_is_refused(override: Path, last: str) -> None:
    override.write_text(json.dumps([{**OURS, "url": f"https://example.org/{last}"}]))
    with pytest.raises(WeightsError, match=r"entry 1 \('ours'\) has a url whose last part, .*, cannot be the name of"):
        catalogue()


def test_published_files_are_those_of_the_release() -> None:
    published = {entry.name: entry for entry in catalogue().values()}
    assert published["vggish"].url == "https://storage.googleapis.com/audioset/vggish_model.ckpt"
    assert published["vggish-pca"].url == "https://storage.googleapis.com/audioset/vggish_pca_params.npz"
    assert published["yamnet"].url == "https://storage.googleapis.com/audioset/yamnet.h5"
    assert published["vggish"].licence == models.get("vggish").licence


def test_a_file_of_ones_own_adds_entries(override: Path) -> None:
    override.write_text(json.dumps([OURS]))
    found = catalogue()
    assert list(found)[-1] == "ours"
    assert found["ours"].url == OURS["url"]
    assert found["ours"].file_name == f"{SHA256[:8]}-ours v1.ckpt"
    assert found["ours"].size_bytes is None
    assert found["vggish"].url.startswith("https://storage.googleapis.com/")


def test_a_mirror_inherits_what_it_does_not_give(override: Path) -> None:
    override.write_text("[]")
    published = catalogue()["vggish"]
    mirror = {"name": "vggish", "model": "vggish", "url": "http://mirror/v.ckpt", "sha256": published.sha256.upper()}
    override.write_text(json.dumps([mirror]))
    found = catalogue()["vggish"]
    assert found.url == "http://mirror/v.ckpt"
    assert found.file_name == published.file_name
    assert (found.sha256, found.licence, found.citation) == (published.sha256, published.licence, published.citation)


def test_other_weights_under_a_built_in_name_inherit_nothing(override: Path) -> None:
    override.write_text(json.dumps([{**OURS, "name": "vggish"}]))
    assert catalogue()["vggish"].sha256 == SHA256
    assert catalogue()["vggish"].licence == ""


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "holds a dict"),
        ("[3]", "entry 1 is a int"),
        (json.dumps([{**OURS, "sha256": None}]), "entry 1 .'ours'. has sha256 = None"),
        (json.dumps([{key: OURS[key] for key in ("name", "model", "url")}]), r"entry 1 \('ours'\) lacks sha256"),
        (json.dumps([OURS, {}]), "entry 2 .None. lacks name, model, url, sha256"),
        (json.dumps([{**OURS, "sha256": "abc"}]), "not 64 hexadecimal digits"),
        (json.dumps([{**OURS, "md5": "abc"}]), "unknown field 'md5'"),
        (json.dumps([{**OURS, "size_bytes": "1"}]), "size_bytes = '1'"),
        (json.dumps([{**OURS, "kind": "head"}]), "kind = 'head'"),
        (json.dumps([{**OURS, "url": "file:///etc/x"}]), r"without http\(s\)"),
        (json.dumps([{**OURS, "url": "http://example.org/"}]), "without a file name"),
    ],
)
def test_what_is_wrong_with_a_file_of_ones_own_is_named(override: Path, content: str, match: str) -> None:
    override.write_text(content)
    with pytest.raises(
        WeightsError, match=rf"catalogue\.json \(from AUDIOSET_CATALOGUE\): .*{match}.*Correct the file"
    ):
        catalogue()


def test_a_missing_file_of_ones_own_is_named(override: Path) -> None:
    with pytest.raises(WeightsError, match=r"catalogue\.json .*No such file"):
        catalogue()
