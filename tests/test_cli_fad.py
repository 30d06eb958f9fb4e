"""`audioset fad`, as users run it."""

from __future__ import annotations

import csv
import inspect
import io
import json
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from rich.progress import Progress
from rich.text import Text
from typer.testing import CliRunner, Result

import audioset
from audioset import fad
from audioset.cli import fad as command
from audioset.records import JobWriter

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("tiny"),
]

WEIGHTS = ["-m", "tiny", "-w", "untrained:0"]


@cache
def recordings(seed: int, count: int, level: float) -> list[bytes]:
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        soundfile.write(file := io.BytesIO(), level * rng.standard_normal(16_000 * 4), 16_000, format="wav")
        files.append(file.getvalue())
    return files


def noise(folder: Path, seed: int, count: int, level: float = 0.1) -> Path:
    folder.mkdir()
    for number, content in enumerate(recordings(seed, count, level)):
        (folder / f"{number}.wav").write_bytes(content)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noise(tmp_path / "ref", 0, 6)
    noise(tmp_path / "gen", 1, 5, 0.01)
    return tmp_path


ALONE = typer.Typer()  # sooner made than the whole command
ALONE.command()(command.fad)


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(ALONE, [*map(str, arguments)])
    if status == 0 and result.exception:
        raise result.exception
    if isinstance(result.exception, audioset.AudioSetError):  # what `main` makes a message and a status of
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def columns(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def embedded(folder: Path) -> fad.Statistics:
    model = audioset.load("tiny", "untrained:0")
    return fad.statistics_of(np.concatenate([model.embed(path).values for path in sorted(folder.iterdir())]))


@pytest.mark.filterwarnings("ignore::audioset.fad.SmallSampleWarning")
def test_folders_are_measured(here: Path) -> None:
    result = run("ref", "gen", "ref", *WEIGHTS)
    heading, gen, ref = columns(result)
    assert heading == ["EVAL", "FAD", "EXAMPLES", "FILES"]
    expected = fad.frechet_distance(embedded(here / "ref"), embedded(here / "gen"))
    assert (gen[0], float(gen[1])) == ("gen", pytest.approx(expected, rel=1e-5))
    assert gen[2:] == ["20", "5"]
    assert float(ref[1]) < 1e-9
    assert "reference: ref, 24 examples of 6 files" in result.stderr
    assert "embedder: tiny (weights untrained:0, sha256 " in result.stderr
    assert "raw values, hop 0.96 s, fp32" in result.stderr
    assert "warning: gen: 20 examples; the distance comes out too large. Expected 160" in result.stderr


def test_defaults_are_those_of_the_library() -> None:
    parameters = inspect.signature(command.fad).parameters
    for name in ("seed", "replacement"):
        assert parameters[name].default == inspect.signature(fad.fad_infinity).parameters[name].default
    assert parameters["min_examples"].default == inspect.signature(fad.per_file).parameters["min_examples"].default
    library = inspect.signature(audioset.load).parameters
    for name, of_library in (
        ("model", "model"),
        ("weights", "weights"),
        ("threads", "threads"),
        ("batch", "batch_size"),
    ):
        assert parameters[name].default == library[of_library].default


def test_a_second_run_embeds_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("ref", "gen", *WEIGHTS)

    def embedding(*_: object, **__: object) -> None:
        raise AssertionError("the network is loaded")

    monkeypatch.setattr("audioset.embed.Model", embedding)
    again = run("ref", "gen/*.wav", *WEIGHTS)
    assert columns(again)[1][1:] == columns(first)[1][1:]
    assert "6 from the cache" in again.stderr


def test_json_has_everything(here: Path) -> None:
    (here / "gen" / "bad.wav").write_text("hello")
    result = run("ref", "gen", *WEIGHTS, "--json", "--per-file", "--min-examples", 4, status=1)
    found = json.loads(result.stdout)
    assert found["reference"] == {"source": "ref", "examples": 24, "files": 6, "from_cache": 0}
    (one,) = found["evaluated"]
    assert (one["source"], one["examples"], one["files"], one["infinity"]) == ("gen", 20, 5, None)
    assert {Path(of["file"]).name for of in one["per_file"]} == {f"{n}.wav" for n in range(5)}
    assert all(of["distance"] > 0 for of in one["per_file"])
    assert found["embedder"]["model"] == "tiny"
    assert len(found["warnings"]) == 2
    assert [failure["file"] for failure in found["failures"]] == ["gen/bad.wav"]
    assert "failed: gen/bad.wav" in result.stderr


def test_files_are_listed_the_farthest_first(here: Path) -> None:
    soundfile.write(here / "gen" / "long.wav", np.random.default_rng(3).standard_normal(16_000 * 12), 16_000)
    result = run("ref", "gen", *WEIGHTS, "--per-file")
    listed = columns(result)[3:]
    assert listed[0] == ["FILE", "FAD", "EXAMPLES"]
    assert (listed[1][0], listed[1][2]) == ("gen/long.wav", "12")
    assert float(listed[1][1]) > 0
    assert [line[1:] for line in listed[2:]] == [["too", "few", "4"]] * 5


def test_files_go_to_a_table(here: Path) -> None:
    run("ref", "gen", "ref", *WEIGHTS, "--per-file", "--min-examples", 2, "-o", "files.csv")
    with (here / "files.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["eval"] for row in rows] == ["gen"] * 5 + ["ref"] * 6
    distances = [float(row["fad"]) for row in rows[:5]]
    assert distances == sorted(distances, reverse=True)
    with pytest.raises(audioset.errors.OutputError, match=r"files.csv: exists"):
        run("ref", "gen", *WEIGHTS, "--per-file", "-o", "files.csv")
    run("ref", "gen", *WEIGHTS, "--per-file", "-o", "files.csv", "--overwrite")


def test_statistics_stand_for_the_reference(here: Path) -> None:
    first = run("ref", "gen", *WEIGHTS)
    alone = run("ref", "--stats", "ref.npz", *WEIGHTS)
    assert alone.stdout == ""
    assert "→ ref.npz" in alone.stderr
    again = run("ref.npz", "gen", *WEIGHTS)
    assert columns(again) == columns(first)
    with pytest.raises(audioset.errors.OutputError, match=r"ref.npz: exists"):
        run("ref", "--stats", "ref.npz", *WEIGHTS)


def test_embeddings_of_any_kind_are_measured(here: Path, rng: np.random.Generator) -> None:
    reference, other = rng.standard_normal((400, 16)), rng.standard_normal((300, 16)) + 1
    np.save("ref.npy", reference)
    for number, part in enumerate(np.array_split(other, 3)):
        np.save(f"gen{number}.npy", part)
    np.savez("theirs.npz", mean=other.mean(axis=0), cov=np.cov(other.T))
    expected = fad.frechet_distance(fad.statistics_of(reference), fad.statistics_of(other))
    result = run("ref.npy", "gen?.npy", "theirs.npz")
    _, joined, theirs = columns(result)
    assert float(joined[1]) == float(theirs[1]) == pytest.approx(expected, rel=1e-5)
    assert (joined[2:], theirs[2:]) == (["300", "3"], ["-", "-"])
    assert "embedder: unknown" in result.stderr
    assert "theirs.npz: does not say of how many examples" in result.stderr


def test_a_side_of_unknown_origin_is_said(here: Path, rng: np.random.Generator) -> None:
    np.save("ref.npy", rng.standard_normal((400, 16)))
    assert "ref.npy: does not say which model made it" in run("ref.npy", "gen", *WEIGHTS).stderr


def test_infinity_is_extrapolated(here: Path, rng: np.random.Generator) -> None:
    reference, other = rng.standard_normal((1000, 16)), rng.standard_normal((300, 16))
    np.save("ref.npy", reference)
    np.save("gen.npy", other)
    shown = run("ref.npy", "gen.npy", "--infinity", "--seed", 3)
    expected = fad.fad_infinity(fad.statistics_of(reference), other, seed=3)
    assert columns(shown)[0] == ["EVAL", "FAD", "FAD∞", "R²", "EXAMPLES", "FILES"]
    assert float(columns(shown)[1][2]) == pytest.approx(expected.value, rel=1e-5)
    found = json.loads(run("ref.npy", "gen.npy", "--infinity", "--seed", 3, "--json").stdout)
    assert found["evaluated"][0]["infinity"]["distances"] == pytest.approx(expected.distances)


def test_samples_can_be_drawn_as_fadtk_does(here: Path, rng: np.random.Generator) -> None:
    reference, other = rng.standard_normal((1000, 16)), rng.standard_normal((700, 16))
    np.save("ref.npy", reference)
    np.save("gen.npy", other)
    arguments = ["ref.npy", "gen.npy", "--infinity", "--seed", 3]
    assert "FAD∞: samples drawn without replacement; seed 3" in run(*arguments).stderr
    shown = run(*arguments, "--replacement")
    assert "FAD∞: samples drawn with replacement, as fadtk; seed 3" in shown.stderr
    expected = fad.fad_infinity(fad.statistics_of(reference), other, seed=3, replacement=True)
    assert float(columns(shown)[1][2]) == pytest.approx(expected.value, rel=1e-5)
    found = [json.loads(run(*arguments, *more, "--json").stdout) for more in ([], ["--replacement"])]
    assert [one["evaluated"][0]["infinity"]["replacement"] for one in found] == [False, True]


def test_too_few_to_extrapolate_fail_alone(here: Path, rng: np.random.Generator) -> None:
    for name, count in (("ref", 1000), ("few", 40), ("gen", 300)):
        np.save(f"{name}.npy", rng.standard_normal((count, 16)))
    result = run("ref.npy", "few.npy", "gen.npy", "--infinity", status=1)
    _, few, gen = columns(result)
    assert (few[0], few[2:4]) == ("few.npy", ["-", "-"])
    assert float(gen[3]) > 0.5
    assert "failed: few.npy: 40 examples of 16 values; expected 64 or more" in result.stderr


def test_embedders_that_differ_are_refused_before_anything_is_embedded(here: Path) -> None:
    info = fad.embed_files(audioset.load("tiny", "untrained:0"), "ref", hop_s=0.5).source.info
    assert info is not None
    with JobWriter(here / "ref.parquet", info, format="parquet") as writer:
        writer.append("a.wav", np.arange(3.0), np.arange(3.0) + 1, np.eye(3, 16, dtype=np.float32), last=True)
        writer.finish()
    with pytest.raises(audioset.errors.OptionError, match=r"ref.parquet and gen: .*hop_s 0.5 and 0.96"):
        run("ref.parquet", "gen", *WEIGHTS, "--cache", "kept")
    assert not (here / "kept").exists()
    assert columns(run("ref.parquet", "gen", "--hop", 0.5, *WEIGHTS))[1][0] == "gen"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "REFERENCE: missing"),
        (["ref"], "EVAL: missing"),
        (["ref", "gen", "-o", "a.csv"], "--out: .*--per-file"),
        (["ref", "--stats", "a.npz", "--infinity"], "expected EVAL"),
        (["ref", "gen", "--cache", "a", "--no-cache"], "exclude each other"),
        (["ref", "gen", "--min-examples", "1"], "--min-examples: 1"),
        (["ref", "-"], "-: standard input"),
        (["ref", "gen", "--infinity", "--seed", "-1"], "--seed: -1"),
        (["ref", "s3://bucket/gen.npz"], "s3://bucket/gen.npz: embeddings or statistics behind a URL"),
        (["few.npy", "gen", "--stats", "few.npy", "--overwrite"], "--stats few.npy: one of the inputs"),
        (["ref", "gen", "--per-file", "-o", "gen/0.wav", "--overwrite"], "--out gen/0.wav: one of the inputs"),
        (["ref", "gen", "--replacement"], "--replacement: .*--infinity"),
        (["ref", "few.npy", "--cache", "kept"], "few.npy: 3 dimensions, ref has 16"),
        (["ref", "--clear-cache"], "--clear-cache: is a run of its own"),
        (["ref", "ref.npz", "--per-file"], "ref.npz: statistics, for --infinity and --per-file"),
    ],
)
def test_wrong_usage_is_named(here: Path, arguments: list[str], message: str) -> None:
    fad.statistics_of(np.eye(16)).save("ref.npz")
    np.save("few.npy", np.eye(3))
    with pytest.raises(audioset.errors.OptionError, match=message):
        run(*arguments, *WEIGHTS)
    assert not (here / "kept").exists()


def test_names_without_files_are_named(here: Path) -> None:
    result = run("ref", "none/*.wav", *WEIGHTS, "--cache", "kept", status=1)
    assert "failed: none/*.wav: no file matches this pattern" in result.stderr
    assert not (here / "kept").exists()  # nothing is embedded in vain
    with pytest.raises(audioset.errors.AudioError, match="no file matches this pattern"):
        run("none/*.wav", "ref", *WEIGHTS)


def test_what_cannot_be_read_stops_no_other(here: Path) -> None:
    (here / "silent").mkdir()
    (here / "silent" / "bad.wav").write_text("hello")
    (here / "cut.npz").write_bytes(b"PK\3\4 and no more")
    np.save("one.npy", np.ones((1, 16)))
    arguments = ["ref", "silent", "cut.npz", "none/*.wav", "one.npy", "gen", *WEIGHTS]
    result = run(*arguments, "--per-file", "-o", "files.csv", status=1)
    assert [line[0] for line in columns(result)] == ["EVAL", "gen"]
    for failed in (
        "silent: no recording could be read (silent/bad.wav",
        "cut.npz: cannot be read",
        "none/*.wav: no file matches",
        "one.npy: 1 example; expected at least 2",
    ):
        assert f"failed: {failed}" in result.stderr
    assert "→ files.csv" in result.stderr
    found = json.loads(run(*arguments, "--json", status=1).stdout)
    assert {failure["file"] for failure in found["failures"]} == {"silent", "cut.npz", "none/*.wav", "one.npy"}
    assert [one["source"] for one in found["evaluated"]] == ["gen"]


def test_a_side_that_is_given_twice_fails_once(here: Path) -> None:
    (here / "ref" / "bad.wav").write_text("hello")
    assert run("ref", "ref", *WEIGHTS, status=1).stderr.count("failed: ") == 1


def test_archives_stand_for_their_recordings(here: Path) -> None:
    folder = columns(run("ref", "gen", *WEIGHTS))[1]
    with zipfile.ZipFile("gen.zip", "w") as archive:
        archive.writestr("features.npy", b"no sound")
        for path in sorted((here / "gen").iterdir()):
            archive.write(path, f"gen/{path.name}")
    packed = run("ref", "gen.zip", "gen.zip::gen/0.wav", "--per-file", "--min-examples", 2, *WEIGHTS)
    whole, member = columns(packed)[1:3]
    assert whole == ["gen.zip", *folder[1:]]
    assert member[2:] == ["4", "1"]
    assert "gen.zip::gen/3.wav" in packed.stdout
    found = json.loads(run("ref", "gen.zip", "--json", *WEIGHTS).stdout)
    assert found["evaluated"][0]["from_cache"] == 5


def test_patterns_are_no_markup(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Progress()
    monkeypatch.setattr(command, "progress_on", lambda _: shown)
    run("ref", "gen/[01]*.wav", "gen/[a-z2]*.wav", *WEIGHTS)
    titles = [Text.from_markup(task.description).plain for task in shown.tasks]
    assert titles == ["ref", "gen/[01]*.wav", "gen/[a-z2]*.wav"]


def test_no_table_is_left_where_nothing_was_measured(here: Path) -> None:
    np.save("one.npy", np.ones((1, 16)))
    result = run("ref", "one.npy", *WEIGHTS, "--per-file", "-o", "files.csv", status=1)
    assert "files.csv" not in result.stderr
    assert not (here / "files.csv").exists()


def test_a_reference_that_is_no_covariance_is_refused_before_anything_is_embedded(here: Path) -> None:
    np.savez("ref.npz", mu=np.zeros(16), sigma=np.diag([1.0] * 15 + [-1e-3]))
    with pytest.raises(audioset.errors.RecordError, match=r"ref.npz: its covariance has an eigenvalue of -0.001"):
        run("ref.npz", "gen", *WEIGHTS, "--cache", "kept")
    assert not (here / "kept").exists()


def test_a_reference_of_float32_is_said_once(here: Path, rng: np.random.Generator) -> None:
    np.savez("ref.npz", mu=np.zeros(16), sigma=np.diag([1.0] * 15 + [-1e-8]))
    np.save("gen.npy", rng.standard_normal((200, 16)))
    with pytest.warns(UserWarning, match="arithmetic in float32") as said:
        run("ref.npz", "gen.npy", "gen.npy", "--infinity", "--per-file")
    assert len(said) == 1


def test_what_was_just_embedded_is_not_from_the_cache(here: Path) -> None:
    first = run("ref", "ref", *WEIGHTS).stderr
    assert "from the cache" not in first
    assert first.count("warning: ref: 24 examples") == 1
    assert "6 from the cache" in run("ref", "ref", *WEIGHTS).stderr


def test_nothing_need_be_kept(here: Path, isolated_cache: Path) -> None:
    run("ref", "gen", "--no-cache", *WEIGHTS)
    assert not (isolated_cache / "fad").exists()


def test_the_cache_can_be_elsewhere_and_cleared(here: Path, isolated_cache: Path) -> None:
    run("ref", "gen", "--cache", "kept", *WEIGHTS)
    assert not (isolated_cache / "fad").exists()
    result = run("--clear-cache", "--cache", "kept")
    assert "2 files, 0.0 MB removed from kept" in result.stderr
    assert list((here / "kept").iterdir()) == []


def test_an_interruption_keeps_what_is_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audioset.embed import Model

    whole = Model.embed_blocks

    def stopped(self: Model, sources: object, options: object) -> object:
        for count, block in enumerate(whole(self, sources, options)):  # type: ignore[arg-type]
            if count == 3:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(Model, "embed_blocks", stopped)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the runner goes on
    assert "the same command goes on" in run("ref", "gen", *WEIGHTS, status=130).stderr
    monkeypatch.setattr(Model, "embed_blocks", whole)
    assert columns(run("ref", "gen", *WEIGHTS))[1][0] == "gen"


@pytest.mark.slow
def test_real_sounds_are_nearer_to_their_own_kind(data_dir: Path) -> None:
    """Rain is nearer to rain than barking is, through a real network."""
    folder = data_dir / "esc10"
    found = run(folder / "rain/1-*.ogg", folder / "rain/2-*.ogg", folder / "dog_bark/1-*.ogg", "-m", "mini", "--json")
    rain, dog = (one["fad"] for one in json.loads(found.stdout)["evaluated"])
    assert 0 < rain < dog
