from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from audioset import models, weights
from audioset.cli import models as cli
from audioset.errors import AudioSetError, OutputError, WeightsError
from audioset.models.spec import ModelSpec
from weights import _writers as write

runner = CliRunner()


@pytest.fixture
def tensors(tiny: ModelSpec) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in tiny.tensor_shapes.items()}


@pytest.fixture
def checkpoint(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    return write.write_v1(tmp_path / "tiny.ckpt", tensors)


@pytest.fixture
def in_cache(checkpoint: Path, isolated_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model's checkpoint, in the catalogue and put into the cache by hand."""
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    entry = {"name": "tiny", "model": "tiny", "url": "http://nowhere.invalid/tiny.ckpt", "sha256": sha256}
    (tmp_path / "catalogue.json").write_text(json.dumps([entry]))
    monkeypatch.setenv("AUDIOSET_CATALOGUE", str(tmp_path / "catalogue.json"))
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    return checkpoint.rename(isolated_cache / weights.catalogue()["tiny"].file_name)


def _run(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(cli.app, list(map(str, arguments)))
    if isinstance(result.exception, AudioSetError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_list_shows_every_entry_and_what_is_present(in_cache: Path) -> None:
    status, out, err = _run("list")
    assert (status, err) == (0, "")
    header, *rows = (line.split() for line in out.splitlines())
    assert header[:2] == ["NAME", "MODEL"]
    assert [row[0] for row in rows][: len(weights.catalogue())] == list(weights.catalogue())
    of = {row[0]: row for row in rows}
    assert of["tiny"][-1] == "yes"
    assert of["vggish"][-1] == "no"
    assert of["vggish"][2:] == ["16", "kHz", "0.96", "s", "128", "-", "288.6", "MB", "Apache-2.0", "no"]


def test_list_as_json_has_all_that_is_known(in_cache: Path) -> None:
    status, out, _ = _run("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert rows["tiny"]["present"] is True
    assert rows["tiny"]["path"] == str(in_cache)
    assert rows["vggish"]["sample_rate_hz"] == 16_000
    assert rows["vggish"]["embedding_dim"] == models.get("vggish").embedding_dim
    assert rows["vggish"]["citation"] == models.get("vggish").citation
    assert rows["vggish-pca"]["kind"] == "pca"


def test_a_model_whose_weights_are_nowhere_is_listed_as_absent(tiny: ModelSpec) -> None:
    status, out, _ = _run("list", "--json")
    row = next(row for row in json.loads(out) if row["name"] == "tiny")
    assert (status, row["present"], row["embedding_dim"]) == (0, False, tiny.embedding_dim)


def test_a_damaged_file_is_listed_as_absent(in_cache: Path) -> None:
    in_cache.write_bytes(in_cache.read_bytes()[:-1])
    rows = {row["name"]: row for row in json.loads(_run("list", "--json")[1])}
    assert rows["tiny"]["present"] is False


def test_weights_that_come_with_the_package_are_listed_with_their_size() -> None:
    file = models.built_in("mini")
    assert file is not None
    row = next(row for row in json.loads(_run("list", "--json")[1]) if row["name"] == "mini")
    assert (row["present"], row["path"], row["size_bytes"]) == (True, str(file), file.stat().st_size)
    cells = next(line.split() for line in _run("list")[1].splitlines() if line.startswith("mini"))
    assert cells[-3] in ("kB", "MB")
    assert cells[-2:] == ["Apache-2.0", "yes"]


def test_weights_that_come_with_the_package_need_no_fetching() -> None:
    assert _run("path", "mini") == (0, f"{models.built_in('mini')}\n", "")
    status, out, err = _run("fetch", "mini")
    assert (status, out) == (0, f"{models.built_in('mini')}\n")
    assert err == "mini: comes with the package, nothing to fetch\n"


def test_weights_that_come_with_the_package_are_verified_by_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = models.built_in("mini")
    assert file is not None
    assert _run("verify", "mini") == (0, f"ok   mini  {file}\n", "")
    damaged = tmp_path / "mini.safetensors"
    damaged.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr(models, "built_in", lambda _: damaged)
    status, out, _ = _run("verify", "mini")
    assert status == 1
    assert out.startswith(f"BAD  mini  {damaged}: ")
    assert "expected a whole safetensors file" in out


@pytest.mark.parametrize("name", ["x" * 300, "a/b", ".", ""])
@pytest.mark.parametrize("command", ["fetch", "path", "verify"])
def test_a_name_of_nothing_is_refused(command: str, name: str) -> None:
    with pytest.raises(WeightsError, match="not in the catalogue; expected one of"):
        _run(command, name)


def test_fetch_makes_weights_ready(in_cache: Path, isolated_cache: Path) -> None:
    status, out, err = _run("fetch", "tiny")
    assert status == 0
    assert out == f"{in_cache}\n"
    assert "tiny: verified and ready, content sha256 " in err
    assert len(list((isolated_cache / "converted").glob("tiny-*.safetensors"))) == 1


def test_fetch_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    status, out, err = _run("fetch", "vggish-pca")
    assert (status, out) == (1, "")
    assert err.startswith("audioset: vggish-pca: not in the cache")
    assert "To fetch it by hand" in err


def test_fetch_goes_on_after_a_failure(in_cache: Path) -> None:
    status, out, err = _run("fetch", "vggish-pca", "tiny")
    assert (status, out) == (1, f"{in_cache}\n")
    assert "vggish-pca: not in the cache" in err
    assert "tiny: verified and ready" in err


def test_fetch_refuses_unknown_names() -> None:
    with pytest.raises(WeightsError, match="vgish: not in the catalogue"):
        _run("fetch", "vgish")


def test_path_prints_where_a_file_is(in_cache: Path) -> None:
    assert _run("path", "tiny") == (0, f"{in_cache}\n", "")


def test_path_of_what_is_absent_says_how_to_get_it() -> None:
    with pytest.raises(WeightsError, match=r"vggish-pca: not in .*Run `audioset models fetch vggish-pca`"):
        _run("path", "vggish-pca")


def test_convert_writes_a_file_that_loads(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    status, printed, err = _run("convert", checkpoint, "-o", out, "--model", "tiny")
    assert (status, printed) == (0, "")
    found = weights.load("tiny", out)
    assert f"{len(found.tensors)} tensors of tiny from tensorflow-v1, content sha256 {found.sha256}" in err


def test_convert_keeps_finished_output_unless_told(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    arguments = ("convert", checkpoint, "--out", out, "-m", "tiny")
    assert _run(*arguments)[0] == 0
    with pytest.raises(OutputError, match="exists already"):
        _run(*arguments)
    assert _run(*arguments, "--overwrite")[0] == 0


def test_convert_writes_random_weights_of_a_seed(tiny: ModelSpec, tmp_path: Path) -> None:
    out = tmp_path / "seed7.safetensors"
    status, _, err = _run("convert", "untrained:7", "-o", out, "--model", "tiny")
    assert status == 0
    assert f"{len(tiny.tensor_shapes)} tensors of tiny from untrained, content sha256" in err
    with pytest.warns(weights.UntrainedWeightsWarning, match=r"random weights \(untrained:7\)"):
        found = weights.load("tiny", out)
    with pytest.warns(weights.UntrainedWeightsWarning, match="untrained:7"):
        assert found.sha256 == weights.load("tiny", "untrained:7").sha256


def test_convert_refuses_a_seed_that_is_none(tiny: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'untrained:x': no seed; expected untrained:SEED"):
        _run("convert", "untrained:x", "-o", tmp_path / "out.safetensors", "--model", "tiny")
    assert not (tmp_path / "out.safetensors").exists()


def test_convert_refuses_to_replace_its_source(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "link.ckpt").symlink_to(checkpoint)
    before = checkpoint.read_bytes()
    for out in (checkpoint, tmp_path / "link.ckpt"):
        with pytest.raises(OutputError, match=r"\.ckpt: is the source itself; expected another file"):
            _run("convert", checkpoint, "-o", out, "-m", "tiny", "--overwrite")
    assert checkpoint.read_bytes() == before


def test_convert_without_output_is_wrong_usage(checkpoint: Path) -> None:
    assert _run("convert", checkpoint)[0] == 2


def test_verify_reports_each_file(in_cache: Path) -> None:
    _run("fetch", "tiny")
    status, out, _ = _run("verify")
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()] == [["ok", "tiny"], ["ok", "tiny"]]


def test_verify_fails_on_damage(in_cache: Path) -> None:
    in_cache.write_bytes(in_cache.read_bytes()[:-1])
    status, out, _ = _run("verify", "tiny")
    assert status == 1
    assert out.startswith(f"BAD  tiny  {in_cache}: sha256 ")


def test_verify_of_an_empty_cache_says_so(isolated_cache: Path) -> None:
    status, out, err = _run("verify")
    assert (status, out) == (0, "")
    assert f"{isolated_cache}: nothing there to verify" in err


@pytest.mark.parametrize("command", [(), ("list",), ("fetch",), ("convert",), ("path",), ("verify",)])
def test_help_teaches_by_example(command: tuple[str, ...]) -> None:
    status, out, _ = _run(*command, "--help")
    assert status == 0
    assert f"audioset models {' '.join(command)}".strip() in out.replace("\n", " ")


def test_a_download_has_a_bar_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with cli.downloading("vggish") as progress:
        assert progress is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with cli.downloading("vggish") as progress:
        assert progress is not None
        progress(500_000, 1_000_000)
    assert "vggish" in capsys.readouterr().err
