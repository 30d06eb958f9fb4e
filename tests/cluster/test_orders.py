"""What travels to the processes of a pool, without Ray."""

from __future__ import annotations

import pickle
import re
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audioset import EmbedOptions, jobs, models, weights
from audioset.cluster.orders import Order, Shipped, fitted, from_table, to_table
from audioset.cluster.running import check_concurrency
from audioset.cluster.session import connect
from audioset.cluster.workers import result_of
from audioset.errors import MissingExtraError, OptionError, OutputError
from audioset.jobs import Item, Recipe, Task
from audioset.models import own
from audioset.models.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")

SOUND = np.sin(np.arange(32_000) / 7).astype(np.float32)


def test_task_comes_back_from_its_table() -> None:
    items = (Item("a.wav"), Item("b.wav", 0.5, None), Item("c.tar", None, None, "number three"))
    task = Task(7, items, 2, frozenset({"c.tar::x.wav", "c.tar::caf\udce9.wav"}))
    (back,) = from_table(to_table(task))
    assert back == task
    assert back.name == task.name


def test_process_has_a_thread_for_each_core_unless_told() -> None:
    assert fitted(Recipe(), 4, 0).threads == 4
    assert fitted(Recipe(), 0.5, 0).threads == 1
    assert fitted(Recipe(threads=3), 1, 0).threads == 3


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_process_with_a_card_uses_the_one_that_ray_gives_it(device: str) -> None:
    assert fitted(Recipe(device=device), 1, 0.5).device == "cuda"


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match="num_gpus: 0 with device cuda"):
        fitted(Recipe(device="cuda"), 1, 0)
    with pytest.raises(OptionError, match="num_cpus, num_gpus: -1, 0 are out of range"):
        fitted(Recipe(), -1, 0)
    with pytest.raises(OptionError, match="num_cpus, num_gpus: 0, 0"):
        fitted(Recipe(), 0, 0)
    for wrong in (0, (0, 2), (3, 2)):
        with pytest.raises(OptionError, match=r"concurrency: .* out of range"):
            check_concurrency(wrong)


def test_weights_in_a_file_travel(tmp_path: Path, tiny: ModelSpec) -> None:
    path = tmp_path / "mine.safetensors"
    weights.save(weights.load("tiny", "untrained:3"), path)
    recipe = Recipe("tiny", str(path), threads=1)
    here = recipe.load()
    shipped = pickle.loads(pickle.dumps(Shipped.of(recipe)))  # noqa: S301
    path.unlink()
    there = shipped.load(recipe)
    np.testing.assert_array_equal(there.embed(SOUND, 16_000).values, here.embed(SOUND, 16_000).values)
    assert jobs.describe_model(there, EmbedOptions()) == jobs.describe_model(here, EmbedOptions())


def test_model_of_ones_own_travels(tmp_path: Path, tiny: ModelSpec) -> None:
    tensors = dict(weights.load("tiny", "untrained:3").tensors)
    tensors |= {"head/weights": np.ones((16, 2), np.float32), "head/biases": np.zeros(2, np.float32)}
    classes = models.own.ClassList(("a", "b"), ("a", "b"))
    path = tmp_path / "mine.safetensors"
    own.save(own.OwnModel("tiny", classes, "softmax"), tensors, path)
    recipe = Recipe(str(path), threads=1)
    here = recipe.load()
    shipped = pickle.loads(pickle.dumps(Shipped.of(recipe)))  # noqa: S301
    path.unlink()
    there = shipped.load(recipe)
    assert jobs.describe_model(there, EmbedOptions()) == jobs.describe_model(here, EmbedOptions())
    np.testing.assert_array_equal(there.embed(SOUND, 16_000).values, here.embed(SOUND, 16_000).values)


def test_pca_in_a_file_travels_where_it_is_used(tmp_path: Path, tiny: ModelSpec) -> None:
    path = tmp_path / "pca.npz"
    np.savez(path, pca_eigen_vectors=np.eye(128), pca_means=np.zeros(128))
    recipe = Recipe("tiny", "untrained:0", EmbedOptions(postprocess="pca"), pca=str(path))
    shipped = Shipped.of(recipe)
    path.unlink()
    np.testing.assert_array_equal(shipped.load(recipe).pca.means, np.zeros(128))
    assert not Shipped.of(replace(recipe, options=EmbedOptions()))


@pytest.mark.parametrize("name", [None, "untrained:0", "vggish"])
def test_weights_that_every_machine_knows_stay(name: str | None) -> None:
    assert not Shipped.of(Recipe("vggish", name))


def test_process_that_would_give_other_values_is_refused(tiny: ModelSpec) -> None:
    info = jobs.describe_model(Recipe("tiny", "untrained:0").load(), EmbedOptions())
    other = jobs.describe_model(Recipe("tiny", "untrained:1").load(), EmbedOptions())
    order = Order(Recipe("tiny", "untrained:0"), info, False, "/")
    order.check(info, "node one")
    with pytest.raises(OptionError, match=r"node two: would give other values \(weights_name untrained:0 then"):
        order.check(other, "node two")
    with pytest.raises(OptionError, match=r"node two: has audioset .*, the job was begun with 0\.0\.1"):
        replace(order, version="0.0.1").check(info, "node two")


def test_error_of_a_process_is_raised_as_what_it_was() -> None:
    with pytest.raises(OutputError, match="disk full"):
        result_of({"name": None, "items": 0, "error": "OutputError", "said": "disk full"})


@pytest.mark.parametrize("address", ["", "nowhere", "http://host:80", "host:"])
def test_address_of_no_cluster_is_refused(address: str) -> None:
    with pytest.raises(OptionError, match="is none of a Ray cluster; expected local, auto"):
        connect(address or " ")


def test_address_of_ray_client_is_refused_with_the_way_that_there_is() -> None:
    with pytest.raises(OptionError, match=r"address: ray://host:10001 is Ray Client's.*`ray job submit`"):
        connect("ray://host:10001")


@pytest.mark.slow  # importing Ray takes two seconds
@pytest.mark.parametrize("address", ["127.0.0.1:{}", "[::1]:{}", "127.0.0.1:99999"])
def test_address_where_nothing_answers_is_named(address: str) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        where = address.format(taken.getsockname()[1])
        with pytest.raises(OptionError, match=rf"no Ray cluster at {re.escape(where)} \(.*expected one that answers"):
            connect(where)


def test_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"address local: Ray is not installed.*'ray\[data\]'"):
        connect("local")


@pytest.mark.slow
def test_ray_that_finds_no_folder_to_write_to_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/nowhere/ray")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(OptionError, match=r"cannot be started on this machine \(.*/nowhere/ray.*Set HOME or TMPDIR"):
        connect("local")
