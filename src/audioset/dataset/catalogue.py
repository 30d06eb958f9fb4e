"""What is published of AudioSet and can be fetched: one entry a file, in groups, with source, terms and size.

Google publishes hashes of none of these. Those here are of files that were looked into; where there is none, the file
is held to what its server states of it and to its own structure.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from audioset.dataset import _published
from audioset.errors import OptionError

BASE_URL: Final = "https://storage.googleapis.com/us_audioset/youtube_corpus/"
REGIONS: Final = ("us", "eu", "asia")
PAGE: Final = "https://research.google.com/audioset/download.html"
_UNITS: Final = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_CC_BY: Final = "CC BY 4.0"
_AUDIOSET: Final = (
    "Gemmeke et al., Audio Set: An ontology and human-labeled dataset for audio events, ICASSP 2017, "
    "https://research.google.com/pubs/pub45857.html"
)
_STRONG: Final = (
    "Hershey et al., The Benefit of Temporally-Strong Labels in Audio Event Classification, ICASSP 2021, "
    "https://arxiv.org/abs/2105.07031"
)


@dataclass(frozen=True)
class DatasetFile:
    """One file of the data set that can be fetched.

    Attributes
    ----------
    name : str
        What users call it.
    group : str
        What it is fetched with: segments, labels, ontology, quality, strong or features.
    url : str
        Where it is published.
    sha256 : str or None
        The hash of its bytes, where it is known.
    size_bytes : int or None
        Its size; of files without a known hash about it, if anything.
    licence, citation, about : str
        Terms, whom to cite, and one line on what it is.
    in_regions : bool
        Whether it is published in each of `REGIONS`; `url` is the one in the United States.
    check : callable or None
        Raises DatasetError for a path that does not hold the file, by its structure. None where the hash says it.
    """

    name: str
    group: str
    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    licence: str = _CC_BY
    citation: str = _AUDIOSET
    about: str = ""
    in_regions: bool = False
    check: Callable[[Path], None] | None = None

    @property
    def file_name(self) -> str:
        """What the file is called, here as there: the last part of the URL."""
        return PurePosixPath(urlsplit(self.url).path).name

    def url_in(self, region: str) -> str:
        """Return where the file is published for a region; there is only one place for most.

        Raises
        ------
        OptionError
            If there is no such region.
        """
        if region not in REGIONS:
            raise OptionError(f"region {region!r}: unknown; expected one of {', '.join(REGIONS)}")
        return self.url.replace("/us_audioset/", f"/{region}_audioset/") if self.in_regions else self.url


FILES: Final = (
    DatasetFile(
        name="balanced_train",
        group="segments",
        url=BASE_URL + "v1/csv/balanced_train_segments.csv",
        sha256="3b83e5ff9ed72cfda37d4e36ce08250e107c1ea70f109f6ab6668ac200db5e94",
        size_bytes=1_211_931,
        about="the balanced training split: 22,160 segments and their labels",
    ),
    DatasetFile(
        name="eval",
        group="segments",
        url=BASE_URL + "v1/csv/eval_segments.csv",
        sha256="f7055f53935f70e74e39494a5c8c4c78f1700fce275028bd36e31186f33d45db",
        size_bytes=1_143_389,
        about="the evaluation split: 20,371 segments and their labels",
    ),
    DatasetFile(
        name="unbalanced_train",
        group="segments",
        url=BASE_URL + "v1/csv/unbalanced_train_segments.csv",
        size_bytes=100_000_000,
        about="the rest, for training: 2,041,789 segments and their labels",
        check=_published.check_segments,
    ),
    DatasetFile(
        name="labels",
        group="labels",
        url=BASE_URL + "v1/csv/class_labels_indices.csv",
        sha256="cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429",
        size_bytes=14_675,
        about="the 527 classes: index, mid, display name",
    ),
    DatasetFile(
        name="ontology",
        group="ontology",
        url="https://raw.githubusercontent.com/audioset/ontology/master/ontology.json",
        sha256="9c685f4403eecc3ca9be37fd7285cf212feaaea6ff7229d3e7ca89e0d1f2d15d",
        size_bytes=342_780,
        licence="CC BY-SA 4.0",
        about="the 632 classes of the ontology: names, descriptions, examples, children, restrictions",
    ),
    DatasetFile(
        name="qa_true_counts",
        group="quality",
        url=BASE_URL + "v1/qa/qa_true_counts.csv",
        about="of how many labels of each class raters looked at, and how many were true",
        check=_published.check_true_counts,
    ),
    DatasetFile(
        name="rerated_video_ids",
        group="quality",
        url=BASE_URL + "v1/qa/rerated_video_ids.txt",
        about="the videos whose labels were rated again",
        check=_published.check_video_ids,
    ),
    DatasetFile(
        name="train_strong",
        group="strong",
        url=BASE_URL + "strong/audioset_train_strong.tsv",
        citation=_STRONG,
        about="events with start and end in 103,463 clips of the training splits",
        check=partial(_published.check_strong, num_clips=103_463),
    ),
    DatasetFile(
        name="eval_strong",
        group="strong",
        url=BASE_URL + "strong/audioset_eval_strong.tsv",
        citation=_STRONG,
        about="events with start and end in 16,996 clips of the evaluation split",
        check=partial(_published.check_strong, num_clips=16_996),
    ),
    DatasetFile(
        name="eval_strong_framed",
        group="strong",
        url=BASE_URL + "strong/audioset_eval_strong_framed_posneg.tsv",
        citation=_STRONG,
        about="the same in frames of 0.96 s, present and not present",
        check=partial(_published.check_strong, framed=True),
    ),
    DatasetFile(
        name="mid_to_display_name",
        group="strong",
        url=BASE_URL + "strong/mid_to_display_name.tsv",
        citation=_STRONG,
        about="the names of the classes of the strong labels, some of which the ontology does not have",
        check=_published.check_display_names,
    ),
    DatasetFile(
        name="features",
        group="features",
        url=BASE_URL + "v1/features/features.tar.gz",
        sha256="cd95d500ab2422d4233cb822e25cf73033633e2068eab64d39024e85125cb760",
        size_bytes=2_400_000_000,
        about="the released embeddings of all segments: 12,228 TFRecord files in one archive",
        in_regions=True,
    ),
)
GROUPS: Final = tuple(dict.fromkeys(file.group for file in FILES))


def catalogue() -> dict[str, DatasetFile]:
    """Return every file by name."""
    return {file.name: file for file in FILES}


def select(names: Iterable[str]) -> list[DatasetFile]:
    """Return the files of these names, each once; a group's name stands for all files of the group.

    Raises
    ------
    OptionError
        If there is neither a file nor a group of a name.
    """
    files = catalogue()
    chosen: dict[str, DatasetFile] = {}
    for name in names:
        found = [files[name]] if name in files else [file for file in FILES if file.group == name]
        if not found:
            known = (*GROUPS, *(file for file in files if file not in GROUPS))
            close = difflib.get_close_matches(name, known, n=1)
            raise OptionError(
                f"{name!r}: not a file or group of AudioSet's; expected one of {', '.join(known)}."
                f"{f' Did you mean {close[0]}?' if close else ''} `audioset dataset files` shows them all."
            )
        chosen.update((file.name, file) for file in found)
    return list(chosen.values())


def size_text(size_bytes: int | None) -> str:
    """Return a size to three digits, such as "343 kB"; nothing for one that is not known."""
    if size_bytes is None:
        return ""
    unit, factor = next(((unit, factor) for unit, factor in _UNITS if size_bytes >= factor), _UNITS[-1])
    return f"{size_bytes / factor:.3g} {unit}"
