"""What can be fetched: one entry a file, with where it is, what it must hash to, and under which terms.

`AUDIOSET_CATALOGUE` may name a JSON file with a list of further entries (for mirrors and weights of one's own):

    [{"name": "ours", "model": "vggish", "url": "https://example.org/ours.safetensors", "sha256": "…"}]

An entry replaces the built-in one of the same name. If its sha256 is the same it is a mirror, and inherits what it
does not give. The hash is obligatory, so plain http is as safe as https.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from audioset.errors import WeightsError
from audioset.models import vggish
from audioset.weights.files import user_path

BASE_URL: Final = "https://storage.googleapis.com/audioset/"
WEIGHTS: Final = "weights"
PCA: Final = "pca"
_MARK_DIGITS: Final = 8
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f\\/:*?"<>|]')  # in names of files, on one system or another


@dataclass(frozen=True)
class CatalogueEntry:
    """One file that can be fetched.

    Attributes
    ----------
    name : str
        What users call it; the entry named as its model is what the model uses by default.
    model : str
        The model that it belongs to.
    url, sha256 : str
        Where it is, and the hash of its bytes.
    kind : {"weights", "pca"}
        A network's weights, or parameters of VGGish's post-processing.
    size_bytes : int or None
        Only shown: what decides is the hash.
    licence, citation, about : str
        Terms, whom to cite, and one line on what it is.
    """

    name: str
    model: str
    url: str
    sha256: str
    kind: str = WEIGHTS
    size_bytes: int | None = None
    licence: str = ""
    citation: str = ""
    about: str = ""

    @property
    def file_name(self) -> str:
        """What the file is called in the cache: the last part of the URL, and before it, unless published, a mark.

        The mark is the beginning of the hash: many files are called `model.safetensors`, and none may evict another.
        """
        return _PUBLISHED_NAMES.get(self.sha256) or f"{self.sha256[:_MARK_DIGITS]}-{_name_in(self.url)}"


def _name_in(url: str) -> str:
    return unquote(PurePosixPath(urlsplit(url).path).name)


_BUILT_IN: Final = (
    CatalogueEntry(
        name="vggish",
        model="vggish",
        url=BASE_URL + "vggish_model.ckpt",
        sha256="0962b1914e3e053922d957c45bc84a78c985765641dc6bceeeb3a7d8dfecfdf6",
        size_bytes=288_567_887,
        licence=vggish.SPEC.licence,
        citation=vggish.SPEC.citation,
        about="the published VGGish weights (a TensorFlow checkpoint, version 1)",
    ),
    CatalogueEntry(
        name="vggish-pca",
        model="vggish",
        url=BASE_URL + "vggish_pca_params.npz",
        sha256="4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d",
        kind=PCA,
        size_bytes=73_020,
        licence=vggish.SPEC.licence,
        citation=vggish.SPEC.citation,
        about="the published PCA and whitening parameters of VGGish's post-processing",
    ),
    CatalogueEntry(
        name="yamnet",
        model="yamnet",
        url=BASE_URL + "yamnet.h5",
        sha256="13c3308955bbfaef262f175ac9c40e47b134573a93984f009220dd7cc12a1744",
        size_bytes=15_296_092,
        licence="Apache-2.0",
        citation="Plakal and Ellis, YAMNet, 2020, https://github.com/tensorflow/models/tree/master/research/audioset/yamnet",
        about="the published YAMNet weights (a Keras file)",
    ),
)
_PUBLISHED_NAMES: Final = {entry.sha256: _name_in(entry.url) for entry in _BUILT_IN}
PUBLISHED: Final = frozenset(entry.sha256 for entry in _BUILT_IN if entry.kind == WEIGHTS)
_FIELDS: Final = {field.name: (int if field.name == "size_bytes" else str) for field in fields(CatalogueEntry)}
_REQUIRED: Final = ("name", "model", "url", "sha256")


def catalogue() -> dict[str, CatalogueEntry]:
    """Return every entry by name: the built-in ones, changed and followed by those of `AUDIOSET_CATALOGUE`.

    Raises
    ------
    WeightsError
        If that file cannot be read or an entry in it is not as described above.
    """
    entries = {entry.name: entry for entry in _BUILT_IN}
    override = os.environ.get("AUDIOSET_CATALOGUE")
    if override:
        entries.update((entry.name, entry) for entry in _read(user_path(override), entries))
    return entries


def _read(path: Path, known: dict[str, CatalogueEntry]) -> list[CatalogueEntry]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"cannot be read as JSON ({error})") from error
    if not isinstance(items, list):
        raise _refused(path, f"holds a {type(items).__name__}")
    return [_entry(path, number, item, known) for number, item in enumerate(items, start=1)]


def _entry(path: Path, number: int, item: Any, known: dict[str, CatalogueEntry]) -> CatalogueEntry:
    where = f"entry {number}"
    if not isinstance(item, dict):
        raise _refused(path, f"{where} is a {type(item).__name__}")
    where += f" ({item.get('name')!r:.80})"
    for key, value in item.items():
        if key not in _FIELDS:
            raise _refused(path, f"{where} has an unknown field {key!r}")
        if type(value) is not _FIELDS[key] and not (key == "size_bytes" and value is None):
            raise _refused(path, f"{where} has {key} = {value!r:.80}")
    lost = [key for key in _REQUIRED if not item.get(key)]
    if lost:
        raise _refused(path, f"{where} lacks {', '.join(lost)}")
    sha256 = item["sha256"].lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _refused(path, f"{where} has a sha256 that is not 64 hexadecimal digits")
    replaced = known.get(item["name"])
    inherited = asdict(replaced) if replaced is not None and replaced.sha256 == sha256 else {}
    entry = CatalogueEntry(**{**inherited, **item, "sha256": sha256})
    if entry.kind not in (WEIGHTS, PCA):
        raise _refused(path, f"{where} has kind = {entry.kind!r}")
    name = _name_in(entry.url)
    if urlsplit(entry.url).scheme not in ("http", "https") or name in ("", ".", ".."):
        raise _refused(path, f"{where} has a url without http(s) or without a file name: {entry.url}")
    if _FORBIDDEN.search(name):
        raise _refused(path, f"{where} has a url whose last part, {name!r}, cannot be the name of a file")
    return entry


def _refused(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"{path} (from AUDIOSET_CATALOGUE): {found}; expected a JSON list of objects with {', '.join(_REQUIRED)} "
        f"and perhaps {', '.join(name for name in _FIELDS if name not in _REQUIRED)}. "
        "Correct the file or unset the variable."
    )
