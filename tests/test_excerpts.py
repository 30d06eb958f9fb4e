"""Which parts of recordings are read: a bounded share, spread evenly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audioset import features
from audioset._excerpts import Excerpt, _shares, excerpts

HOP_S = 0.96


def wav(path: Path, seconds: float, rng: np.random.Generator) -> str:
    soundfile.write(path, 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
    return str(path)


def num_examples(piece: Excerpt) -> int:
    blocks = features.stream_examples(piece.open(), hop_s=HOP_S, pad="short")
    return sum(map(len, blocks))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(8, 200))
def test_shares_are_equal_to_within_one_but_for_files_that_have_less(counts: list[int], most: int) -> None:
    shares = _shares(counts, most)
    assert sum(shares) == min(most, sum(counts))
    cut = [share for count, share in zip(counts, shares, strict=True) if share < count]
    for count, share in zip(counts, shares, strict=True):
        assert 0 <= share <= count
        assert share == count or share >= max(shares) - 1
    assert max(cut, default=0) - min(cut, default=0) <= 1


def test_what_fits_is_read_whole(tmp_path: Path, rng: np.random.Generator) -> None:
    files = [wav(tmp_path / f"{seconds}.wav", seconds, rng) for seconds in (1, 3, 5)]
    assert excerpts(files, 9, hop_s=HOP_S, pad="short") == [Excerpt(file) for file in files]
    assert sum(num_examples(Excerpt(file)) for file in files) == 9


def test_short_files_leave_their_share_to_longer_ones(tmp_path: Path, rng: np.random.Generator) -> None:
    files = [wav(tmp_path / f"{number}.wav", seconds, rng) for number, seconds in enumerate((1, 60, 2, 60))]
    pieces = excerpts(files, 43, hop_s=HOP_S, pad="short")
    counts = {file: sum(num_examples(piece) for piece in pieces if piece.file == file) for file in files}
    assert list(counts.values()) == [1, 20, 2, 20]


@pytest.mark.parametrize("most", [1, 2, 15, 16, 17, 50, 61])
def test_pieces_of_a_long_file_are_spread_over_all_of_it(most: int, tmp_path: Path, rng: np.random.Generator) -> None:
    file = wav(tmp_path / "long.wav", 60, rng)  # 62 examples
    pieces = excerpts([file], most, hop_s=HOP_S, pad="short")
    spans = []
    for piece in pieces:
        assert piece.duration_s is not None
        first = piece.start_s / HOP_S
        assert first == pytest.approx(round(first))
        spans.append((round(first), round(first) + num_examples(piece)))
    assert sum(end - first for first, end in spans) == most
    edges = [0, *(edge for span in spans for edge in span), 62]
    assert edges == sorted(edges)
    gaps = [after - before for before, after in zip(edges[::2], edges[1::2], strict=True)]
    # As long between any two pieces, and half as long at either end.
    assert max(gaps[1:-1], default=0) - min(gaps[1:-1], default=0) <= 1
    assert all(abs(2 * gap - (62 - most) / len(pieces)) <= 2 for gap in (gaps[0], gaps[-1]))


def test_of_more_files_than_examples_evenly_spaced_ones_are_read(tmp_path: Path, rng: np.random.Generator) -> None:
    files = [wav(tmp_path / f"{number}.wav", 2, rng) for number in range(10)]
    pieces = excerpts(files, 4, hop_s=HOP_S, pad="short")
    assert [piece.file for piece in pieces] == [files[place] for place in (0, 2, 5, 7)]
    assert sum(map(num_examples, pieces)) == 4


def test_files_that_cannot_be_read_are_left_to_who_reads_them(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    files = [str(tmp_path / "bad.wav"), str(tmp_path / "none.wav"), wav(tmp_path / "good.wav", 60, rng)]
    pieces = excerpts(files, 8, hop_s=HOP_S, pad="short")
    assert [piece.file for piece in pieces[:2]] == files[:2]
    assert sum(map(num_examples, pieces[2:])) == 8  # they take nobody's share


def test_a_file_that_does_not_say_its_length_is_read_from_its_start(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from audioset import audio

    file = wav(tmp_path / "endless.wav", 30, rng)
    probe = audio.probe
    monkeypatch.setattr(audio, "probe", lambda source: replace(probe(source), num_samples=None))
    (piece,) = excerpts([file], 7, hop_s=HOP_S, pad="short")
    assert piece.start_s == 0
    assert num_examples(piece) == 7


def test_no_files_give_nothing() -> None:
    assert excerpts([], 5, hop_s=HOP_S, pad="short") == []
