from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audioset import _fetch
from audioset.cli import app
from audioset.cli.dataset import fetch as cli
from audioset.dataset.catalogue import FILES, REGIONS, catalogue
from audioset.dataset.fetch import fetch
from audioset.errors import AudioSetError, OptionError
from weights._server import Server

COUNTS = b"display_name,num_rated,num_true\nSpeech,10,10\n"
VIDEOS = b"--4gqARaEJE\n"

runner = CliRunner()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with the files on quality alone."""
    running = Server()
    running.serve("qa_true_counts.csv", COUNTS)
    running.serve("rerated_video_ids.txt", VIDEOS)
    monkeypatch.setattr(_fetch, "BACKOFF_S", 0.001)
    for name in ("AUDIOSET_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUDIOSET_DATASET_URL", running.url(""))
    yield running
    running.close()


def _run(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, ["dataset", *map(str, arguments)])
    if isinstance(result.exception, AudioSetError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_group_is_fetched_and_its_paths_printed(mirror: Server, isolated_cache: Path) -> None:
    status, out, err = _run("fetch", "quality")
    folder = isolated_cache / "dataset"
    assert status == 0
    assert out.splitlines() == [str(folder / "qa_true_counts.csv"), str(folder / "rerated_video_ids.txt")]
    assert "qa_true_counts: as its server and its structure say; no hash of it is published; CC BY 4.0" in err


def test_one_that_fails_is_named_and_the_rest_go_on(mirror: Server) -> None:
    status, out, err = _run("fetch", "labels", "rerated_video_ids")
    assert status == 1
    assert out.endswith("rerated_video_ids.txt\n")
    assert out.count("\n") == 1
    assert "audioset: labels: http://" in err
    assert "answers 404" in err


def test_files_are_copied_where_they_are_wanted(mirror: Server, tmp_path: Path) -> None:
    wanted = tmp_path / "new" / "qa_true_counts.csv"
    assert _run("fetch", "qa_true_counts", "-o", tmp_path / "new")[:2] == (0, f"{wanted}\n")
    assert wanted.read_bytes() == COUNTS
    assert sorted(path.name for path in wanted.parent.iterdir()) == [wanted.name]
    changed = wanted.stat().st_mtime_ns
    assert _run("fetch", "qa_true_counts", "-o", tmp_path / "new")[0] == 0
    assert wanted.stat().st_mtime_ns == changed


def test_another_file_of_the_users_is_replaced_only_when_told(mirror: Server, tmp_path: Path) -> None:
    mine = tmp_path / "qa_true_counts.csv"
    mine.write_bytes(b"mine")
    status, out, err = _run("fetch", "quality", "-o", tmp_path)
    assert (status, out) == (1, f"{tmp_path / 'rerated_video_ids.txt'}\n")
    assert f"{mine}: exists and is not the file that was fetched" in err
    assert mine.read_bytes() == b"mine"
    assert _run("fetch", "quality", "-o", tmp_path, "--overwrite")[0] == 0
    assert mine.read_bytes() == COUNTS


def test_unknown_names_are_refused_before_anything_is_fetched(mirror: Server) -> None:
    with pytest.raises(OptionError, match="'qualty': not a file or group"):
        _run("fetch", "quality", "qualty")
    assert mirror.files["qa_true_counts.csv"].requested == []


def test_a_base_that_is_no_address_ends_the_command() -> None:
    with pytest.raises(OptionError, match="base_url 'ftp://x': not an http"):
        _run("fetch", "quality", "--base-url", "ftp://x")


@pytest.mark.parametrize("arguments", [("fetch",), ("fetch", "eval", "--region", "mars")])
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    assert _run(*arguments)[0] == 2


def test_an_interrupt_says_what_is_left(mirror: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_one = cli._fetch_one

    def interrupted(file, *rest):
        if file.name == "labels":
            raise KeyboardInterrupt
        return fetch_one(file, *rest)

    monkeypatch.setattr(cli, "_fetch_one", interrupted)
    status, _, err = _run("fetch", "quality", "labels", "ontology")
    assert status == 130
    assert "interrupted: 2 of 4 done, left: labels, ontology. Run it again to continue where it stopped" in err


def test_files_shows_what_there_is_and_what_is_here(mirror: Server) -> None:
    assert _run("fetch", "quality")[0] == 0
    status, out, err = _run("files")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    header, *lines = out.splitlines()
    rows = [line for line in lines if not line.startswith(" ")]
    assert header.split() == ["NAME", "GROUP", "SIZE", "LICENCE", "PRESENT"]
    assert [row.split()[0] for row in rows] == [file.name for file in FILES]
    assert " ".join(" ".join(lines[1:]).split()).startswith(f"{FILES[0].about} {FILES[1].name} ")
    by_name = {row.split()[0]: row for row in rows}
    assert by_name["qa_true_counts"].split()[:7] == ["qa_true_counts", "quality", "-", "CC", "BY", "4.0", "yes"]
    assert by_name["features"].split()[:8] == ["features", "features", "2.4", "GB", "CC", "BY", "4.0", "no"]


def test_files_as_json_has_all_that_is_known(mirror: Server) -> None:
    path = fetch("qa_true_counts")
    rows = {row["name"]: row for row in json.loads(_run("files", "--json")[1])}
    assert rows["qa_true_counts"]["path"] == str(path)
    assert rows["qa_true_counts"]["present"] is True
    ontology = catalogue()["ontology"]
    assert (rows["ontology"]["sha256"], rows["ontology"]["url"]) == (ontology.sha256, ontology.url)
    assert rows["ontology"]["path"] is None


def test_options_are_those_of_the_library() -> None:
    assert tuple(region.value for region in cli.RegionChoice) == REGIONS
    assert inspect.signature(cli.fetch).parameters["region"].default.value == (
        inspect.signature(fetch).parameters["region"].default
    )
