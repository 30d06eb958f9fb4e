"""The parts of a download that need no server, and reading parts of remote files."""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
import threading
import time
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from audioset.dataset.download import Entry, gate, ledger, parse_shard, read_status, remote
from audioset.dataset.download.clips import Clip, select_clips, stem
from audioset.dataset.download.extract import Extractor, Media
from audioset.dataset.download.failures import ClipError, Stopped, of_status, plain
from audioset.dataset.download.gate import Gate
from audioset.dataset.download.ledger import Ledger, _address, check_settings, ledger_name, read_entries
from audioset.dataset.download.options import DownloadOptions
from audioset.dataset.download.remote import BLOCK_BYTES, RemoteFile
from audioset.errors import DatasetError, OptionError

from ._media import MediaServer
from .conftest import table


def test_a_throttled_gate_pauses_twice_as_long_each_time_and_then_lets_one_through() -> None:
    door = Gate()
    now, lengths = 0.0, []
    for _ in range(4):
        door.pass_through(now)
        door.refused(now, now, surely=True)
        lengths.append(door.opens_at - now)
        assert door.width == 1
        now = door.opens_at
    for length, i in zip(lengths, range(4), strict=True):
        assert gate.FIRST_PAUSE_S * 2**i <= length <= gate.FIRST_PAUSE_S * 2**i * 1.5
    door.well(now)
    assert (door.pauses, door.width) == (0, float("inf"))


def test_clips_under_way_when_a_pause_begins_make_it_no_longer_and_do_not_end_it() -> None:
    door = Gate()
    door.refused(10.0, 5.0, surely=True)
    opens_at = door.opens_at
    door.refused(10.1, 5.0, surely=True)
    door.well(9.0)
    assert (door.opens_at, door.pauses) == (opens_at, 1)


def test_single_refusals_do_not_pause_but_several_in_a_row_do() -> None:
    door = Gate()
    for at in (1.0, 2.0):
        door.refused(at, at, surely=False)
    door.well(3.0)
    for at in (4.0, 5.0):
        door.refused(at, at, surely=False)
    assert door.pauses == 0
    door.refused(6.0, 6.0, surely=False)
    assert door.pauses == 1


def test_a_gate_waits_as_long_as_a_server_asks_and_gives_up_in_the_end() -> None:
    door = Gate()
    door.refused(0.0, 0.0, surely=True, wait_s=100.0)
    assert door.opens_at >= 100.0
    now = door.opens_at
    for _ in range(gate.MAX_PAUSES - 1):
        door.refused(now, now, surely=True)
        now = door.opens_at
    assert not door.exhausted
    door.refused(now, now, surely=True)
    assert door.exhausted


def test_many_clips_in_a_row_that_are_not_reached_pause_and_one_between_that_is_does_not() -> None:
    door = Gate()
    for at in range(9):
        door.unreached(at, at)
    door.well(9.0)
    for at in range(10, 19):
        door.unreached(at, at)
    assert (door.pauses, door.offline) == (0, False)
    door.unreached(20.0, 20.0)
    assert (door.pauses, door.offline, door.width) == (1, True, 1)
    door.unreached(21.0, 19.0)  # was under way
    assert door.pauses == 1
    door.unreached(door.opens_at, door.opens_at)
    assert door.pauses == 2
    door.well(door.opens_at)
    assert (door.pauses, door.offline) == (0, False)


def test_a_gate_keeps_clips_apart() -> None:
    door = Gate(5.0)
    door.pass_through(100.0)
    assert door.opens_at == 105.0


@pytest.mark.parametrize("text", ["1/1", " 3/20 ", "20/20"])
def test_shards_are_read(text: str) -> None:
    assert parse_shard(text) == tuple(map(int, text.split("/")))


def test_keys_have_the_start_in_milliseconds() -> None:
    assert Clip("abc", 4.0999, 5.0).key == "abc_4100"


def test_names_that_differ_in_case_get_a_suffix_that_depends_on_nothing_else() -> None:
    assert [stem(key, clashes=True) for key in ("aB_0", "Ab_0", "ab_0")] == ["aB_0~2", "Ab_0~1", "ab_0~0"]
    assert stem("c_0", clashes=False) == "c_0"


def test_names_that_clash_are_known_to_every_shard() -> None:
    segments = table(("aB", 0.0, 1.0), ("Ab", 0.0, 1.0), ("c", 0.0, 1.0), ("Ab", 1.0, 2.0), ("c", 0.0, 1.0))
    shares = [select_clips(segments, shard=(i, 2)) for i in (1, 2)]
    assert [[clip.key for clip in share.clips] for share in shares] == [["aB_0", "c_0"], ["Ab_0", "Ab_1000"]]
    assert [share.clashing for share in shares] == [{"ab_0"}, {"ab_0"}]  # a row that is there twice clashes with none
    assert [clip.key for clip in select_clips(segments, limit=3, shard=(1, 2)).clips] == ["aB_0", "c_0"]


def test_shares_of_a_published_split_are_disjoint_and_complete(data_dir: Path) -> None:
    path = data_dir / "audioset" / "balanced_train_segments.csv"
    shares = [select_clips(path, shard=(i, 7)) for i in range(1, 8)]
    keys = [clip.key for share in shares for clip in share.clips]
    assert len(keys) == len(set(keys)) == 22_160
    assert max(len(share.clips) for share in shares) - min(len(share.clips) for share in shares) == 1
    assert sum(key.startswith("-") for key in keys) == 459
    assert {share.clashing for share in shares} == {frozenset()}
    dogs = select_clips(path, ["Dog"], limit=5).clips
    assert len(dogs) == 5


@pytest.mark.parametrize(("url", "ytid"), [
    ("https://www.youtube.com/watch?v=-0RWZT-miFs&t=3", "-0RWZT-miFs"),
    ("https://youtu.be/-0RWZT-miFs", "-0RWZT-miFs"),
    ("https://example.org/talk.mp3", hashlib.sha256(b"https://example.org/talk.mp3").hexdigest()[:11]),
])  # fmt: skip
def test_own_segments_are_named_by_their_address(tmp_path: Path, url: str, ytid: str) -> None:
    path = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pa.table({"url": [url], "start_s": [1.0], "end_s": [2.5]}), path)
    (clip,) = select_clips(path).clips
    assert clip == Clip(ytid, 1.0, 2.5, url)


def test_ids_of_digits_are_text_and_shards_and_a_csv_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("url,start_s,end_s,ytid\nhttps://example.org/a,1,2,007\n", encoding="utf-8")
    assert select_clips(path).clips == (Clip("007", 1.0, 2.0, "https://example.org/a"),)
    assert select_clips(path, shard=(2, 2)).clips == ()  # fewer segments than shards
    path.write_text("url,start_s,end_s\n", encoding="utf-8")
    assert select_clips(path).clips == ()


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz", "mine.parquet"])
@pytest.mark.parametrize("column", ["ytid", "url"])
def test_own_lists_may_be_of_any_kind(tmp_path: Path, name: str, column: str) -> None:
    path, text = tmp_path / name, f"\ufeff{column},start_s,end_s\n0123,1,2.5\n\n4567,0,1\n".encode()
    if path.suffix == ".parquet":
        rows = pa.table({column: ["0123", "4567"], "start_s": [1.0, 0.0], "end_s": [2.5, 1.0]})
        pyarrow.parquet.write_table(rows, path)
    else:
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    clips = select_clips(path).clips
    assert [(getattr(clip, column), clip.start_s, clip.end_s) for clip in clips] == [("0123", 1, 2.5), ("4567", 0, 1)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("text", "said"), [
    ("ytid,start_s,end_s\nabc,0,1\n\na b,0,1\n", r"line 4: 'a b' from 0\.0 to 1\.0 s; expected letters"),
    ("ytid,start_s,end_s\nabc,0,1\nabd,2,1\n", r"line 3: 'abd' from 2\.0 to 1\.0 s; expected 0 ≤ start_s"),
    ("url,start_s,end_s\n\nhttps://x.org,0,one\n", r"line 3: In CSV column #2: .*'one'; expected columns start_s"),
    ("url,start_s,end_s\nhttps://x.org,0\n", r"line 2: Expected 3 columns, got 2|line 2: CSV parse error"),
    ("ytid,start,end\nabc,0,1\n", r"columns ytid, start, end; expected start_s, end_s and ytid or url"),
    ('# made\n# by hand\na b, 0.0, 1.0, "/m/09x0r"\n', r"line 3: 'a b' from 0\.0 to 1\.0 s; expected letters"),
])  # fmt: skip
def test_what_is_wrong_in_a_list_is_said_with_its_line(tmp_path: Path, text: str, said: str, packed: bool) -> None:
    path = tmp_path / ("mine.csv.gz" if packed else "mine.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(DatasetError, match=rf"mine\.csv.*{said}"):
        select_clips(path)


def test_texts_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ytid,start_s,end_s,mids,note\nabc,0,1,/m/09x0r,x\n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"--classes: \S+mine\.csv has no labels"):
        select_clips(path, ["Speech"])


@pytest.mark.parametrize("url", [None, ""])
def test_segments_without_a_video_are_refused(url: str | None) -> None:
    segments = pa.table({"url": pa.array([url], pa.string()), "start_s": [0.0], "end_s": [1.0]})
    with pytest.raises(DatasetError, match=r"None from 0\.0 to 1\.0 s; expected letters"):
        select_clips(segments)


def test_statuses_are_understood_and_waits_are_as_long_as_asked() -> None:
    throttled = of_status(429, "answers 429", "7")
    assert (throttled.reason, throttled.wait_s) == ("throttled", 7.0)
    assert of_status(503, "x", "Sat, 21 Nov 2026 07:28:00 GMT").wait_s == 0.0
    found = {status: of_status(status, "x").reason for status in (401, 403, 404, 410, 451, 500)}
    expected = ("refused", "refused", "removed", "removed", "region", "network")
    assert tuple(found.values()) == expected


def test_messages_hide_what_addresses_carry() -> None:
    said = "ERROR: \x1b[0;31m[x] a:\x1b[0m failed https://media.example/v?sig=SECRET&ip=1.2.3.4 (caused by <X>)"
    assert plain(said) == "[x] a: failed https://media.example/v?…"
    assert len(plain("x" * 1000)) == 300


def test_ledgers_are_read_together_with_what_is_done_first_while_its_files_are_there(tmp_path: Path) -> None:
    made = tmp_path / "abc_0.flac"
    made.write_bytes(bytes(10))
    clip = Clip("abc", 0.0, 1.0)
    for shard in ((1, 1), (1, 2)):
        book = Ledger(tmp_path, shard, {})
        book.expect([(clip, "abc_0.flac")])
        if shard == (1, 1):
            book.done(clip.key, 10, None, 1.0)
        else:
            book.failed(clip.key, "network", "no", final=True)
        book.close()
    (entry,) = read_entries(tmp_path).values()
    assert (entry.state, entry.bytes, entry.duration_s, entry.tries) == ("done", 10, 1.0, 1)
    assert {path.name for path in tmp_path.glob("*.sqlite")} == {ledger_name((1, 1)), "ledger-1-of-2.sqlite"}
    made.unlink()
    (entry,) = read_entries(tmp_path).values()
    assert (entry.state, entry.reason) == ("failed", "network")


def test_what_is_said_of_several_ledgers_is_what_their_entries_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PAGE_ROWS", 3)  # so that there are several pages
    clips = [Clip(f"v{i}", 0.0, 1.0) for i in range(10)]
    for shard, mine in (((1, 2), clips[:7]), ((2, 2), clips[5:])):
        book = Ledger(tmp_path, shard, {})
        book.expect((clip, f"{clip.ytid}_0.flac") for clip in mine)
        for clip in mine[:3]:
            book.failed(clip.key, "private" if clip.ytid == "v5" else "removed", "gone", final=True)
        (tmp_path / f"{mine[3].ytid}_0.flac").write_bytes(bytes(5))
        book.done(mine[3].key, 5, None, 1.5)
        book.close()
    (tmp_path / ledger_name((1, 1))).write_bytes(b"")  # one that is but begun
    status = read_status(tmp_path)
    assert list(status.entries) == [entry for _, entry in sorted(read_entries(tmp_path).items())]
    assert [entry.key for entry in status.failures] == ["v0_0", "v1_0", "v2_0", "v5_0", "v6_0", "v7_0"]
    assert (status.counts, status.audio_s) == ({"done": 2, "failed": 6, "pending": 2}, 3.0)
    assert list(status.reasons.items()) == [("removed", 5), ("private", 1)]


def test_a_ledger_that_is_but_begun_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / ledger_name((1, 2))).write_bytes(b"")  # as SQLite begins
    check_settings(tmp_path, {})
    assert read_entries(tmp_path) == {}
    Ledger(tmp_path, (1, 2), {"format": "wav"}).close()
    check_settings(tmp_path, {"format": "wav"})


def test_ledgers_can_be_read_while_others_are_made(tmp_path: Path) -> None:
    done = threading.Event()
    faults: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                check_settings(tmp_path, {})
            except Exception as error:
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1, 11):
        Ledger(tmp_path, (i, 10), {}).close()
    done.set()
    reader.join()
    assert faults == []


def test_ledgers_are_found_on_windows_shares_too(tmp_path: Path) -> None:
    address = _address(PureWindowsPath("//server/a share/ledger.sqlite"), "ro")
    assert address == "file:////server/a%20share/ledger.sqlite?mode=ro"
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):  # not "invalid uri authority"
        sqlite3.connect(address, uri=True)
    assert _address(PureWindowsPath("C:/100%/ledger.sqlite"), "rw") == "file:///C%3A/100%25/ledger.sqlite?mode=rw"


def test_shards_that_begin_at_once_with_other_options_are_not_both_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    look = ledger.check_settings

    def slowly(*how: Any) -> None:
        look(*how)
        time.sleep(0.1)  # the other has all the time to look, if it may

    monkeypatch.setattr(ledger, "check_settings", slowly)
    refused: list[str] = []

    def begin(shard: int) -> None:
        both.wait(10)
        try:
            ledger.open_ledger(tmp_path, (shard, 2), {"format": f"of shard {shard}"}).close()
        except OptionError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=begin, args=(shard,)) for shard in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 1
    assert "its files were made with format of shard" in refused[0]


def test_a_failure_is_permanent_by_its_reason() -> None:
    entry = Entry("a_0", "a", 0.0, 1.0, None, "a_0.flac", "failed", "private")
    assert entry.permanent
    assert not Entry("a_0", "a", 0.0, 1.0, None, "a_0.flac", "failed", "network").permanent


def remote_file(server: MediaServer, name: str, stop: threading.Event, seconds: float = 10.0) -> RemoteFile:
    extractor = Extractor(DownloadOptions(timeout_s=5.0), None, stop)
    extractor._deadline = time.monotonic() + seconds
    return extractor.open(Media(server.template.format(ytid=name), {}))


def test_a_remote_file_reads_as_a_local_one(server: MediaServer, rng: np.random.Generator) -> None:
    content = rng.bytes(2 * BLOCK_BYTES + 1000)
    served = server.serve("x", content)
    file = remote_file(server, "x", threading.Event())
    assert file.seek(-500, 2) == len(content) - 500
    assert file.read(1000) == content[-500:]
    assert file.read(10) == b""
    assert file.seek(BLOCK_BYTES - 3) == file.tell() == BLOCK_BYTES - 3
    assert file.read(6) == content[BLOCK_BYTES - 3 : BLOCK_BYTES + 3]
    assert file.seek(4, 1) == BLOCK_BYTES + 7
    assert file.read(BLOCK_BYTES * 5) == content[BLOCK_BYTES + 7 :]
    assert len(served.asked) == 3
    assert file.fetched_bytes == served.sent == len(content)
    beyond = remote_file(server, "x", threading.Event())
    assert beyond.seek(10**9) == 10**9
    assert beyond.read(1) == b""


def test_a_remote_file_keeps_few_blocks(server: MediaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MAX_BLOCKS", 2)
    served = server.serve("x", bytes(3 * BLOCK_BYTES))
    file = remote_file(server, "x", threading.Event())
    for block, num_asked in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):  # the one that was used last stays
        file.seek(block * BLOCK_BYTES)
        file.read(1)
        assert len(served.asked) == num_asked


@pytest.mark.parametrize("part_bytes", [1000, 2 * BLOCK_BYTES], ids=["shorter", "longer"])
def test_parts_that_are_not_those_asked_for_are_refused(server: MediaServer, part_bytes: int) -> None:
    server.serve("x", bytes(3 * BLOCK_BYTES), part_bytes=part_bytes)
    with pytest.raises(ClipError, match="sends another part"):
        remote_file(server, "x", threading.Event()).read(BLOCK_BYTES)


def test_a_remote_file_stops_when_told_and_when_its_time_is_over(server: MediaServer) -> None:
    server.serve("x", bytes(1000))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        remote_file(server, "x", stop).read(1)
    with pytest.raises(ClipError, match="the time for one clip is over") as caught:
        remote_file(server, "x", threading.Event(), seconds=-1.0).read(1)
    assert caught.value.reason == "stalled"
