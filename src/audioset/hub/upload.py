"""From a file to a repository: what would be pushed is decided first, and then sent in one commit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from audioset._version import __version__
from audioset.errors import FetchError, OptionError, WeightsError
from audioset.hub.cards import card_of, read_evaluation
from audioset.hub.contents import Contents, examine
from audioset.hub.download import CONFIG, EMBEDDINGS, FILES, KEY, LAYOUT, forget
from audioset.hub.repository import Repository, address, clean, offline, talking
from audioset.weights.files import sha256_of, user_path

if TYPE_CHECKING:
    from audioset.evaluate import Evaluation

CARD: Final = "README.md"


@dataclass(frozen=True)
class Upload:
    """What is to be pushed.

    Attributes
    ----------
    repository : Repository
        Where to.
    contents : Contents
        What the file is.
    config : str
        What `config.json` says of the file, JSON.
    card : str
        Markdown with YAML before it.
    """

    repository: Repository
    contents: Contents
    config: str
    card: str

    @property
    def files(self) -> dict[str, Path | bytes]:
        """The file itself, its `config.json` and the card, by their names in the repository."""
        return {
            FILES[self.contents.kind]: self.contents.path,
            CONFIG: self.config.encode(),
            CARD: self.card.encode(),
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(file) if isinstance(file, bytes) else self.contents.num_bytes for name, file in self.files.items()
        }


@dataclass(frozen=True)
class Pushed:
    """What has been pushed.

    Attributes
    ----------
    name : str
        "hf://owner/name@COMMIT" ("hf://datasets/…" for embeddings): by which it is loaded, for good.
    url : str
        Page of the repository.
    """

    name: str
    url: str


def prepare(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    revision: str | None = None,
    card: str | os.PathLike[str] | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    evaluation: Evaluation | str | os.PathLike[str] | None = None,
) -> Upload:
    """Return what `push` would push; neither the network nor `huggingface_hub` is needed.

    Parameters and errors are those of `push`.
    """
    contents = examine(path)
    repository = Repository.of(repo_id.removeprefix("datasets/"), revision)
    if repository.revision is not None and repository.revision != revision:
        raise OptionError(f"{repo_id}: expected owner/name, and the branch to push to beside it, as revision")
    kind = contents.kind
    repository = Repository(repository.repo_id, "dataset" if kind == EMBEDDINGS else "model", revision)
    if card is not None and (licence or datasets or evaluation is not None):
        raise OptionError("card: is used as it is; expected neither licence, datasets nor evaluation beside it")
    if card is None:
        text = card_of(
            contents,
            repository.repo_id,
            licence=licence,
            datasets=datasets,
            evaluation=None if evaluation is None else read_evaluation(evaluation),
        )
    else:
        text = _own_card(user_path(card))
    about = {
        "layout": LAYOUT,
        "kind": kind,
        "file": FILES[kind],
        "sha256": contents.sha256,
        "size_bytes": contents.num_bytes,
        "model": contents.base,
        "version": __version__,
    }
    return Upload(repository, contents, json.dumps({KEY: about}, indent=2) + "\n", text)


def push(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    card: str | os.PathLike[str] | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    evaluation: Evaluation | str | os.PathLike[str] | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Pushed:
    """Push a file to a repository on Hugging Face, which is made if it is not there, and return its name there.

    The repository gets the file with the same bytes, a `config.json` with its SHA-256, and a card, in one commit. Of
    what was there before, the card too, a newer version takes the place; all versions stay in the history.

    Parameters
    ----------
    path : path
        A model that `audioset finetune` wrote, a head of `audioset train`, weights as `audioset models convert` writes
        them, or Parquet embeddings of `audioset embed`, which go to a repository of data sets.
    repo_id : str
        "owner/name".
    private : bool
        Make the repository private. One that is public already is refused then.
    revision : str, optional
        Branch, made if it is not there; by default the main one.
    message : str, optional
        Of the commit.
    card : path, optional
        Markdown to use as the card, in place of one that is generated.
    licence : str, optional
        Of what is pushed, such as "cc-by-4.0"; by default that of weights is stated where it is known, and no other.
    datasets : sequence of str, optional
        Data sets on the Hub that it was made from, for the card.
    evaluation : Evaluation or path, optional
        Figures for the card: what `audioset evaluate --json` or `audioset finetune --json` wrote, or the value itself.
    token : str, optional
        By default as `HF_TOKEN` or `hf auth login` say.
    endpoint : str, optional
        Address of the Hub; by default as `HF_ENDPOINT` says.

    Raises
    ------
    WeightsError, RecordError
        The file cannot be read or is none of these.
    OptionError
        An argument is not as it should be, or the repository is public and should be private.
    FetchError
        The Hub refuses, or cannot be reached.
    MissingExtraError
        `huggingface_hub` is not installed.
    """
    upload = prepare(
        path, repo_id, revision=revision, card=card, licence=licence, datasets=datasets, evaluation=evaluation
    )
    return send(upload, private=private, message=message, token=token, endpoint=endpoint)


def send(
    upload: Upload,
    *,
    private: bool = False,
    message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Pushed:
    """Push what `prepare` gave; parameters and errors are those of `push`.

    A repository that is not there is made first. Where the commit then fails, it stays as it was, empty if it is new;
    the same call again goes on from there.

    Raises
    ------
    WeightsError
        The file has changed since, or is gone.
    """
    repository, revision = upload.repository, upload.repository.revision
    hub, token = address(endpoint, repository), clean(token)
    if offline():
        raise FetchError(f"{repository}: cannot be pushed to while the network is forbidden. Unset AUDIOSET_OFFLINE")
    if sha256_of([upload.contents.path]) != upload.contents.sha256:
        raise WeightsError(
            f"{upload.contents.path}: has changed since its card was made; expected the same bytes. Prepare it again"
        )
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=hub, token=token, library_name="audioset", library_version=__version__)
    where: Any = {"repo_id": repository.repo_id, "repo_type": repository.repo_type}
    with talking(repository, hub):
        # Where it is not asked for, an organization's own rule decides.
        api.create_repo(**where, private=True if private else None, exist_ok=True)
        public = private and not api.repo_info(**where).private
    if public:
        raise OptionError(
            f"{repository}: there already and public; expected a private repository. Make it private in its settings, "
            "or push to another"
        )
    with talking(repository, hub):
        if revision is not None:
            api.create_branch(**where, branch=revision, exist_ok=True)
        commit = api.create_commit(
            **where,
            operations=[
                CommitOperationAdd(name, file if isinstance(file, bytes) else str(file))
                for name, file in upload.files.items()
            ],
            commit_message=message or f"Push {upload.contents.path.name} with audioset {__version__}",
            revision=revision,
        )
    forget(repository.repo_id)
    pushed = Repository(repository.repo_id, repository.repo_type, commit.oid)
    return Pushed(str(pushed), f"{hub}/{repository.page}")


def _own_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"card {path}: cannot be read ({error}); expected Markdown in UTF-8") from error
