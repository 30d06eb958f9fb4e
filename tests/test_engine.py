"""The engine with a network that is a sum: order, batching, faults, bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from audioset import engine, features

Float32Array = npt.NDArray[np.float32]


def network(examples: Float32Array) -> dict[str, Float32Array]:
    return {"embedding": examples.sum(axis=(1, 2))[:, np.newaxis]}


def waveform(seed: int, seconds: float) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(round(seconds * 16000)).astype(np.float32)


def opened(samples: Float32Array, chunk: int = 8000) -> engine.OpenWaveform:
    return lambda: (samples[at : at + chunk] for at in range(0, len(samples), chunk))


def run(waveforms: object, **options: object) -> Iterator[engine.Block]:
    settings = {"hop_s": 0.96, "pad": "short", "log_offset": 0.01, "threads": 2} | options
    return engine.run(waveforms, settings.pop("network", network), **settings)  # type: ignore[arg-type]


def collected(blocks: Iterator[engine.Block]) -> dict[int, Float32Array]:
    rows: dict[int, list[Float32Array]] = {}
    for block in blocks:
        if block.values:
            assert block.first == sum(map(len, rows.get(block.index, [])))
            rows.setdefault(block.index, []).append(block.values["embedding"])
    return {index: np.concatenate(parts) for index, parts in rows.items()}


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 32, 1000])
def test_results_equal_one_by_one_in_order(threads: int, batch_size: int) -> None:
    lengths = [0.3, 7.0, 2.0, 0.98, 40.0, 1.0, 0.0, 3.3]
    samples = [waveform(seed, seconds) for seed, seconds in enumerate(lengths)]
    blocks = list(run(map(opened, samples), threads=threads, batch_size=batch_size))
    assert [block.index for block in blocks] == sorted(block.index for block in blocks)
    assert [block.index for block in blocks if block.last] == list(range(len(lengths)))
    got = collected(iter(blocks))
    assert 6 not in got  # no samples, no examples
    for index, clip in enumerate(samples):
        if len(clip) < features.EXAMPLE_SAMPLES:
            clip = np.pad(clip, (0, features.EXAMPLE_SAMPLES - len(clip))) if len(clip) else clip
        if len(clip):
            np.testing.assert_array_equal(got[index], network(features.examples(clip))["embedding"])


def test_last_block_tells_length_and_padding() -> None:
    blocks = [block for block in run(map(opened, [waveform(0, 0.5), waveform(1, 2.5)])) if block.last]
    assert [(block.num_samples, block.padded_short) for block in blocks] == [(8000, True), (40_000, False)]


def test_batches_are_filled_across_files() -> None:
    sizes = []

    def counting(examples: Float32Array) -> dict[str, Float32Array]:
        sizes.append(len(examples))
        return network(examples)

    list(run(map(opened, [waveform(seed, 1.0) for seed in range(100)]), network=counting, threads=1, batch_size=16))
    assert sizes == [16] * 6 + [4]


def test_a_file_that_fails_does_not_stop_the_others() -> None:
    def failing_later() -> Iterator[Float32Array]:
        yield waveform(0, 3.0)
        raise ValueError("cut off")

    def failing_at_once() -> Iterator[Float32Array]:
        raise OSError("not there")

    clip = waveform(1, 2.0)
    blocks = list(run([opened(clip), failing_later, failing_at_once, opened(clip)]))
    errors = {block.index: str(block.error) for block in blocks if block.error is not None}
    assert errors == {1: "cut off", 2: "not there"}
    got = collected(iter(blocks))
    np.testing.assert_array_equal(got[0], got[3])
    assert [block.index for block in blocks if block.last] == [0, 1, 2, 3]


def test_a_fault_of_the_network_reaches_the_caller() -> None:
    def broken(examples: Float32Array) -> dict[str, Float32Array]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(run([opened(waveform(0, 3.0))], network=broken))


def test_a_fault_of_the_list_of_files_reaches_the_caller() -> None:
    def listing() -> Iterator[engine.OpenWaveform]:
        yield opened(waveform(0, 1.0))
        raise RuntimeError("listing broke")

    with pytest.raises(RuntimeError, match="listing broke"):
        list(run(listing()))


def test_a_slow_caller_bounds_what_is_decoded() -> None:
    decoded = 0

    def endless() -> Iterator[engine.OpenWaveform]:
        clip = waveform(0, 30.0)

        def counted() -> Iterator[Float32Array]:
            nonlocal decoded
            decoded += 1
            return opened(clip)()

        while True:
            yield counted

    blocks = run(endless())
    next(blocks)
    deadline = time.monotonic() + 20
    before = -1
    while decoded != before and time.monotonic() < deadline:  # until the workers rest
        before = decoded
        time.sleep(0.3)
    blocks.close()
    held = engine._MAX_BATCHES_HELD * 32 * (2 + 2)  # for the first file, and as many for all others
    assert decoded * 31 <= 2 * held + 3 * 32 + 31


def test_a_long_file_ahead_does_not_let_others_pile_up() -> None:
    opened_files = 0

    def counted() -> Iterator[Float32Array]:
        nonlocal opened_files
        opened_files += 1
        return opened(np.zeros(100, np.float32))()

    def clips() -> Iterator[engine.OpenWaveform]:
        yield opened(waveform(0, 200.0))
        for _ in range(5000):
            yield counted

    blocks = run(clips())
    for block in blocks:
        if block.last:
            break
    assert opened_files <= engine._MAX_WINDOW + 2 * 32
    blocks.close()


def test_closing_early_stops_the_workers_and_closes_files() -> None:
    closed = threading.Event()

    def long() -> Iterator[Float32Array]:
        try:
            while True:
                yield np.zeros(16000, np.float32)
        finally:
            closed.set()

    before = threading.active_count()
    blocks = run([long])
    next(blocks)
    blocks.close()
    assert threading.active_count() == before
    assert closed.is_set()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_input_that_is_late_does_not_delay_the_results_before_it(threads: int) -> None:
    taken = threading.Event()

    def source() -> Iterator[engine.OpenWaveform]:
        yield opened(waveform(0, 1.0))
        assert taken.wait(20), "the first result waits for the second input"
        yield opened(waveform(1, 1.0))

    indices = []
    for block in run(source(), threads=threads):
        indices.append(block.index)
        taken.set()
    assert indices == [0, 1]


def test_closing_does_not_wait_for_an_input_that_never_comes() -> None:
    never = threading.Event()

    def source() -> Iterator[engine.OpenWaveform]:
        yield opened(waveform(0, 1.0))
        never.wait(60)

    blocks = run(source())
    next(blocks)
    began = time.monotonic()
    blocks.close()
    assert time.monotonic() - began < 10
    never.set()


def test_stopping_does_not_wait_for_a_pipe_that_stays_silent() -> None:
    silent = threading.Event()

    def pipe() -> Iterator[Float32Array]:
        silent.wait(60)
        yield waveform(0, 1.0)

    blocks = run([opened(waveform(1, 3.0)), pipe])
    next(blocks)
    began = time.monotonic()
    blocks.close()
    assert time.monotonic() - began < 10
    silent.set()


def test_a_network_that_takes_few_calls_at_once_gets_no_more_and_the_others_decode() -> None:
    inside = most = 0
    lock, decoded_meanwhile = threading.Lock(), threading.Event()

    def busy(examples: Float32Array) -> dict[str, Float32Array]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        assert decoded_meanwhile.wait(20)  # which only another worker can bring about
        with lock:
            inside -= 1
        return network(examples)

    def noticed(samples: Float32Array) -> Iterator[Float32Array]:
        if inside:
            decoded_meanwhile.set()
        yield samples

    clips = [waveform(seed, 2.0) for seed in range(60)]
    opens = [partial(noticed, clip) for clip in clips]
    got = collected(run(opens, network=busy, threads=4, calls=1, batch_size=8))
    assert most == 1
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(got[index], network(features.examples(clip))["embedding"])


@pytest.mark.parametrize("batch_size", [4, 100])
def test_calls_of_a_slow_device_take_what_is_left_between_them(batch_size: int) -> None:
    sizes: list[int] = []

    def slow(examples: Float32Array) -> dict[str, Float32Array]:
        sizes.append(len(examples))
        time.sleep(0.01)
        return network(examples)

    clips = [waveform(seed, 2.0) for seed in range(31)]
    got = collected(run(map(opened, clips), network=slow, threads=6, calls=2, batch_size=batch_size))
    assert sum(sizes) == 62
    assert max(sizes) <= batch_size
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(got[index], network(features.examples(clip))["embedding"])
