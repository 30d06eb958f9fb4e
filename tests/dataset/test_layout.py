"""The vectorized parser of released features: the same rows as one record after another, whoever wrote them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.dataset._layout import (
    FEATURES_SCHEMA,
    FeatureRecord,
    _parse_known,
    batch_of,
    decode_row,
    parse_blocks,
)
from audioset.dataset._sources import read_blocks
from audioset.errors import RecordError
from audioset.records.tfrecord import audio_record, message

from ._released import (
    ORDERS,
    block_of,
    bytes_feature,
    encode,
    float_feature,
    frames_list,
    labels_feature,
    random_records,
    released,
)

FRAME = bytes(range(128))


def one_by_one(datas: list[bytes]) -> tuple[list[FeatureRecord], list[int]]:
    """The plain way: the rows, and which records are none."""
    rows, flaws = [], []
    for index, data in enumerate(datas):
        try:
            rows.append(decode_row(data))
        except RecordError:
            flaws.append(index)
    return rows, flaws


def assert_as_one_by_one(datas: list[bytes]) -> None:
    batch, flaws = parse_blocks([block_of(datas)])
    batch.validate(full=True)
    rows, expected_flaws = one_by_one(datas)
    assert [index for index, _ in flaws] == expected_flaws
    assert batch.equals(batch_of(rows))


def num_known(datas: list[bytes]) -> int:
    block = block_of(datas)
    return len(_parse_known(block.data, block.starts, block.stops)[0])


def variant(context: dict[str, bytes] | None = None, lists: dict[str, bytes] | None = None) -> bytes:
    """A record with some of its entries others, or with more."""
    entries = {
        "video_id": bytes_feature(b"abcdefghijk"),
        "start_time_seconds": float_feature(30),
        "end_time_seconds": float_feature(40),
        "labels": labels_feature([0, 137, 300]),
    }
    both = {**entries, **(context or {})}
    kept = {key: value for key, value in both.items() if value is not None}
    return encode(kept, {"audio_embedding": frames_list([FRAME] * 2), **(lists or {})})


def without(key: str) -> bytes:
    return variant({key: None})  # type: ignore[dict-item]


@pytest.mark.parametrize("order", list(permutations(ORDERS[0])))
def test_entries_in_any_order_are_parsed_together(order: tuple[str, ...], rng: np.random.Generator) -> None:
    records = random_records(rng, 20)
    datas = [released(record, order) for record in records]
    assert num_known(datas) == len(datas)
    assert_as_one_by_one(datas)


def test_what_this_package_writes_is_parsed_together(rng: np.random.Generator) -> None:
    datas = [
        audio_record(name, 0.5, 1.25, rng.integers(0, 256, (rows, 128), dtype=np.uint8), labels)
        for name, rows, labels in (("", 1, []), ("x" * 111, 119, [0]), ("a", 120, range(97)), ("b", 5000, [16383, 1]))
    ]
    assert num_known(datas) == 4
    assert_as_one_by_one(datas)


OTHERS = {
    "id": encode(
        {
            "id": bytes_feature(b"ab"),
            "start_time_seconds": float_feature(1),
            "end_time_seconds": float_feature(2),
            "labels": labels_feature([1]),
        },
        {"audio_embedding": frames_list([FRAME])},
    ),
    "unpacked labels": variant({"labels": labels_feature([0, 300], packed=False)}),
    "labels of three bytes": variant({"labels": labels_feature([16384, 3])}),
    "negative labels": variant({"labels": labels_feature([-1])}),
    "no labels": without("labels"),
    "labels not set": variant({"labels": b""}),
    "more in the context": variant({"note": bytes_feature(b"x")}),
    "more lists": variant(lists={"rgb": frames_list([b"abc"])}),
    "a list before": encode({"video_id": bytes_feature(b"x"), "start_time_seconds": float_feature(1),
        "end_time_seconds": float_feature(2)}, {"a": b"", "audio_embedding": frames_list([FRAME])}),
    "unknown fields": variant() + message(9, b"abc"),
    "no frames": variant(lists={"audio_embedding": b""}),
    "an id that is not ASCII": variant({"video_id": bytes_feature("é–x".encode())}),
    "a long id": variant({"video_id": bytes_feature(b"i" * 300)}),
    "many labels": variant({"labels": labels_feature(range(200))}),
    "lists before the context": variant()[2 + variant()[1] :] + variant()[: 2 + variant()[1]],
}  # fmt: skip


@pytest.mark.parametrize("which", OTHERS)
def test_other_encodings_fall_back_and_read_the_same(which: str) -> None:
    rows, flaws = one_by_one([OTHERS[which]])
    assert len(rows) == 1
    assert not flaws
    assert num_known([OTHERS[which]]) == 0
    assert num_known([variant(), OTHERS[which], variant()]) == 2
    assert_as_one_by_one([variant(), OTHERS[which], variant(), OTHERS[which]])


FLAWED = {
    "no id": (without("video_id"), r"no video_id; expected one string, found nothing among end_time_seconds, labels"),
    "two ids": (variant({"video_id": message(1, message(1, b"a") + message(1, b"b"))}), "found 1 bytes and 1 more"),
    "an id that is not UTF-8": (variant({"video_id": bytes_feature(b"\xff\xfe")}), r"b'\\xff\\xfe' is not UTF-8"),
    "no start": (without("start_time_seconds"), "abcdefghijk: start_time_seconds is nothing; expected one float"),
    "a whole number as end": (variant({"end_time_seconds": labels_feature([7])}), "end_time_seconds is int64 7"),
    "text as labels": (variant({"labels": bytes_feature(b"Dog")}), "labels are 3 bytes; expected integers"),
    "labels of 64 bits": (variant({"labels": labels_feature([2**40])}), f"labels are int64 {2**40}; expected indices"),
    "labels that end within one": (variant({"labels": message(3, message(1, b"\x05\x81"))}), "an integer without end"),
    "no list": (encode({"video_id": bytes_feature(b"x")}, {"rgb": b""}), "x: no audio_embedding; .* among rgb"),
    "a narrow frame": (
        variant(lists={"audio_embedding": frames_list([FRAME, FRAME[1:]])}),
        "abcdefghijk: frame 1 is 127 bytes; expected one string of 128 bytes",
    ),
    "numbers as a frame": (
        variant(lists={"audio_embedding": message(1, float_feature(1))}),
        "frame 0 is float32 1.0",
    ),
    "nothing": (b"", "no video_id; expected one string, found nothing among no names"),
    "no message": (b"\x0a\x05abc", "not a tf.train.SequenceExample"),
}


@pytest.mark.parametrize("which", FLAWED)
def test_what_is_no_row_is_named_with_its_byte_and_left_out(which: str) -> None:
    data, reason = FLAWED[which]
    with pytest.raises(RecordError, match=reason) as raised:
        decode_row(data)
    first, second = block_of([variant()], 500), block_of([variant(), data, variant()], 900)
    batch, [(index, damage)] = parse_blocks([first, second])
    assert (index, len(batch)) == (2, 3)
    at = 900 + len(variant()) + 16
    assert damage.offset == at
    assert str(damage) == f"x.tfrecord: the record at byte {at:,}: {raised.value}"


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([*OTHERS.values(), *(data for data, _ in FLAWED.values()), variant()]),
            st.builds(
                lambda name, start, labels, frames, order: encode(
                    {
                        key: {
                            "video_id": bytes_feature(name),
                            "start_time_seconds": float_feature(start),
                            "end_time_seconds": float_feature(start + 10),
                            "labels": labels_feature(labels),
                        }[key]
                        for key in order
                    },
                    {"audio_embedding": frames_list(frames)},
                ),
                st.one_of(st.text(max_size=130).map(str.encode), st.binary(max_size=5)),
                st.floats(width=32, allow_nan=False),
                st.lists(st.sampled_from([0, 1, 127, 128, 526, 16383, 16384, 2**31 - 1, 2**31, -1]), max_size=6),
                st.lists(st.sampled_from([FRAME, bytes(128), FRAME[1:]]), max_size=3),
                st.permutations(ORDERS[0]),
            ),
        ),
        max_size=12,
    )
)
def test_any_mixture_gives_what_one_by_one_gives(datas: list[bytes]) -> None:
    assert_as_one_by_one(datas)


@pytest.mark.parametrize("order", ORDERS)
def test_a_record_with_any_byte_changed_gives_what_it_gives_alone(
    order: tuple[str, ...], rng: np.random.Generator
) -> None:
    record = random_records(rng, 1)[0]
    data = released(replace(record, embedding=record.embedding[:2]), order)
    datas = []
    for at in range(len(data)):
        for change in (1, 2, 0x7F, 0x80, 0xFF):
            changed = bytearray(data)
            changed[at] ^= change
            datas.append(bytes(changed))
    assert 0 < num_known(datas) < len(datas)
    rows, flaws = one_by_one(datas)
    assert rows
    assert flaws
    # Alone and together: what one record holds must not reach into the next.
    assert_as_one_by_one(datas)
    assert_as_one_by_one(datas[-1:])


@pytest.mark.parametrize("kept", [0, 1, 5, 60, 119, 120, 140, 150, 270, 285])
def test_a_record_that_ends_early_gives_what_it_gives_alone(kept: int) -> None:
    assert_as_one_by_one([variant()[:kept]])
    assert_as_one_by_one([variant(), variant()[:kept], variant()])


def test_no_records_give_no_rows() -> None:
    batch, flaws = parse_blocks([block_of([])])
    assert (len(batch), flaws) == (0, [])
    assert batch.schema.equals(FEATURES_SCHEMA, check_metadata=True)


def test_a_real_shard_is_parsed_together_and_gives_what_one_by_one_gives(data_dir: Path) -> None:
    [block] = read_blocks(data_dir / "audioset/features/rm.tfrecord")
    known, batch = _parse_known(block.data, block.starts, block.stops)
    assert len(known) == len(block.starts) == 328
    rows = [decode_row(block.record(index)) for index in range(328)]
    assert batch.equals(batch_of(rows))
