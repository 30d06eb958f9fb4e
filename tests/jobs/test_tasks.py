"""How items become tasks."""

from __future__ import annotations

import numpy as np
import pytest

from audioset.jobs import Item, Items, Task, TaskSize, divide, from_names
from audioset.jobs.tasks import TASK_BYTES, TASK_ITEMS, size_for, tasks_of


def items_of(*sizes: int | None) -> Items:
    names = [f"s3://bucket/{number}.wav" for number in range(len(sizes))]
    return from_names(names, {name: size for name, size in zip(names, sizes, strict=True) if size is not None})


def test_tasks_are_cut_by_bytes() -> None:
    numbers = divide(items_of(*[10] * 10), TaskSize(bytes=30, items=100))
    assert numbers.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_tasks_are_cut_by_items() -> None:
    numbers = divide(items_of(*[1] * 10), TaskSize(bytes=1000, items=4))
    assert numbers.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_large_file_is_a_task_of_its_own() -> None:
    assert divide(items_of(10, 1000, 10), TaskSize(bytes=30, items=100)).tolist() == [0, 1, 2]


def test_numbers_are_consecutive(rng: np.random.Generator) -> None:
    sizes = (rng.pareto(1.0, 1000) * 1e6).astype(int).tolist()
    numbers = divide(items_of(*sizes, *[None] * 100), TaskSize(bytes=10_000_000, items=64))
    assert numbers[0] == 0
    assert set(np.diff(numbers)) <= {0, 1}
    assert np.bincount(numbers).max() <= 65


def test_no_items_are_no_tasks() -> None:
    assert divide(items_of(), TaskSize()).tolist() == []


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_are_disjoint_and_complete(shards: int) -> None:
    items = items_of(*[10] * 40)
    numbers = divide(items, TaskSize(bytes=30, items=100))
    wanted = np.ones(len(items), bool)
    tasks = [task for index in range(shards) for task in tasks_of(items, numbers, wanted, shard=(index + 1, shards))]
    assert sorted(item.file for task in tasks for item in task.items) == sorted(item.file for item in items)
    assert len({task.index for task in tasks}) == len(tasks) == 14


def test_what_is_done_is_left_out_of_tasks() -> None:
    items = items_of(*[10] * 6)
    wanted = np.array([True, False, True, False, False, False])
    (task,) = tasks_of(items, divide(items, TaskSize(bytes=30, items=100)), wanted)
    assert [item.file for item in task.items] == ["s3://bucket/0.wav", "s3://bucket/2.wav"]


def test_name_goes_by_the_work() -> None:
    task = Task(3, (Item("a.wav"), Item("b.wav")))
    assert task.name == Task(3, (Item("a.wav"), Item("b.wav"))).name
    assert task.name.startswith("part-000003-")
    others = [
        Task(3, (Item("a.wav"),)),
        Task(3, (Item("b.wav"), Item("a.wav"))),
        Task(3, task.items, attempt=1),
        Task(3, task.items, skip=frozenset({"a.wav::x"})),
    ]
    assert len({task.name, *(other.name for other in others)}) == 5


def test_few_items_still_keep_all_workers_busy() -> None:
    items = items_of(*[1_000_000] * 100)
    numbers = divide(items, size_for(items, workers=10))
    assert 36 <= numbers[-1] + 1 <= 100


def test_many_items_make_tasks_of_the_usual_size() -> None:
    size = size_for(items_of(*[1_000_000] * 10_000), workers=4)
    assert size == TaskSize(TASK_BYTES, TASK_ITEMS)
