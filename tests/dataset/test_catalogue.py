from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from audioset.dataset import _published
from audioset.dataset.catalogue import FILES, GROUPS, REGIONS, catalogue, select, size_text
from audioset.errors import DatasetError, OptionError

SEGMENTS = (
    "# Segments csv created Sun Mar  5 10:54:25 2017\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
    '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/0jbk"\n'
    '-0RWZT-miFs, 420.000, 430.000, "/m/0jbk"\n'
    'abcdefghijk, 30.000, 40.000, "/m/068hy"\n'
)
STRONG = (
    "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    "--4gqARaEJE_0\t0.000\t1.250\t/m/068hy\n"
    "--4gqARaEJE_0\t2.000\t3.000\t/m/0jbk\n"
    "s9d-2nhuJCQ_30000\t2.627\t7.237\t/m/053hz1\n"
)
FRAMED = (
    "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent\n"
    "s9d-2nhuJCQ_30000\t0.000\t0.960\t/m/053hz1\tNOT_PRESENT\n"
)
COUNTS = 'display_name,num_rated,num_true\n"Male speech, man speaking",10,9\nSilence,0,0\n'


def _file(folder: Path, content: str) -> Path:
    path = folder / "file"
    path.write_text(content)
    return path


def test_names_and_groups_are_those_that_the_documentation_says() -> None:
    groups = {group: [file.name for file in FILES if file.group == group] for group in GROUPS}
    assert groups == {
        "segments": ["balanced_train", "eval", "unbalanced_train"],
        "labels": ["labels"],
        "ontology": ["ontology"],
        "quality": ["qa_true_counts", "rerated_video_ids"],
        "strong": ["train_strong", "eval_strong", "eval_strong_framed", "mid_to_display_name"],
        "features": ["features"],
    }
    assert list(catalogue()) == [name for names in groups.values() for name in names]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_has_terms_and_can_be_verified(file) -> None:
    assert file.licence.startswith("CC BY")
    assert "ICASSP" in file.citation
    assert file.about
    assert urlsplit(file.url).scheme == "https"
    if file.sha256 is None:
        assert file.check is not None
    else:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_no_two_files_have_one_place() -> None:
    assert len({file.file_name for file in FILES}) == len({file.url for file in FILES}) == len(FILES)


def test_only_the_features_are_published_by_region() -> None:
    features = catalogue()["features"]
    assert [features.url_in(region) for region in REGIONS] == [
        f"https://storage.googleapis.com/{region}_audioset/youtube_corpus/v1/features/features.tar.gz"
        for region in REGIONS
    ]
    assert all(file.url_in("eu") == file.url for file in FILES if file is not features)


def test_an_unknown_region_is_refused() -> None:
    with pytest.raises(OptionError, match="region 'mars': unknown; expected one of us, eu, asia"):
        catalogue()["eval"].url_in("mars")


def test_groups_and_names_select_each_file_once() -> None:
    assert [file.name for file in select(["eval", "segments", "labels"])] == [
        "eval",
        "balanced_train",
        "unbalanced_train",
        "labels",
    ]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"'segmnts': not a file or group .* Did you mean segments\?"):
        select(["labels", "segmnts"])


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, ""), (14_675, "14.7 kB"), (342_780, "343 kB"), (2_400_000_000, "2.4 GB"), (57, "0.057 kB")],
)
def test_sizes_are_said_to_three_digits(size: int | None, text: str) -> None:
    assert size_text(size) == text


def test_files_of_known_hash_are_the_published_ones(data_dir: Path) -> None:
    for name in ("balanced_train", "eval", "labels", "ontology"):
        file = catalogue()[name]
        content = (data_dir / "audioset" / file.file_name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.size_bytes)


def test_published_segments_pass_their_check(data_dir: Path) -> None:
    for name in ("balanced_train", "eval"):
        _published.check_segments(data_dir / "audioset" / catalogue()[name].file_name)


@pytest.mark.parametrize(
    ("check", "content"),
    [
        (_published.check_segments, SEGMENTS),
        (_published.check_segments, SEGMENTS.replace("\n", "\r\n")),
        (lambda path: _published.check_strong(path, num_clips=2), STRONG),
        (lambda path: _published.check_strong(path, framed=True), FRAMED),
        (_published.check_display_names, "/m/053hz1\tCheering\n/g/122z_qxw\tGunshot\n"),
        (_published.check_true_counts, COUNTS),
        (_published.check_video_ids, "--4gqARaEJE\n-0RWZT-miFs\n"),
        (_published.check_video_ids, "video_id\n--4gqARaEJE\n"),
    ],
)
def test_files_as_published_pass(tmp_path: Path, check, content: str) -> None:
    check(_file(tmp_path, content))


@pytest.mark.parametrize(
    ("check", "content", "found"),
    [
        (
            _published.check_segments,
            SEGMENTS[: SEGMENTS.rindex("abc")],
            "2 segments with 3 labels; expected 3 with 4, as",
        ),
        (_published.check_segments, SEGMENTS[:-12], r"line 6 is 'abcdefghijk, 30\.000, 40\.000,'; expected a row such"),
        (_published.check_segments, SEGMENTS.replace(",/m/0jbk", ""), "3 segments with 3 labels; expected 3 with 4"),
        (_published.check_segments, "<html>\n<p>log in</p>\n</html>\n", "line 2 is '<p>log in</p>'; expected counts"),
        (_published.check_segments, "", "line 2 is ''; expected counts"),
        (lambda path: _published.check_strong(path, num_clips=3), STRONG, "events of 2 clips; expected 3"),
        (_published.check_strong, STRONG[:-3].rpartition("\t")[0], "line 4 is .*; expected 4 fields"),
        (_published.check_strong, "<html>", "line 1 is '<html>'; expected 4 columns"),
        (_published.check_strong, FRAMED, "line 1 is .*; expected 4 columns"),
        (lambda path: _published.check_strong(path, framed=True), STRONG, "line 1 is .*; expected 5 columns"),
        (_published.check_strong, STRONG.splitlines()[0], "events of 0 clips; expected some"),
        (_published.check_display_names, "/m/053hz1\tCheering\n/m/09x\n", "line 2 is '/m/09x'; expected a mid, a tab"),
        (_published.check_display_names, "", "no rows"),
        (_published.check_true_counts, COUNTS.replace("10,9", "10,11"), "line 2 is .*10,11'; expected a class"),
        (_published.check_true_counts, COUNTS.replace("10,9", "10"), "line 2 is .*; expected a class"),
        (_published.check_true_counts, "<html>\n", "line 1 is '<html>'; expected columns"),
        (_published.check_true_counts, COUNTS.splitlines()[0], "no rows"),
        (_published.check_video_ids, "--4gqARaEJE\n-0RWZT\n", "line 2 is '-0RWZT'; expected the id"),
        (_published.check_video_ids, "<!doctype html>", "line 1 is '<!doctype html>'"),
        (_published.check_video_ids, "", "no rows"),
    ],
)
def test_files_that_are_not_as_published_are_refused(tmp_path: Path, check, content: str, found: str) -> None:
    with pytest.raises(DatasetError, match=f"file: {found}"):
        check(_file(tmp_path, content))
