"""What the cache has of the catalogue, and whether it still is what it should be."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from audioset import models
from audioset.errors import WeightsError
from audioset.weights import content, safetensors_file
from audioset.weights.catalogue import PCA, WEIGHTS, CatalogueEntry, catalogue
from audioset.weights.conversion import converted_path, open_built_in, open_ready
from audioset.weights.download import is_whole
from audioset.weights.files import cache_dir, is_file, sha256_of


def select(names: Iterable[str]) -> list[CatalogueEntry]:
    """Return the catalogue's entries of these names; a model's name stands for all entries of the model, none for all.

    Raises
    ------
    WeightsError
        If there is no entry of a name.
    """
    entries = catalogue()
    chosen: dict[str, CatalogueEntry] = {}
    for name in names:
        of_model = [entry for entry in entries.values() if entry.model == name]
        # Others' weights for the model are fetched by their own names.
        found = [entry for entry in entries.values() if entry.name == name or (entry in of_model and entry.kind == PCA)]
        found = found if name in entries else of_model
        if not found:
            raise WeightsError(
                f"{name}: not in the catalogue; expected one of {', '.join(entries)}.{close_match(name, entries)} "
                "`audioset models list` shows them all."
            )
        chosen.update((entry.name, entry) for entry in found)
    return list(chosen.values() if chosen else entries.values())


def find_present(entry: CatalogueEntry) -> Path | None:
    """Return where the cache has an entry, as published or else as converted, or None; its hash is left to `verify`."""
    places = [cache_dir() / entry.file_name]
    if entry.kind == WEIGHTS:
        places.append(converted_path(entry.model, entry.sha256))
    return next((place for place in places if is_file(place)), None)


def built_in(name: str) -> Path | None:
    """Return the weights of a model that come with the package; None if the catalogue has an entry of this name."""
    return models.built_in(name) if name in models.REGISTRY and name not in catalogue() else None


def ready(name: str) -> bool:
    """Return whether a model's own weights (`load(name)`) or a file of the catalogue need no network, now.

    They come with the package, or have been converted into the cache, or are in it as published: hashed again in this
    last case, so that a file which was damaged or is another one does not count.
    """
    if name in models.REGISTRY and models.built_in(name) is not None:
        return True
    entry = catalogue().get(name)
    if entry is None:
        return False
    try:
        of_a_network = entry.kind == WEIGHTS and entry.model in models.REGISTRY
        converted = of_a_network and open_ready(entry.model, entry.sha256, entry.name) is not None
        return converted or is_whole(entry)
    except WeightsError:  # such as one that may not be read
        return False


@dataclass(frozen=True)
class Check:
    """What verifying one file found: whether it is as it should be, and if not, in what way."""

    name: str
    path: Path
    ok: bool
    found: str


def verify(names: Iterable[str] = ()) -> list[Check]:
    """Return what hashing again says of files in the cache (no names: all of them) or of safetensors files by path.

    The files as published are held to the catalogue; converted ones, and networks in 8 bits, to the hash of their
    content in their metadata. Of weights that come with the package, it is whether they load.

    Raises
    ------
    WeightsError
        If a name is neither in the catalogue nor a safetensors file.
    """
    wanted = list(names)
    known = {name for entry in catalogue().values() for name in (entry.name, entry.model)}
    shipped = {name: path for name in wanted if (path := built_in(name)) is not None}
    files = [name for name in wanted if name not in {*known, *shipped} and is_file(name)]
    in_catalogue = [name for name in wanted if name not in {*files, *shipped}]
    checks = [_check_content(Path(name), name) for name in files]
    checks += [_check_built_in(path, name) for name, path in shipped.items()]
    folder = cache_dir() / "converted"
    for entry in select(in_catalogue) if in_catalogue or not wanted else []:
        path = cache_dir() / entry.file_name
        converted = converted_path(entry.model, entry.sha256)
        if is_file(path):
            got = sha256_of([path])
            ok = got == entry.sha256
            checks.append(Check(entry.name, path, ok, "" if ok else f"sha256 {got}; expected {entry.sha256}"))
        if is_file(converted):
            checks.append(_check_content(converted, f"{entry.name} (converted)"))
        if wanted and find_present(entry) is None:
            checks.append(Check(entry.name, path, False, f"not there; run `audioset models fetch {entry.name}`"))
    if not wanted:
        done = {check.path for check in checks}
        in_folder = folder.glob("*.safetensors") if os.path.isdir(folder) else ()  # pathlib's raises for some names
        rest = sorted(path for path in in_folder if path not in done)
        checks += [_check_content(path, "converted") for path in rest]
        in_int8 = cache_dir() / "int8"
        networks = sorted(in_int8.glob("*.safetensors")) if os.path.isdir(in_int8) else ()
        checks += [_check_content(path, "in 8 bits") for path in networks]
    return checks


def _check_content(path: Path, name: str) -> Check:
    from audioset import int8  # which builds on this package

    found = ""
    try:
        if "calibration" in safetensors_file.read(path)[1]:
            int8.verify(path)
        else:
            found = content.verify(path)
    except WeightsError as error:
        found = str(error)
    return Check(name, path, not found, found)


def _check_built_in(path: Path, name: str) -> Check:
    try:
        open_built_in(name, path)
    except WeightsError as error:
        return Check(name, path, False, str(error))
    return Check(name, path, True, "")


def close_match(name: str, names: Iterable[str]) -> str:
    """Return a question that suggests the likeliest of some names, with a space before it, or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""
