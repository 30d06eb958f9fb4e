"""`audioset dataset stats` and `subset`: what they print, write and refuse."""

from __future__ import annotations

import gzip
import inspect
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audioset.cli import app
from audioset.cli.dataset import segments as commands
from audioset.dataset import stats, subset
from audioset.dataset.segments import read_segments
from audioset.errors import AudioSetError, DatasetError, OptionError, OutputError

ROWS = (
    'aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r"\n'
    '-bbbbbbbbbb, 5.000, 9.000, "/m/05tny_,/m/09x0r"\n'
    'ccccccccccc, 0.000, 10.000, "/m/04rlf"\n'
    'ddddddddddd, 1.000, 11.000, "/m/04rlf,/m/0bt9lr"\n'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["dataset", *map(str, arguments)])
    if isinstance(result.exception, AudioSetError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def ids(path: Path) -> list[str]:
    return list(read_segments(path)["ytid"].to_pylist())


def test_stats_are_a_table(path: Path) -> None:
    assert run("stats", path, "--top", 2).splitlines() == [
        "clips          4, of 4 videos",
        "length         4 to 10 s, mean 8.50 s; 1 shorter than 10 s; 0.0 h in all",
        "labels         6, of 4 classes",
        "labels a clip  1.50; 2.75 with ancestors",
        "",
        "CLIPS  SHARE  CLASS",
        "    2  50.0%  Speech",
        "    2  50.0%  Music",
        "… 2 more, down to 1 clip each",
        "",
        "CLIPS  CLASSES TOGETHER",
        "    1  Speech + Bark",
        "    1  Music + Dog",
    ]


def test_stats_of_nothing_are_said(tmp_path: Path, path: Path) -> None:
    run("subset", path, "-o", tmp_path / "none.csv", "--class", "Zither")
    assert run("stats", tmp_path / "none.csv") == "clips          0, of 0 videos\n"


def test_stats_in_json_are_those_of_the_library(path: Path) -> None:
    assert json.loads(run("stats", path, "--json")) == stats.segment_stats(read_segments(path)).to_json()


def test_stats_can_be_drawn(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run("stats", path, "--plot", tmp_path / "p.svg")
    drawn = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    with pytest.raises(OutputError, match=r"p\.svg: exists already"):
        run("stats", path, "--plot", tmp_path / "p.svg")
    run("stats", path, "--plot", tmp_path / "p.svg", "--overwrite")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-c", "Dog"], ["-bbbbbbbbbb", "ddddddddddd"]),
        (["-c", "Dog", "--no-descendants"], ["ddddddddddd"]),
        (["-c", "Dog", "-c", "Speech", "--match", "all"], ["-bbbbbbbbbb"]),
        (["-c", "Dog", "-c", "Speech"], ["aaaaaaaaaaa", "-bbbbbbbbbb", "ddddddddddd"]),
        (["-x", "Dog"], ["aaaaaaaaaaa", "ccccccccccc"]),
        (["--min-duration", "10"], ["aaaaaaaaaaa", "ccccccccccc", "ddddddddddd"]),
        (["--max-duration", "9.5"], ["-bbbbbbbbbb"]),
        (["--limit", "2"], ["aaaaaaaaaaa", "-bbbbbbbbbb"]),
        (["--min-quality", "0.6", "--quality", "qa.csv"], ["aaaaaaaaaaa"]),
        (["--rerated", "--rerated-ids", "ids.txt"], ["-bbbbbbbbbb"]),
        (["-c", "Music", "-x", "Dog", "--min-duration", "10", "--limit", "5"], ["ccccccccccc"]),
        ([], ["aaaaaaaaaaa", "-bbbbbbbbbb", "ccccccccccc", "ddddddddddd"]),
    ],
)
def test_subset_keeps_what_meets_all_conditions(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("qa.csv").write_text("Speech,10,9\nMusic,10,5\n", encoding="utf-8")
    Path("ids.txt").write_text("-bbbbbbbbbb\n", encoding="utf-8")
    run("subset", path, "-o", "part.csv", *options)
    assert ids(Path("part.csv")) == expected
    lines = Path("part.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    assert lines[3:] == [line for line in ROWS.splitlines(keepends=True) if line[:11] in expected]


def test_subset_samples_as_the_library_does(path: Path, tmp_path: Path) -> None:
    run("subset", path, "-o", tmp_path / "a.csv", "--per-class", 1, "--seed", 7)
    assert ids(tmp_path / "a.csv") == subset.sample_balanced(read_segments(path), 1, seed=7)["ytid"].to_pylist()


def test_subset_keeps_finished_outputs_and_its_input(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.csv"
    run("subset", path, "-o", out)
    with pytest.raises(OutputError, match=r"part\.csv: exists already"):
        run("subset", path, "-o", out, "--limit", 1)
    run("subset", path, "-o", out, "--limit", 1, "--overwrite")
    assert len(ids(out)) == 1
    with pytest.raises(OptionError, match=r"--out .*some\.csv: the input itself"):
        run("subset", path, "-o", path, "--overwrite")
    with pytest.raises(OutputError, match=r"its folder does not exist"):
        run("subset", path, "-o", tmp_path / "no" / "part.csv")


def test_a_folder_is_no_output(path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(OutputError, match=r"x\.csv: is a folder"):
        run("subset", path, "-o", tmp_path / "x.csv", "--overwrite")


def test_subset_writes_gzip_and_standard_output_and_no_other_kind(path: Path, tmp_path: Path) -> None:
    run("subset", path, "-o", tmp_path / "a.csv", "-c", "Dog")
    run("subset", path, "-o", tmp_path / "a.csv.gz", "-c", "Dog")
    plain = (tmp_path / "a.csv").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == plain
    assert run("subset", path, "-o", "-", "-c", "Dog").encode() == plain
    for name in ("a.parquet", "a", "a.gz"):
        with pytest.raises(OptionError, match=r"a[.a-z]*: segments are written as csv; expected .* \.csv or \.csv\.gz"):
            run("subset", path, "-o", tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "a.csv.gz", "some.csv"]


def test_options_that_would_do_nothing_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--quality: nothing is chosen by it; expected --min-quality"):
        run("subset", path, "-o", tmp_path / "a.csv", "--quality", "qa.csv")
    with pytest.raises(OptionError, match=r"--rerated-ids: nothing is chosen by it; expected --rerated"):
        run("subset", path, "-o", tmp_path / "a.csv", "--rerated-ids", "ids.txt")


@pytest.mark.parametrize(
    "option", [("--min-quality", "2"), ("--min-duration", "-1"), ("--per-class", "0"), ("--seed", "-1")]
)
def test_ranges_are_checked_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, str]
) -> None:
    monkeypatch.setattr("audioset.dataset.fetch.fetch", lambda *_, **__: pytest.fail("fetched"))
    result = CliRunner().invoke(app, ["dataset", "subset", "eval", "-o", str(tmp_path / "a.csv"), *option])
    assert result.exit_code == 2
    assert option[0] in result.stderr


def test_a_part_without_segments_is_warned_of(path: Path, tmp_path: Path) -> None:
    arguments = ["dataset", "subset", str(path), "-o", str(tmp_path / "a.csv"), "-c"]
    result = CliRunner().invoke(app, [*arguments, "Zither"])
    assert result.exit_code == 0
    assert "warning: no segment meets all conditions" in result.stderr
    assert "warning" not in CliRunner().invoke(app, [*arguments, "Dog", "--overwrite"]).stderr


def test_damage_is_named_and_nothing_written(path: Path, tmp_path: Path) -> None:
    path.write_text(ROWS + "eee, 0\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"some\.csv, line 5: 2 values where 4 belong"):
        run("subset", path, "-o", tmp_path / "part.csv")
    assert not (tmp_path / "part.csv").exists()
    with pytest.raises(DatasetError, match=r"some\.csv, line 5"):
        run("stats", path)


def test_defaults_are_those_of_the_library() -> None:
    def default(function: object, name: str) -> object:
        return inspect.signature(function).parameters[name].default  # type: ignore[arg-type]

    assert default(commands.stats, "top") == default(stats.SegmentStats.to_json, "top")
    assert default(commands.subset, "seed") == default(subset.sample_balanced, "seed")
    assert default(commands.subset, "descendants") == default(subset.select_classes, "descendants")
    assert default(commands.subset, "match").value == default(subset.select_classes, "match")  # type: ignore[attr-defined]
    assert default(commands.subset, "min_duration") == default(subset.select_duration, "min_s")
