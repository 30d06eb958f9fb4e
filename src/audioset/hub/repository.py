"""Names of repositories, and what the Hub's answers mean."""

from __future__ import annotations

import importlib
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from audioset._extras import check_installed
from audioset._files import unwritable
from audioset.errors import FetchError, OptionError
from audioset.models.own import HUB

RepoType: TypeAlias = Literal["model", "dataset"]

_THIS_MACHINE: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_PART: Final = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REVISION: Final = r"\w[\w./-]*"  # the library makes a file of this name in its cache
_NAME: Final = re.compile(
    rf"(?:{HUB})?(?P<datasets>datasets/)?(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_REVISION}))?", re.ASCII
)
_SHOWN: Final = 300  # characters of what others say
_OF_NETWORKS: Final = (ConnectionError, TimeoutError, socket.gaierror)
_SIGNED: Final = re.compile(r"(\w+://[^\s?'\"]+)\?[^\s'\")]+")  # addresses of storage, with what opens it for an hour


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub, at one revision.

    Attributes
    ----------
    repo_id : str
        "owner/name".
    repo_type : {"model", "dataset"}
        Embeddings are in data set repositories, all else in those of models.
    revision : str or None
        Branch, tag or commit; None for the default branch.
    """

    repo_id: str
    repo_type: RepoType = "model"
    revision: str | None = None

    @classmethod
    def of(cls, given: str, revision: str | None = None) -> Repository:
        """Return what a name says: "owner/name", "datasets/owner/name", with "hf://" before or "@revision" behind it.

        Raises
        ------
        OptionError
            It is no such name, or the revision is given twice.
        """
        found = _NAME.fullmatch(given)
        if found is None or "--" in found["repo"] or ".." in given or found["repo"].endswith(".git"):
            raise OptionError(
                f"{given}: no name of a repository; expected owner/name, or for embeddings datasets/owner/name, of "
                "letters, digits and - _ . and if wanted @revision behind it"
            )
        if revision is not None and found["revision"] is not None:
            raise OptionError(f"{given}: names a revision, and {revision} is given too; expected one of them")
        if revision is not None and (not re.fullmatch(_REVISION, revision, re.ASCII) or ".." in revision):
            raise OptionError(f"revision {revision!r}: expected the name of a branch or tag, or a commit")
        return cls(found["repo"], "dataset" if found["datasets"] else "model", revision or found["revision"])

    def __str__(self) -> str:
        datasets = "datasets/" if self.repo_type == "dataset" else ""
        return f"{HUB}{datasets}{self.repo_id}" + (f"@{self.revision}" if self.revision else "")

    @property
    def page(self) -> str:
        """Path of its page on the Hub's site."""
        return ("datasets/" if self.repo_type == "dataset" else "") + self.repo_id


def address(endpoint: str | None, subject: object) -> str:
    """Return where the Hub is: as given, else as `HF_ENDPOINT` says, else Hugging Face's own.

    Raises
    ------
    MissingExtraError
        `huggingface_hub` is not installed.
    OptionError
        The address is neither https nor on this machine.
    """
    check_installed(str(subject), "huggingface_hub")
    from huggingface_hub import constants

    chosen = (constants.ENDPOINT if endpoint is None else endpoint).rstrip("/")
    parts = urlsplit(chosen)
    if parts.scheme != "https" and parts.hostname not in _THIS_MACHINE:
        raise OptionError(
            f"endpoint {chosen}: not https; expected https, which tells whom files come from and hides the token. "
            "Look at HF_ENDPOINT"
        )
    return chosen


def clean(token: str | None) -> str | None:
    """Return a token without the space around it, as files have a line's end behind theirs.

    Raises
    ------
    OptionError
        It cannot be one. The message does not show it; that of the library that sends it would.
    """
    if not isinstance(token, str):
        return token
    if not re.fullmatch("[!-~]+", token.strip()):
        raise OptionError(
            "token: empty, or with characters that no token has; expected one as Hugging Face gave it. Copy it again"
        )
    return token.strip()


def offline() -> bool:
    """Return whether the network is forbidden, by this package's own variable or the library's."""
    from huggingface_hub import constants

    return os.environ.get("AUDIOSET_OFFLINE", "0") not in ("", "0") or bool(constants.HF_HUB_OFFLINE)


@contextmanager
def talking(repository: Repository, endpoint: str) -> Iterator[None]:
    """Turn what goes wrong inside, between us and the Hub, into `FetchError` with a reason that says what to do.

    Of a file that the repository lacks, the library's own `EntryNotFoundError` is the cause.
    """
    from huggingface_hub import constants, errors

    broken: tuple[type[Exception], ...] = (*_roots(errors.HfHubHTTPError), OSError, RuntimeError, ValueError)
    log_in = "Log in with `hf auth login` or set HF_TOKEN, where it is private"
    try:
        with _bars_on_terminals():
            yield
    except errors.GatedRepoError as error:
        raise FetchError(
            f"{repository}: gated; expected access to it. Ask for it at {endpoint}/{repository.page}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        kind = "model" if repository.repo_type == "model" else "data set"
        raise FetchError(
            f"{repository}: no such {kind} repository for us at {endpoint}; expected one that is there. Check its "
            f"name. {log_in}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FetchError(
            f"{repository}: no such revision; expected a branch, a tag or a commit of {repository.repo_id}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "the network is forbidden" if offline() else f"{endpoint} cannot be reached ({reason(error)})"
        raise FetchError(
            f"{repository}: not in the cache, and {why}; expected a connection. Fetch it where there is one with "
            f"`audioset hub pull {repository.page}`"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FetchError(
            f"{repository}: lacks a file that it should have ({reason(error)}). Push what belongs there again"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        then = "Check HF_TOKEN and what it may do" if status in (401, 403) else "Try again later"
        said = error.server_message or reason(error).partition(" For more information")[0]
        raise FetchError(f"{repository}: {endpoint} answers {status} ({said[:_SHOWN]}). {then}") from error
    except broken as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, _OF_NETWORKS):
            raise unwritable(Path(error.filename or constants.HF_HUB_CACHE), error) from error
        raise FetchError(
            f"{repository}: {endpoint} did not do as it should ({reason(error)}); expected a Hub. Check the network "
            "and HF_ENDPOINT, and if it knows no Xet storage set HF_HUB_DISABLE_XET=1"
        ) from error


def reason(error: BaseException) -> str:
    """Return the innermost reason of an error in one line: the outer ones say it in machine's words."""
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    return _SIGNED.sub(r"\1", " ".join(str(error).split()))[:_SHOWN] or type(error).__name__


@contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """Let the library draw progress where somebody sees it, and nowhere else."""
    utils: Any = importlib.import_module("huggingface_hub.utils")
    if (sys.stderr is not None and sys.stderr.isatty()) or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _roots(error: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what an error inherits from: for one, the root of the errors of whichever library speaks HTTP."""
    return tuple(base for base in error.__bases__ if issubclass(base, Exception))
