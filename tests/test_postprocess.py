"""PCA and 8 bits, exactly as released, and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audioset import postprocess
from audioset.errors import OptionError, WeightsError
from audioset.postprocess import Pca


@pytest.fixture
def pca(rng: np.random.Generator) -> Pca:
    return Pca(rng.standard_normal((8, 8)), rng.standard_normal(8))


@pytest.fixture
def published(data_dir: Path) -> Pca:
    with np.load(data_dir / "vggish" / "vggish_pca_params.npz") as file:
        return Pca(file["pca_eigen_vectors"], file["pca_means"])


def test_components_are_rows_times_centred_values(pca: Pca, rng: np.random.Generator) -> None:
    raw = rng.standard_normal((5, 8)).astype(np.float32)
    expected = [[float(np.dot(row, e - pca.means)) for row in pca.eigen_vectors] for e in raw]
    got = pca.apply(raw)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)  # float32 output of values around 10


def test_invert_gives_the_embeddings_back(pca: Pca, rng: np.random.Generator) -> None:
    raw = rng.standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_allclose(pca.invert(pca.apply(raw)), raw, atol=1e-4)  # float32 between, condition number ~100


def test_quantize_truncates_and_clips() -> None:
    step = 4 / 255
    values = np.array([-9, -2, -2 + 0.99 * step, -2 + 1.01 * step, 0, 2 - 0.01 * step, 2, 9])
    assert postprocess.quantize(values).tolist() == [0, 0, 0, 1, 127, 254, 255, 255]


def test_dequantize_is_the_lower_edge_or_half_a_bin_above() -> None:
    every = np.arange(256, dtype=np.uint8)
    plain = postprocess.dequantize(every)
    np.testing.assert_allclose(plain, np.arange(256) * 4 / 255 - 2, atol=1e-6)
    np.testing.assert_allclose(postprocess.dequantize(every, half_bin=True), plain + 4 / 512, atol=1e-6)
    np.testing.assert_array_equal(postprocess.quantize(postprocess.dequantize(every, half_bin=True)), every)


def test_golden_embeddings_give_the_golden_bytes(data_dir: Path, published: Pca) -> None:
    golden = np.load(data_dir / "vggish" / "golden.npz")
    for key in [key for key in golden if key.endswith("/embedding")]:
        name = key.removesuffix("/embedding")
        components = published.apply(golden[key])
        # float64 in both, rounded to float32 once: one unit in the last place at most, of values up to 350
        np.testing.assert_allclose(components, golden[f"{name}/pca"], rtol=3e-7, atol=1e-6)
        np.testing.assert_array_equal(postprocess.quantize(components), golden[f"{name}/quantized"])


def test_released_bytes_survive_the_way_to_raw_space_and_back(data_dir: Path, published: Pca) -> None:
    from audioset.records import read_tfrecord
    from audioset.records.tfrecord import decode_example

    frames: list[bytes] = []
    for record in read_tfrecord(data_dir / "audioset" / "features" / "rm.tfrecord"):
        frames += [frame[0] for frame in decode_example(record).feature_lists["audio_embedding"]]
    released = np.frombuffer(b"".join(frames), np.uint8).reshape(-1, 128)
    assert len(released) > 3000
    raw = published.invert(postprocess.dequantize(released, half_bin=True))
    np.testing.assert_array_equal(postprocess.quantize(published.apply(raw)), released)


def test_signed_bytes_are_refused_with_the_way_out() -> None:
    with pytest.raises(OptionError, match=r"dtype int8; expected uint8.*view"):
        postprocess.dequantize(np.zeros(3, np.int8))


def test_embeddings_of_another_width_are_refused(pca: Pca) -> None:
    with pytest.raises(OptionError, match=r"shape \(2, 9\); expected float of shape \(k, 8\)"):
        pca.apply(np.zeros((2, 9), np.float32))


def test_parameters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"eigen_vectors \(3, 4\) and means \(4,\)"):
        Pca(np.zeros((3, 4)), np.zeros(4))


def test_nan_is_not_turned_into_a_byte() -> None:
    with pytest.raises(OptionError, match="NaN"):
        postprocess.quantize(np.array([np.nan]))
