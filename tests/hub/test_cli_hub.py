"""`audioset hub`, and names on the Hub in other commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import audioset
from audioset import hub as hugging
from audioset import weights
from audioset.cli import app
from audioset.errors import OptionError, OutputError

from ._server import Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def clip(tmp_path: Path, rng: np.random.Generator) -> Path:
    soundfile.write(tmp_path / "clip.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    return tmp_path / "clip.wav"


def test_push_prints_the_name_to_load_by(hub: Hub, pets: Path, clip: Path) -> None:
    pushed = run("hub", "push", pets, "owner/pets", "-m", "first", "--licence", "mit")
    repo = hub.repos["models/owner/pets"]
    name = f"hf://owner/pets@{repo.branches['main']}"
    assert pushed.stdout == f"{name}\n"
    assert pushed.stderr == f"→ {hub.url}/owner/pets\n"
    assert repo.messages[-1] == "first"
    assert repo.files["README.md"].decode() == hugging.card(pets, "owner/pets", licence="mit")

    models = (pets, "hf://owner/pets")
    here, there = (json.loads(run("tag", clip, "--model", model, "--format", "json").stdout) for model in models)
    assert there == here


def test_rows_say_which_commit_they_are_of(hub: Hub, tmp_path: Path, clip: Path) -> None:
    weights.save(weights.load("mini"), tmp_path / "better.safetensors")
    name = run("hub", "push", tmp_path / "better.safetensors", "owner/better").stdout.strip()
    run("embed", clip, "--model", "mini", "--weights", "hf://owner/better", "-o", tmp_path / "rows.parquet")
    assert audioset.read_embeddings(tmp_path / "rows.parquet").info.weights_name == name


def test_a_dry_run_shows_all_and_asks_nobody(hub: Hub, pets: Path, tmp_path: Path) -> None:
    shown = run("hub", "push", pets, "owner/pets", "--private", "--dry-run").stdout
    first, *sizes = shown.splitlines()[:4]
    assert first == "hf://owner/pets (model; if it is new: private)"
    assert [line.split("  ")[0] for line in sizes] == ["model.safetensors", "config.json", "README.md"]
    assert f"{pets.stat().st_size:,} bytes" in sizes[0]
    assert shown.endswith(hugging.card(pets, "owner/pets"))
    plain = json.loads(run("hub", "push", pets, "owner/pets", "--dry-run", "--json").stdout)
    assert plain["files"]["model.safetensors"] == pets.stat().st_size
    assert hub.requests == []


def test_an_edited_card_is_pushed_as_it_is(hub: Hub, pets: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(run("hub", "card", pets, "owner/pets").stdout + "\nÄnd more.\n", encoding="utf-8")
    pushed = json.loads(run("hub", "push", pets, "owner/pets", "--card", card, "--json").stdout)
    assert pushed["url"] == f"{hub.url}/owner/pets"
    assert hub.repos["models/owner/pets"].files["README.md"] == card.read_bytes()
    with pytest.raises(OptionError, match=r"card: is used as it is; expected neither licence"):
        run("hub", "push", pets, "owner/pets", "--card", card, "--licence", "mit")
    with pytest.raises(OptionError, match=r"card .*none.md: cannot be read"):
        run("hub", "push", pets, "owner/pets", "--card", tmp_path / "none.md")


def test_pull_copies_and_says_what_it_is(hub: Hub, rows: Path, tmp_path: Path) -> None:
    name = run("hub", "push", rows, "owner/rows").stdout.strip()
    out = tmp_path / "copy.parquet"
    pulled = run("hub", "pull", "datasets/owner/rows", "-o", out)
    assert pulled.stdout == f"{out}\n"
    assert pulled.stderr == f"{name}: embeddings, verified\n"
    assert out.read_bytes() == rows.read_bytes()
    with pytest.raises(OutputError, match=r"copy.parquet: exists already"):
        run("hub", "pull", "datasets/owner/rows", "-o", out)
    found = json.loads(run("hub", "pull", name, "--json").stdout)
    assert (found["name"], found["kind"]) == (name, "embeddings")
    assert Path(found["path"]).read_bytes() == rows.read_bytes()


def test_commands_name_what_is_not_there(hub: Hub, clip: Path) -> None:
    from audioset.errors import FetchError

    for arguments in (
        ("tag", clip, "--model", "hf://owner/none"),
        ("embed", clip, "--model", "mini", "--weights", "hf://owner/none", "-o", "rows.parquet"),
        ("evaluate", "hf://owner/none", "labelled/"),
        ("hub", "pull", "owner/none"),
    ):
        with pytest.raises(FetchError, match=r"hf://owner/none: no such model repository"):
            run(*arguments)
