from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audioset import _fetch, models
from audioset.errors import FetchError
from audioset.weights import CatalogueEntry, fetch

from ._server import Server, closed_port

CONTENT = bytes(range(256)) * 8192  # 2 MiB: several pieces
NAME = f"{hashlib.sha256(CONTENT).hexdigest()[:8]}-model.ckpt"  # in the cache


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "BACKOFF_S", 0.001)
    monkeypatch.delenv("AUDIOSET_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def _entry(url: str, content: bytes = CONTENT) -> CatalogueEntry:
    sha256 = hashlib.sha256(content).hexdigest()
    return CatalogueEntry("ours", "vggish", url, sha256, size_bytes=len(content))


def _leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_with_progress_and_verified(server: Server, isolated_cache: Path) -> None:
    served = server.serve("model.ckpt", CONTENT)
    seen: list[tuple[int, int | None]] = []
    path = fetch(_entry(server.url("model.ckpt")), progress=lambda done, total: seen.append((done, total)))
    assert path == isolated_cache / NAME
    assert path.read_bytes() == CONTENT
    assert len(served.requested) == 1
    assert [total for _, total in seen] == [len(CONTENT)] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == len(CONTENT)
    assert _leftovers(isolated_cache) == [NAME]


def test_what_is_there_is_not_fetched_again(server: Server) -> None:
    served = server.serve("model.ckpt", CONTENT)
    entry = _entry(server.url("model.ckpt"))
    assert fetch(entry) == fetch(entry)
    assert len(served.requested) == 1


def test_a_file_put_there_by_hand_is_used(isolated_cache: Path) -> None:
    (isolated_cache / NAME).write_bytes(CONTENT)
    assert fetch(_entry("http://nowhere.invalid/model.ckpt")) == isolated_cache / NAME


def test_a_wrong_file_put_there_by_hand_is_replaced(server: Server, isolated_cache: Path) -> None:
    server.serve("model.ckpt", CONTENT)
    (isolated_cache / NAME).write_bytes(b"something else")
    assert fetch(_entry(server.url("model.ckpt"))).read_bytes() == CONTENT


def test_a_cut_connection_is_resumed_where_it_broke(server: Server) -> None:
    served = server.serve("model.ckpt", CONTENT, cuts=[600_000, 700_000])
    assert fetch(_entry(server.url("model.ckpt"))).read_bytes() == CONTENT
    first, *resumed = served.requested
    assert first is None
    starts = [int(str(header).removeprefix("bytes=").removesuffix("-")) for header in resumed]
    assert len(starts) == 2
    assert 0 < starts[0] <= 600_000
    assert starts[0] < starts[1] <= 1_300_000


def test_a_download_that_another_process_began_is_continued(server: Server, isolated_cache: Path) -> None:
    served = server.serve("model.ckpt", CONTENT)
    (isolated_cache / f"{NAME}.part").write_bytes(CONTENT[:1_000_000])
    seen: list[int] = []
    assert fetch(_entry(server.url("model.ckpt")), progress=lambda done, _: seen.append(done)).read_bytes() == CONTENT
    assert served.requested == ["bytes=1000000-"]
    assert seen[0] > 1_000_000


def test_an_interrupted_download_keeps_what_it_has(server: Server, isolated_cache: Path) -> None:
    served = server.serve("model.ckpt", CONTENT)
    entry = _entry(server.url("model.ckpt"))

    def interrupt(done: int, _: int | None) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(entry, progress=interrupt)
    kept = (isolated_cache / f"{NAME}.part").stat().st_size
    assert kept > 1_000_000
    assert fetch(entry).read_bytes() == CONTENT
    assert served.requested[1] == f"bytes={kept}-"


def test_a_server_without_ranges_is_asked_for_all_of_it(server: Server, isolated_cache: Path) -> None:
    served = server.serve("model.ckpt", CONTENT, ranges=False, cuts=[600_000])
    assert fetch(_entry(server.url("model.ckpt"))).read_bytes() == CONTENT
    assert len(served.requested) == 2


def test_a_part_that_is_whole_is_used(server: Server, isolated_cache: Path) -> None:
    served = server.serve("model.ckpt", CONTENT)
    (isolated_cache / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(_entry(server.url("model.ckpt"))).read_bytes() == CONTENT
    assert served.requested == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * (len(CONTENT) + 5)], ids=["shorter", "longer"])
def test_a_part_of_another_file_is_given_up(server: Server, isolated_cache: Path, stale: bytes) -> None:
    server.serve("model.ckpt", CONTENT)
    (isolated_cache / f"{NAME}.part").write_bytes(stale)
    assert fetch(_entry(server.url("model.ckpt"))).read_bytes() == CONTENT


def test_a_wrong_hash_is_reported_and_nothing_is_kept(server: Server, isolated_cache: Path) -> None:
    served = server.serve("model.ckpt", b"<html>log in first</html>")
    got = hashlib.sha256(served.content).hexdigest()
    entry = _entry(server.url("model.ckpt"))
    with pytest.raises(
        FetchError,
        match=rf"(?s)ours: SHA256 .*\({NAME}\).*expected sha256:{entry.sha256} but got {got}.*Nothing was kept.*"
        rf"To fetch it by hand: put {entry.url}",
    ):
        fetch(entry)
    assert _leftovers(isolated_cache) == []
    assert len(served.requested) == 1


def test_a_missing_file_is_asked_for_once(server: Server, isolated_cache: Path) -> None:
    served = server.serve("model.ckpt", CONTENT, statuses=[404] * 10)
    with pytest.raises(FetchError, match=r"ours: http://\S+/model\.ckpt answers 404 Not Found; expected the file"):
        fetch(_entry(server.url("model.ckpt")))
    assert len(served.requested) == 1
    assert _leftovers(isolated_cache) == []


def test_a_server_in_trouble_is_asked_again(server: Server) -> None:
    served = server.serve("model.ckpt", CONTENT, statuses=[503, 500, 429])
    assert fetch(_entry(server.url("model.ckpt"))).read_bytes() == CONTENT
    assert len(served.requested) == 4


def test_a_server_that_stays_in_trouble_is_given_up(server: Server) -> None:
    served = server.serve("model.ckpt", CONTENT, statuses=[503] * 50)
    with pytest.raises(FetchError, match=f"answers 503 Service Unavailable, {_fetch.MAX_RETRIES + 1} times in a row"):
        fetch(_entry(server.url("model.ckpt")))
    assert len(served.requested) == _fetch.MAX_RETRIES + 1


def test_a_server_that_always_cuts_at_the_same_byte_is_given_up(server: Server) -> None:
    served = server.serve("model.ckpt", CONTENT, ranges=False, cuts=[600_000] * 50)
    with pytest.raises(FetchError, match=r"breaks off .* run again: it continues at byte [1-9]\d+\."):
        fetch(_entry(server.url("model.ckpt")))
    assert len(served.requested) <= _fetch.MAX_RETRIES + 2


def test_a_redirect_to_another_host_is_followed(server: Server) -> None:
    server.serve("elsewhere", CONTENT)
    server.serve("model.ckpt", b"", redirect=server.url("elsewhere", host="localhost"))
    assert fetch(_entry(server.url("model.ckpt"))).name == NAME


def test_without_a_network_the_message_says_what_to_do_by_hand(isolated_cache: Path) -> None:
    entry = _entry(f"http://127.0.0.1:{closed_port()}/model.ckpt")
    with pytest.raises(
        FetchError,
        match=rf"(?s)ours: \S+ cannot be reached.*put {entry.url} \(2,097,152 bytes, sha256 {entry.sha256}\) at "
        rf"{isolated_cache}/{NAME}\..*untrained:0",
    ):
        fetch(entry)


def test_offline_nothing_is_requested(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    served = server.serve("model.ckpt", CONTENT)
    with pytest.raises(
        FetchError, match=r"ours: not in the cache .* and AUDIOSET_OFFLINE is set\.\nTo fetch it by hand"
    ):
        fetch(_entry(server.url("model.ckpt")))
    assert served.requested == []


def test_offline_a_wrong_file_is_named_and_kept(isolated_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    (isolated_cache / NAME).write_bytes(b"something else")
    with pytest.raises(FetchError, match=r"model\.ckpt does not have the expected sha256"):
        fetch(_entry("http://nowhere.invalid/model.ckpt"))
    assert (isolated_cache / NAME).read_bytes() == b"something else"


def test_models_whose_weights_ship_are_offered_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "REGISTRY", {**models.REGISTRY, "tiny": models.get("vggish")})
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    with pytest.raises(FetchError, match=r"untrained:0.*; model mini \(its weights come with the package\)\.$"):
        fetch(_entry("http://nowhere.invalid/model.ckpt"))


def test_a_full_disk_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server.serve("model.ckpt", CONTENT)
    monkeypatch.setattr(_fetch.os, "fsync", full)
    with pytest.raises(FetchError, match=r"model\.ckpt: the disk is full; expected room for ours \(2,097,152 bytes\)"):
        fetch(_entry(server.url("model.ckpt")))


def test_a_cache_that_cannot_be_made_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUDIOSET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(FetchError, match=r"cannot be written \(Not a directory\).*set AUDIOSET_CACHE"):
        fetch(_entry(server.url("model.ckpt")))


def test_pooch_announces_nothing(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    server.serve("model.ckpt", CONTENT)
    fetch(_entry(server.url("model.ckpt")))
    assert capfd.readouterr() == ("", "")


def test_several_processes_at_once_fetch_once(server: Server, isolated_cache: Path, tmp_path: Path) -> None:
    served = server.serve("model.ckpt", CONTENT, delay_s=1.0)
    entry = _entry(server.url("model.ckpt"))
    override = tmp_path / "catalogue.json"
    override.write_text(json.dumps([{key: getattr(entry, key) for key in ("name", "model", "url", "sha256")}]))
    script = "from audioset import weights; print(weights.fetch(weights.catalogue()['ours']))"
    environment = {**os.environ, "AUDIOSET_CATALOGUE": str(override)}
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    assert outputs == [str(isolated_cache / NAME)] * 4
    assert [process.returncode for process in running] == [0] * 4
    assert len(served.requested) == 1
    assert _leftovers(isolated_cache) == [NAME]
