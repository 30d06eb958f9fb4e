from __future__ import annotations

import base64
import gzip
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import google_crc32c
import pytest

from audioset import _fetch
from audioset.dataset.catalogue import FILES, catalogue
from audioset.dataset.fetch import fetch, fetch_group, path_of, present
from audioset.errors import DatasetError, FetchError, OptionError
from weights._server import Served, Server

COUNTS = b"display_name,num_rated,num_true\n" + b"".join(b"Class %d,10,%d\n" % (i, i % 11) for i in range(40_000))
NAME = "qa_true_counts.csv"  # of a file without a known hash
PAGE = b"<html>log in first</html>"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "BACKOFF_S", 0.001)
    for name in ("AUDIOSET_OFFLINE", "AUDIOSET_DATASET_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that everything is fetched from."""
    monkeypatch.setenv("AUDIOSET_DATASET_URL", server.url(""))
    return server


@pytest.fixture
def folder(isolated_cache: Path) -> Path:
    folder = isolated_cache / "dataset"
    folder.mkdir()
    return folder


def _kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def _pinned(name: str, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Make some bytes the expected ones of a file."""
    file = replace(catalogue()[name], sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    files = tuple(file if other.name == name else other for other in FILES)
    monkeypatch.setattr("audioset.dataset.catalogue.FILES", files)


def _google(content: bytes) -> dict[str, str]:
    """What Google's storage states of content."""
    crc32c = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    return {"x-goog-hash": f"crc32c={crc32c}, md5={md5}", "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}


def test_a_file_is_fetched_once_with_progress_and_its_hash_is_noted(mirror: Server, folder: Path) -> None:
    served = mirror.serve(NAME, COUNTS, headers=_google(COUNTS))
    seen: list[tuple[int, int | None]] = []
    path = fetch("qa_true_counts", progress=lambda done, total: seen.append((done, total)))
    assert path == folder / NAME == present("qa_true_counts")
    assert path.read_bytes() == COUNTS
    assert seen[-1] == (len(COUNTS), len(COUNTS))
    assert (folder / f"{NAME}.sha256").read_text() == f"{hashlib.sha256(COUNTS).hexdigest()}  {NAME}\n"
    assert _kept(folder) == [NAME, f"{NAME}.sha256"]
    assert fetch("qa_true_counts") == path
    assert len(served.requested) == 1


def test_published_files_are_fetched_and_held_to_their_hashes(mirror: Server, folder: Path, data_dir: Path) -> None:
    for name in ("balanced_train", "eval", "labels", "ontology"):
        file = catalogue()[name]
        mirror.serve(file.file_name, (data_dir / "audioset" / file.file_name).read_bytes(), cuts=[1000])
        assert fetch(name) == folder / file.file_name == present(name)


def test_what_is_not_there_is_not_present(mirror: Server) -> None:
    assert [present(file.name) for file in FILES] == [None] * len(FILES)


@pytest.mark.parametrize("known", [True, False])
def test_a_cut_download_is_resumed(mirror: Server, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    if known:
        _pinned("qa_true_counts", monkeypatch, COUNTS)
    served = mirror.serve(NAME, COUNTS, cuts=[300_000], headers=_google(COUNTS))
    path = fetch("qa_true_counts")
    assert path.read_bytes() == COUNTS
    assert served.requested[0] is None
    assert str(served.requested[1]).startswith("bytes=")
    assert not path.with_name(f"{NAME}.part.version").exists()


def test_an_interrupted_download_is_resumed_by_the_next(mirror: Server, folder: Path) -> None:
    served = mirror.serve(NAME, COUNTS, headers=_google(COUNTS))

    def interrupt(done: int, _: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("qa_true_counts", progress=interrupt)
    kept = (folder / f"{NAME}.part").stat().st_size
    assert 0 < kept < len(COUNTS)
    assert fetch("qa_true_counts").read_bytes() == COUNTS
    assert served.requested[1] == f"bytes={kept}-"
    assert _kept(folder) == [NAME, f"{NAME}.sha256"]


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_part_of_an_earlier_version_is_given_up(mirror: Server, folder: Path, heeds_if_range: bool) -> None:
    (folder / f"{NAME}.part").write_bytes(COUNTS[:1000].replace(b"Class", b"Klass"))
    (folder / f"{NAME}.part.version").write_text('"earlier"')
    headers = {"ETag": '"now"'}  # and no hash that would tell
    mirror.serve(NAME, COUNTS, headers=headers, heeds_if_range=heeds_if_range)
    assert fetch("qa_true_counts").read_bytes() == COUNTS


def test_a_file_that_changes_on_the_server_between_two_requests_is_begun_again(mirror: Server, folder: Path) -> None:
    changed = COUNTS.replace(b"Class", b"Klass")
    served = mirror.serve(NAME, COUNTS, cuts=[300_000], headers=_google(COUNTS))
    first = True

    def change(done: int, _: int | None) -> None:
        nonlocal first
        if first:
            served.content, served.headers, first = changed, _google(changed), False

    assert fetch("qa_true_counts", progress=change).read_bytes() == changed


def test_without_a_version_a_part_is_not_trusted(mirror: Server, folder: Path) -> None:
    served = mirror.serve(NAME, COUNTS, cuts=[300_000])
    (folder / f"{NAME}.part").write_bytes(b"anything")
    assert fetch("qa_true_counts").read_bytes() == COUNTS
    assert served.requested == [None, None]


def test_a_part_longer_than_the_file_is_given_up(mirror: Server, folder: Path) -> None:
    (folder / f"{NAME}.part").write_bytes(COUNTS + b"more")
    (folder / f"{NAME}.part.version").write_text('"now"')
    mirror.serve(NAME, COUNTS, headers={"ETag": '"now"'})
    assert fetch("qa_true_counts").read_bytes() == COUNTS


def test_a_part_that_grows_beyond_the_file_is_given_up_at_once(mirror: Server, folder: Path) -> None:
    (folder / f"{NAME}.part").write_bytes(COUNTS[:1000])
    (folder / f"{NAME}.part.version").write_text('"now"')
    served = mirror.serve(NAME, COUNTS, headers={"ETag": '"now"'}, overruns=[b"more"])
    assert fetch("qa_true_counts").read_bytes() == COUNTS
    assert served.requested == ["bytes=1000-", None]


def test_a_server_without_ranges_is_asked_for_all_of_it(mirror: Server) -> None:
    mirror.serve(NAME, COUNTS, ranges=False, cuts=[300_000], headers=_google(COUNTS))
    assert fetch("qa_true_counts").read_bytes() == COUNTS


def test_a_stalled_server_is_asked_again(mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "READ_TIMEOUT_S", 0.1)
    served = mirror.serve(NAME, COUNTS, stalls=[300_000], headers=_google(COUNTS))
    assert fetch("qa_true_counts").read_bytes() == COUNTS
    assert len(served.requested) == 2


def test_a_server_in_trouble_is_asked_again_and_then_given_up(mirror: Server, folder: Path) -> None:
    served = mirror.serve(NAME, COUNTS, statuses=[503, 503])
    assert fetch("qa_true_counts").read_bytes() == COUNTS
    (folder / NAME).unlink()
    served.statuses[:] = [503] * 50
    with pytest.raises(FetchError, match=f"answers 503 Service Unavailable, {_fetch.MAX_RETRIES + 1} times in a row"):
        fetch("qa_true_counts")


def test_a_missing_file_says_what_to_do_by_hand(mirror: Server, folder: Path) -> None:
    file = catalogue()["labels"]
    with pytest.raises(
        FetchError,
        match=rf"(?s)labels: http://\S+/{file.file_name} answers 404 Not Found; expected the file.*put {file.url} "
        rf"\(14.7 kB, sha256 {file.sha256}\) at {folder / file.file_name}\..*AUDIOSET_DATASET_URL",
    ):
        fetch("labels")
    assert _kept(folder) == []


@pytest.mark.parametrize("how", [{"crc32c": "AAAAAA=="}, {"md5": "AAAAAAAAAAAAAAAAAAAAAA=="}])
def test_what_differs_from_what_the_server_states_is_refused(mirror: Server, folder: Path, how: dict[str, str]) -> None:
    ((name, stated),) = how.items()
    mirror.serve(NAME, COUNTS, headers={"x-goog-hash": f"{name}={stated}"})
    with pytest.raises(FetchError, match=rf"(?s){name} \S+ came where the server states {stated}\. Nothing was kept"):
        fetch("qa_true_counts")
    assert _kept(folder) == []


def test_hashes_of_what_a_server_stores_compressed_are_not_those_of_the_file(mirror: Server) -> None:
    headers = {"x-goog-hash": "crc32c=AAAAAA==", "x-goog-stored-content-encoding": "gzip"}
    mirror.serve(NAME, COUNTS, headers=headers)
    assert fetch("qa_true_counts").read_bytes() == COUNTS


def test_a_web_page_in_place_of_a_file_is_refused(mirror: Server, folder: Path) -> None:
    mirror.serve(NAME, PAGE, headers={"Content-Type": "text/html"})
    mirror.serve("class_labels_indices.csv", PAGE)
    with pytest.raises(FetchError, match=r"qa_true_counts: \S+ line 1 is '<html>.*Nothing was kept\. .*something in"):
        fetch("qa_true_counts")
    with pytest.raises(FetchError, match=r"labels: SHA256 .* expected sha256:cdd10498.*Nothing was kept"):
        fetch("labels")
    assert _kept(folder) == []


def test_a_csv_cut_short_on_the_server_is_caught_by_its_header(mirror: Server, folder: Path) -> None:
    header = "# made\n# num_ytids=3, num_segs=3, num_unique_labels=1, num_positive_labels=3\n# columns\n"
    rows = "".join(f'{i:011d}, 30.000, 40.000, "/m/09x0r"\n' for i in range(3))
    served = mirror.serve("unbalanced_train_segments.csv", (header + rows[: 2 * len(rows) // 3]).encode())
    with pytest.raises(FetchError, match="2 segments with 2 labels; expected 3 with 3, as its header says"):
        fetch("unbalanced_train")
    assert _kept(folder) == []
    served.content = (header + rows).encode()
    assert fetch("unbalanced_train").name == "unbalanced_train_segments.csv"


def test_strong_labels_have_as_many_clips_as_were_published(mirror: Server) -> None:
    header = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    rows = [f"{i:011d}_30000\t0.000\t1.000\t/m/09x0r\n" for i in range(16_996)]
    served = mirror.serve("audioset_eval_strong.tsv", (header + "".join(rows[:-1])).encode())
    with pytest.raises(FetchError, match="events of 16,995 clips; expected 16,996"):
        fetch("eval_strong")
    served.content = (header + "".join(rows)).encode()
    assert present("eval_strong") is None
    assert fetch("eval_strong") == present("eval_strong")


def test_an_archive_that_a_server_calls_an_encoding_stays_an_archive(
    mirror: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = gzip.compress(b"tar" * 1000)
    _pinned("features", monkeypatch, archive)
    mirror.serve("features.tar.gz", archive, headers={"Content-Encoding": "x-gzip"})
    assert fetch("features").read_bytes() == archive


def test_a_file_that_changed_since_it_was_fetched_is_fetched_again(mirror: Server, folder: Path) -> None:
    served = mirror.serve(NAME, COUNTS)
    path = fetch("qa_true_counts")
    path.write_bytes(COUNTS[: COUNTS.rindex(b"Class")])  # whole by its structure
    assert present("qa_true_counts") is None
    assert fetch("qa_true_counts").read_bytes() == COUNTS
    assert len(served.requested) == 2


def test_a_file_put_there_by_hand_is_used_and_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    (folder / NAME).write_bytes(COUNTS)
    assert present("qa_true_counts") == folder / NAME
    assert fetch("qa_true_counts") == folder / NAME
    assert (folder / f"{NAME}.sha256").exists()
    (folder / NAME).write_bytes(COUNTS[: COUNTS.rindex(b"Class")])
    with pytest.raises(
        FetchError, match=r"csv has changed: .* sha256 in qa_true_counts\.csv\.sha256 and AUDIOSET_OFFLINE"
    ):
        fetch("qa_true_counts")


def test_of_another_file_put_there_by_hand_it_is_said_what_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    (folder / NAME).write_bytes(PAGE)
    with pytest.raises(FetchError, match=r"csv is not whole \(.*line 1 is '<html>.*\) and AUDIOSET_OFFLINE is set"):
        fetch("qa_true_counts")


def test_a_host_without_address_is_given_up_soon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(*how: object, **_: object) -> None:
        asked.append(how)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FetchError, match=r"(?s)https://mirror\.invalid/\S+ cannot be reached .* 2 times in a row"):
        fetch("qa_true_counts", base_url="https://mirror.invalid")
    assert len(asked) == 2


def test_messages_show_no_password_of_a_base(server: Server, folder: Path) -> None:
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:\d+/qa_true_counts\.csv answers 404") as caught:
        fetch("qa_true_counts", base_url=server.url("").replace("//", "//me:s3cr@t@"))
    assert "s3cr" not in str(caught.value)
    with pytest.raises(OptionError, match=r"'ftp://example\.org/x': not an http"):
        fetch("qa_true_counts", base_url="ftp://me:s3cret@example.org/x")
    with pytest.raises(FetchError, match=r"http://example\.invalid/qa_true_counts\.csv is not https"):
        fetch("qa_true_counts", base_url="http://me:s3cret@example.invalid")


def test_what_has_no_end_is_not_kept(mirror: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = mirror.serve(NAME, COUNTS, states_length=False)
    assert fetch("qa_true_counts").read_bytes() == COUNTS
    (folder / NAME).unlink()
    monkeypatch.setattr(_fetch, "_LARGEST_BYTES", len(COUNTS) // 3)
    with pytest.raises(
        FetchError, match=r"more than [\d,]+ bytes came, of a length that .* not state\. Nothing was kept"
    ):
        fetch("qa_true_counts")
    assert len(served.requested) == 2
    assert not (folder / NAME).exists()
    assert not (folder / f"{NAME}.part").exists()


def test_another_file_put_there_by_hand_is_not_used(mirror: Server, folder: Path) -> None:
    mirror.serve(NAME, COUNTS)
    (folder / NAME).write_bytes(PAGE)
    (folder / "ontology.json").write_bytes(b"[]")
    assert present("qa_true_counts") is present("ontology") is None
    assert fetch("qa_true_counts").read_bytes() == COUNTS


def test_offline_nothing_is_requested(mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    served = mirror.serve(NAME, COUNTS)
    with pytest.raises(FetchError, match=r"qa_true_counts: not in the cache .* AUDIOSET_OFFLINE is set\.\nTo fetch it"):
        fetch("qa_true_counts")
    assert served.requested == []


def test_the_room_that_is_wanted_is_looked_for_first(mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    mirror.serve("features.tar.gz", b"x" * 1001)
    with pytest.raises(
        FetchError, match=r"features\.tar\.gz: 1,000 bytes are free there; expected .* 1,001 bytes of fea"
    ):
        fetch("features")


def test_several_processes_at_once_fetch_once(mirror: Server, folder: Path) -> None:
    served = mirror.serve(NAME, COUNTS, delay_s=0.7)
    script = "from audioset.dataset.fetch import fetch; print(fetch('qa_true_counts'))"
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=os.environ.copy(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    assert outputs == [str(folder / NAME)] * 2
    assert len(served.requested) == 1


def test_a_base_given_wins_over_the_environment(mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.serve(f"copy/{NAME}", COUNTS)
    monkeypatch.setenv("AUDIOSET_DATASET_URL", "https://nowhere.invalid/")
    assert fetch("qa_true_counts", base_url=mirror.url("copy")).read_bytes() == COUNTS


@pytest.mark.parametrize("region", ["us", "eu", "asia"])
def test_the_features_come_from_the_region(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_fetch, "fetch", lambda wanted, progress: asked.append(wanted.url))
    fetch("features", region=region)
    assert asked == [f"https://storage.googleapis.com/{region}_audioset/youtube_corpus/v1/features/features.tar.gz"]


def test_a_base_that_is_no_address_is_refused() -> None:
    with pytest.raises(OptionError, match=r"base_url 'file:///data': not an http\(s\) address; expected one such as"):
        fetch("eval", base_url="file:///data")


def test_without_a_known_hash_plain_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requests.get", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(FetchError, match=r"http://example\.invalid/qa_true_counts\.csv is not https, and no hash"):
        fetch("qa_true_counts", base_url="http://example.invalid")


def test_without_a_known_hash_no_redirect_to_plain_http_is_followed_to_its_end(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fetch, "_THIS_MACHINE", {"localhost"})
    server.serve("elsewhere", COUNTS)
    server.serve(NAME, b"", redirect=server.url("elsewhere"))
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:\d+/elsewhere is not https"):
        fetch("qa_true_counts", base_url=server.url("", host="localhost"))
    assert _kept(folder) == []


def test_a_group_is_fetched_whole(mirror: Server, folder: Path) -> None:
    mirror.serve(NAME, COUNTS)
    mirror.serve("rerated_video_ids.txt", b"--4gqARaEJE\n-0RWZT-miFs\n")
    assert fetch_group("quality") == {
        "qa_true_counts": folder / NAME,
        "rerated_video_ids": folder / "rerated_video_ids.txt",
    }


def test_a_group_is_no_file() -> None:
    with pytest.raises(OptionError, match="'quality': a group; expected one of its files, qa_true_counts, rerated"):
        present("quality")


def test_an_error_of_the_disk_while_reading_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ontology.json").write_bytes(b"[]")

    def broken(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_fetch, "sha256_of", broken)
    with pytest.raises(DatasetError, match=r"ontology\.json: Input/output error; expected a readable file"):
        present("ontology")


def test_places_in_the_cache_need_no_file(folder: Path) -> None:
    assert path_of(catalogue()["features"]) == folder / "features.tar.gz"


def test_the_cache_is_a_mirror(mirror: Server, folder: Path) -> None:
    mirror.serve(NAME, COUNTS)
    served = Served(fetch("qa_true_counts").read_bytes())
    mirror.files[f"cache/{NAME}"] = served
    (folder / NAME).unlink()
    assert fetch("qa_true_counts", base_url=mirror.url("cache")).read_bytes() == COUNTS
