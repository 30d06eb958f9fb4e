"""From a repository's name to a file that is what it says: verified, of a known commit, in the library's own cache."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audioset.errors import FetchError, RecordError, WeightsError
from audioset.hub.repository import Repository, address, clean, offline, talking
from audioset.weights import safetensors_file
from audioset.weights.files import sha256_of

if TYPE_CHECKING:
    from audioset.embed import Model

CONFIG: Final = "config.json"  # requests for this file are what the Hub counts as downloads of a model
KEY: Final = "audioset"
LAYOUT: Final = 1
EMBEDDINGS: Final = "embeddings"
FILES: Final = {
    "model": "model.safetensors",
    "head": "model.safetensors",
    "weights": "model.safetensors",
    EMBEDDINGS: "embeddings.parquet",
}
_MAX_CONFIG_BYTES: Final = 10_000_000
_SHOWN_FILES: Final = 10

# What was looked up in this process, by the name it was asked for and by the one with the commit: all steps of a
# command then get the same commit, of one question to the Hub.
_known: dict[str, Pulled] = {}


@dataclass(frozen=True)
class Pulled:
    """A file of a repository, verified.

    Attributes
    ----------
    name : str
        "hf://owner/name@COMMIT" ("hf://datasets/…" for embeddings), which means these very bytes for good.
    kind : {"model", "head", "weights", "embeddings"}
        A model of one's own, a head on embeddings, weights of a model of the registry, or rows of embeddings.
    path : Path
        Where it is, in the cache of `huggingface_hub`.
    sha256 : str
        Of its bytes.
    """

    name: str
    kind: str
    path: Path
    sha256: str


def pull(repo: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None) -> Pulled:
    """Return the file that `push` put into a repository, fetched unless it is in the cache, and verified.

    The repository's `config.json` says what the file is and its SHA-256; nothing else is fetched, and nothing is ever
    unpickled. Without a connection, or with `AUDIOSET_OFFLINE=1`, it is what was fetched last.

    Parameters
    ----------
    repo : str
        "owner/name", "datasets/owner/name" for embeddings; "hf://" may stand before, "@revision" behind it.
    revision : str, optional
        Branch, tag or commit.
    token : str, optional
        By default as `HF_TOKEN` or `hf auth login` say.
    endpoint : str, optional
        Address of the Hub; by default as `HF_ENDPOINT` says.

    Raises
    ------
    OptionError
        The name is none of a repository, or the token cannot be one.
    FetchError
        The repository or the revision is not there for us, there is no connection and nothing in the cache, or the
        file is not the one that its `config.json` tells of.
    WeightsError, RecordError
        The repository holds nothing that this package wrote, or the file is damaged.
    MissingExtraError
        `huggingface_hub` is not installed.
    """
    asked = Repository.of(repo, revision)
    hub, token = address(endpoint, asked), clean(token)
    about, commit = _config(asked, hub, token)
    pinned = Repository(asked.repo_id, asked.repo_type, commit)
    known = _known.get(str(pinned))
    if known is None:
        kind, sha256 = about["kind"], about["sha256"]
        with talking(pinned, hub):
            path = Path(_download(pinned, FILES[kind], hub, token))
        known = Pulled(str(pinned), kind, path, sha256)
        _verify(known)
    _known[str(asked)] = _known[str(pinned)] = known
    return known


def from_pretrained(
    repo: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None, **options: Any
) -> Model:
    """Return the model in a repository, as `audioset.load("hf://owner/name")` does, with the same options.

    Raises
    ------
    WeightsError
        The repository holds a head or weights alone; else as `pull` and `audioset.load`.
    """
    from audioset import embed

    found = pull(repo, revision, token=token, endpoint=endpoint)
    if found.kind != "model":
        raise WeightsError(f"{found.name}: {_USE[found.kind].format(name=found.name)}")
    return embed.load(found.name, **options)


def located(name: str) -> Pulled:
    """Return the model, head or weights that a name with "hf://" before it means, asking the Hub once in a process.

    Raises
    ------
    WeightsError
        The name is that of embeddings; else as `pull`.
    """
    found = _known.get(name) or pull(name)
    if found.kind == EMBEDDINGS:
        raise WeightsError(f"{found.name}: {_USE[EMBEDDINGS]}")
    return found


def pinned(name: str) -> str:
    """Return a name that begins with "hf://" with the commit that it is at now."""
    known = _known.get(name)
    return name if known is not None and known.name == name else pull(name).name


def forget(repo_id: str) -> None:
    """Ask anew where a repository is named without a commit."""
    for name in [name for name, found in _known.items() if Repository.of(name).repo_id == repo_id]:
        del _known[name]


_USE: Final = {
    "head": 'a head on embeddings; expected a model. Use `audioset.train.head.Head.load("{name}")`',
    "weights": 'weights alone; expected a model. Name their model too: `audioset.load(MODEL, "{name}")`',
    EMBEDDINGS: "embeddings; expected a model. Read them with `audioset.hub.pull` and `audioset.read_embeddings`",
}


def _config(repository: Repository, hub: str, token: str | None) -> tuple[dict[str, str], str]:
    """Return what the repository says of its file, and the commit that says so."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        with talking(repository, hub):
            path = Path(_download(repository, CONFIG, hub, token))
    except FetchError as error:
        if not isinstance(error.__cause__, EntryNotFoundError) or isinstance(error.__cause__, LocalEntryNotFoundError):
            raise
        raise _nothing_of_ours(repository, hub, token, f"no {CONFIG}") from error
    commit = path.parent.name
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        found = json.loads(path.read_bytes())
        about = found[KEY]
        layout = about["layout"]
        said = {name: str(about[name]) for name in ("kind", "file", "sha256")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _nothing_of_ours(repository, hub, token, f"a {CONFIG} of something else") from error
    of_datasets = said["kind"] == EMBEDDINGS
    if (
        layout != LAYOUT
        or FILES.get(said["kind"]) != said["file"]
        or of_datasets != (repository.repo_type == "dataset")
        or not re.fullmatch("[0-9a-f]{64}", said["sha256"])
    ):
        raise WeightsError(
            f"{repository}: its {CONFIG} says {about!r:.200}; expected a file of a known kind ({', '.join(FILES)}), "
            "with its SHA-256. Was it pushed by a newer version?"
        )
    return said, commit


def _download(repository: Repository, file: str, hub: str, token: str | None) -> str:
    from huggingface_hub import hf_hub_download

    from audioset._version import __version__

    return str(
        hf_hub_download(
            repository.repo_id,
            file,
            repo_type=repository.repo_type,
            revision=repository.revision,
            endpoint=hub,
            token=token,
            local_files_only=offline(),
            library_name="audioset",
            library_version=__version__,
        )
    )


def _verify(found: Pulled) -> None:
    """Raise FetchError unless the file has its hash, and the error of its reader unless it is whole."""
    got = sha256_of([found.path])
    if got != found.sha256:
        raise FetchError(
            f"{found.name}: {found.path.name} has the sha256 {got}; its {CONFIG} says {found.sha256}. Delete "
            f"{found.path.resolve()} and try again; if it stays so, push the file again"
        )
    if found.kind == EMBEDDINGS:
        from audioset.records.table import read_metadata

        read_metadata(found.path, "parquet")
    else:
        safetensors_file.read(found.path)


def _nothing_of_ours(
    repository: Repository, hub: str, token: str | None, found: str
) -> WeightsError | RecordError | FetchError:
    """Return the error for a repository that others filled, which lists what is in it as far as it can be asked."""
    from huggingface_hub import HfApi

    of_datasets = repository.repo_type == "dataset"
    listed = ""
    try:
        with talking(repository, hub):
            files = HfApi(endpoint=hub, token=token).list_repo_files(
                repository.repo_id, repo_type=repository.repo_type, revision=repository.revision
            )
    except FetchError:
        pass  # what matters is known already
    else:
        more = f" and {len(files) - _SHOWN_FILES:,} more" if len(files) > _SHOWN_FILES else ""
        listed = f"; there {'is' if len(files) == 1 else 'are'} {', '.join(files[:_SHOWN_FILES]) or 'nothing'}{more}"
    what = "embeddings" if of_datasets else "model"
    error = RecordError if of_datasets else WeightsError
    return error(
        f"{repository}: no audioset {what} inside ({found}){listed}. Expected a repository that `audioset hub push` "
        "filled. Download other files with `hf download`, and give their path"
    )
