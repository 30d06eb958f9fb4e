from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from audioset import models, weights
from audioset.errors import FetchError, OptionError, OutputError, WeightsError, WeightsFormatError
from audioset.models.spec import ModelSpec
from audioset.weights import content, convert, load, load_pca, readers, save
from audioset.weights.catalogue import PUBLISHED
from audioset.weights.files import sha256_of

from . import _writers as write
from ._server import Server

Tensors = dict[str, np.ndarray]


@pytest.fixture
def checkpoint(tmp_path: Path, small_tensors: Tensors) -> Path:
    return write.write_v1(tmp_path / "model.ckpt", small_tensors)


@pytest.fixture
def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every reader but safetensors' fail, to show that nothing is converted again."""

    def fail(_: Path) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(
        readers,
        "READERS",
        tuple(
            reader if reader.name == "safetensors" else readers.Reader(reader.name, reader.sniff, fail, reader.files)  # type: ignore[arg-type]
            for reader in readers.READERS
        ),
    )


def _write_any(kind: str, folder: Path, tensors: Tensors) -> Path:
    match kind:
        case "v1":
            return write.write_v1(folder / "m.bin", tensors)
        case "v1 snappy":
            return write.write_v1(folder / "m.bin", tensors, snappy=True)
        case "v1 of doubles":
            return write.write_v1(folder / "m.bin", {name: values.astype(float) for name, values in tensors.items()})
        case "v2 index":
            return write.write_v2(folder / "m", tensors, num_shards=2)
        case "v2 prefix":
            write.write_v2(folder / "m", tensors)
            return folder / "m"
        case "safetensors":
            safetensors.numpy.save_file(tensors, folder / "m.bin")
            return folder / "m.bin"
        case "safetensors of doubles":
            safetensors.numpy.save_file(
                {name: values.astype(float) for name, values in tensors.items()}, folder / "m.bin"
            )
            return folder / "m.bin"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["v1", "v1 snappy", "v1 of doubles", "v2 index", "v2 prefix", "safetensors", "safetensors of doubles"],
)
def test_every_format_gives_the_same_weights(tmp_path: Path, small_tensors: Tensors, kind: str) -> None:
    path = _write_any(kind, tmp_path, small_tensors)
    found = load("vggish", path)
    assert found.name == path.name
    assert found.model == "vggish"
    assert found.sha256 == content.content_sha256(small_tensors)
    assert list(found.tensors) == list(small_tensors)
    for name, values in small_tensors.items():
        np.testing.assert_array_equal(found.tensors[name], values, strict=True)
        assert found.tensors[name].flags.c_contiguous
        assert not found.tensors[name].flags.writeable
        assert not found.tensors[name].flags.owndata
    assert load("vggish", str(path)).sha256 == found.sha256


def test_the_content_hash_covers_names_shapes_and_values() -> None:
    base = {"a": np.arange(6, dtype=np.float32), "b": np.zeros((2, 3), np.float32)}
    changed = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"], "b": base["b"].reshape(3, 2)},
        {"a": base["a"][::-1], "b": base["b"]},
        {"a": base["a"].astype(float), "b": base["b"]},
        {"a": base["a"]},
    ]
    hashes = [content.content_sha256(tensors) for tensors in (base, *changed)]
    assert len(set(hashes)) == len(hashes)
    assert content.content_sha256({"b": base["b"], "a": base["a"]}) == hashes[0]


def test_the_content_hash_is_pinned() -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert content.content_sha256(tensors) == "d4dae641b49ba55df289a2e295853281c1d8e57370729f53fa73c6153317f8fb"


def test_a_second_load_converts_and_hashes_nothing(
    checkpoint: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("vggish", checkpoint)
    request.getfixturevalue("forbid_reading")
    monkeypatch.setattr("audioset.weights.conversion.sha256_of", lambda _: pytest.fail("hashed again"))
    assert load("vggish", checkpoint).sha256 == first.sha256


def test_a_copy_of_a_converted_file_is_not_converted_again(
    checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = load("vggish", checkpoint)
    request.getfixturevalue("forbid_reading")
    copy = shutil.copy(checkpoint, tmp_path / "copy.ckpt")
    again = load("vggish", copy)
    assert (again.sha256, again.name) == (first.sha256, "copy.ckpt")


def test_a_changed_file_is_converted_anew(checkpoint: Path, small_tensors: Tensors) -> None:
    first = load("vggish", checkpoint)
    write.write_v1(checkpoint, {name: values + 1 for name, values in small_tensors.items()})
    assert load("vggish", checkpoint).sha256 != first.sha256


def test_a_damaged_conversion_is_made_again(checkpoint: Path, isolated_cache: Path) -> None:
    first = load("vggish", checkpoint)
    (converted,) = (isolated_cache / "converted").glob("*.safetensors")
    converted.unlink()
    converted.write_bytes(b"\0" * 100)
    assert load("vggish", checkpoint).sha256 == first.sha256


def test_a_cache_that_cannot_be_written_is_reported(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUDIOSET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match=r"cannot be written .*set AUDIOSET_CACHE"):
        load("vggish", checkpoint)


def test_a_cache_for_reading_only_serves_what_it_has(
    checkpoint: Path, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("vggish", checkpoint)
    (note,) = (isolated_cache / "converted").glob("*.sha256")
    note.unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert load("vggish", checkpoint).sha256 == first.sha256


def test_safetensors_of_the_models_own_are_used_where_they_are(
    tmp_path: Path, small_tensors: Tensors, isolated_cache: Path
) -> None:
    safetensors.numpy.save_file(small_tensors, tmp_path / "mine.safetensors", metadata={"trained_by": "us"})
    found = load("vggish", tmp_path / "mine.safetensors")
    assert found.provenance["trained_by"] == "us"
    assert list(isolated_cache.iterdir()) == []


def test_a_stated_hash_is_believed_at_loading(tmp_path: Path, small_tensors: Tensors) -> None:
    safetensors.numpy.save_file(
        small_tensors, tmp_path / "w.safetensors", metadata={"model": "vggish", "content_sha256": "ab" * 32}
    )
    assert load("vggish", tmp_path / "w.safetensors").sha256 == "ab" * 32


def test_safetensors_of_another_model_are_refused(tmp_path: Path, small_tensors: Tensors) -> None:
    safetensors.numpy.save_file(
        small_tensors, tmp_path / "w.safetensors", metadata={"model": "yamnet", "content_sha256": "ab" * 32}
    )
    with pytest.raises(WeightsError, match=r"w\.safetensors: weights of yamnet; expected those of vggish"):
        load("vggish", tmp_path / "w.safetensors")


def test_what_training_keeps_beside_the_network_is_left_out(tmp_path: Path, small_tensors: Tensors) -> None:
    beside = {
        "vggish/conv1/weights/Adam": small_tensors["vggish/conv1/weights"],
        "mymodel/logits/weights": np.ones((3, 2), np.float32),
        "global_step": np.array(4),
    }
    found = load("vggish", write.write_v1(tmp_path / "m.ckpt", {**small_tensors, **beside}))
    assert list(found.tensors) == list(small_tensors)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"vggish/fc2/biases": None}, "lacks vggish/fc2/biases; expected the 18 tensors of vggish"),
        (
            {f"vggish/conv{n}/{side}": None for n in (1, 2) for side in ("weights", "biases")},
            "lacks vggish/conv1/weights, vggish/conv1/biases, vggish/conv2/weights and 1 more",
        ),
        ({"vggish/fc3/biases": np.ones(3, np.float32)}, "has also vggish/fc3/biases"),
        ({"vggish/fc2/biases": np.ones(99, np.float32)}, r"vggish/fc2/biases \(99,\) where \(\d,\) belongs"),
        ({"vggish/fc2/biases": np.ones(2, np.int64)}, "vggish/fc2/biases"),
        (
            {"vggish/conv1/biases": np.array([np.nan, 1], np.float32)},
            "conv1/biases has values that are NaN or infinite",
        ),
        ({"vggish/conv1/biases": np.array([1e300, 1])}, "conv1/biases has values that are NaN or infinite"),
    ],
)
@pytest.mark.parametrize("kind", ["v1", "safetensors"])
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, small_tensors: Tensors, kind: str, change: dict[str, np.ndarray | None], match: str
) -> None:
    changed = {name: values for name, values in {**small_tensors, **change}.items() if values is not None}
    with pytest.raises(WeightsError, match=rf"m\.bin: .*{match}"):
        load("vggish", _write_any(kind, tmp_path, changed))


def test_quantized_weights_are_refused(tmp_path: Path, small_tensors: Tensors) -> None:
    quantized = {name: values.astype(np.int8) for name, values in small_tensors.items()}
    with pytest.raises(WeightsError, match="vggish/conv1/weights holds int8; expected floating-point"):
        load("vggish", write.write_v1(tmp_path / "m.ckpt", quantized))


@pytest.mark.parametrize(
    ("name", "bytes_of_it", "match"),
    [
        (
            "page.ckpt",
            b"<!DOCTYPE html><html>",
            r"page\.ckpt: begins with b'<!DOCTYPE html><'; expected weights in one of",
        ),
        (
            "nothing.ckpt",
            b"",
            r"nothing\.ckpt: is empty; expected weights in one of the formats safetensors, tensorflow-v1",
        ),
        ("m.ckpt.data-00000-of-00001", b"\0" * 64, r"one data file of a TensorFlow checkpoint.* Give \S+/m\.ckpt\."),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, name: str, bytes_of_it: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(bytes_of_it)
    with pytest.raises(WeightsFormatError, match=match):
        load("vggish", tmp_path / name)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a folder; expected a file of weights"):
        load("vggish", tmp_path)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            "missing/model.ckpt",
            r"missing/model\.ckpt: no such file\. Accepted for vggish: vggish, untrained:SEED, or a path",
        ),
        ("vgish", r"vgish: unknown weights, and no file of this name\. Did you mean vggish\? Accepted"),
        ("untraind:0", r"Did you mean untrained:0\?"),
        ("untrained", r"'untrained': no seed; expected untrained:SEED"),
        ("untrained:-1", "no seed"),
        ("untrained:x", "no seed"),
        ("vggish-pca", "vggish-pca: post-processing parameters of vggish; expected weights of vggish"),
        ("yamnet", "yamnet: weights of yamnet; expected weights of vggish"),
    ],
)
def test_unknown_weights_are_refused_with_what_is_accepted(given: str, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        load("vggish", given)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.ckpt: No such file"):
        load("vggish", tmp_path / "none.ckpt")


@pytest.mark.parametrize("convert_to_path", [str, Path])
@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("x" * 300, r"^x{300}: .*; expected a readable weights file\. Check the path"),
        ("~no-such-user/w.ckpt", r"~no-such-user.w\.ckpt: .*[Nn]o such file"),
        (".", r"\.: (a folder|unknown weights)"),
    ],
)
def test_names_that_the_system_refuses_are_reported(given: str, match: str, convert_to_path: type) -> None:
    with pytest.raises(WeightsError, match=match):
        load("vggish", convert_to_path(given))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown model 'vgg'"):
        load("vgg", "untrained:0")


def test_a_model_without_published_weights_says_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "REGISTRY", {"tiny": models.get("vggish")})
    with pytest.raises(
        WeightsError, match=r"tiny: nothing published under this name.*Accepted for tiny: untrained:SEED"
    ):
        load("tiny")


# From the catalogue, end to end.


@pytest.fixture
def published(checkpoint: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve the checkpoint in the place of the published one; return its hash."""
    sha256 = sha256_of([checkpoint])
    server.serve("vggish_model.ckpt", checkpoint.read_bytes())
    entry = {"name": "vggish", "model": "vggish", "url": server.url("vggish_model.ckpt"), "sha256": sha256}
    override = tmp_path / "catalogue.json"
    override.write_text(json.dumps([{**entry, "licence": "CC0"}]))
    monkeypatch.setenv("AUDIOSET_CATALOGUE", str(override))
    return sha256


def test_published_weights_are_fetched_and_converted_once(
    published: str, server: Server, small_tensors: Tensors, request: pytest.FixtureRequest
) -> None:
    seen: list[int] = []
    found = load("vggish", progress=lambda done, _: seen.append(done))
    assert seen
    assert found.name == "vggish"
    assert found.sha256 == content.content_sha256(small_tensors)
    assert found.provenance == {
        "source": f"{published[:8]}-vggish_model.ckpt",
        "source_sha256": published,
        "source_format": "tensorflow-v1",
        "url": server.url("vggish_model.ckpt"),
        "licence": "CC0",
        "citation": "",
    }
    request.getfixturevalue("forbid_reading")
    assert load("vggish").sha256 == found.sha256
    assert load("vggish", "vggish").sha256 == found.sha256
    assert len(server.files["vggish_model.ckpt"].requested) == 1


def test_converted_weights_do_without_the_original(published: str, isolated_cache: Path) -> None:
    first = load("vggish")
    (isolated_cache / weights.catalogue()["vggish"].file_name).unlink()
    assert load("vggish").sha256 == first.sha256


def test_offline_the_message_says_what_to_fetch(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    with pytest.raises(FetchError, match=f"(?s)To fetch it by hand: put .*{published}.*untrained:0"):
        load("vggish")


def test_weights_are_published_if_their_source_is(
    published: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not load("vggish").published
    monkeypatch.setattr(content, "PUBLISHED", PUBLISHED | {published})
    assert load("vggish").published
    assert load("vggish", checkpoint).published


def test_a_name_of_the_catalogue_wins_over_a_file(
    published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vggish").write_bytes(b"something else")
    assert load("vggish", "vggish").name == "vggish"
    with pytest.raises(WeightsFormatError, match="begins with b'something else'"):
        load("vggish", "./vggish")


# convert and save


def test_convert_writes_what_load_reads(checkpoint: Path, tmp_path: Path, small_tensors: Tensors) -> None:
    out = tmp_path / "out.safetensors"
    converted = convert(checkpoint, out)
    assert converted.name == "out.safetensors"
    assert converted.provenance["source"] == "model.ckpt"
    assert converted.provenance["source_sha256"] == sha256_of([checkpoint])
    loaded = load("vggish", out)
    assert loaded.sha256 == converted.sha256 == content.content_sha256(small_tensors)
    assert loaded.provenance == converted.provenance
    assert set(safetensors.numpy.load_file(out)) == set(small_tensors)


def test_convert_of_v2_hashes_all_of_its_files(tmp_path: Path, small_tensors: Tensors) -> None:
    index = write.write_v2(tmp_path / "m", small_tensors, num_shards=2)
    files = [index, tmp_path / "m.data-00000-of-00002", tmp_path / "m.data-00001-of-00002"]
    assert convert(tmp_path / "m", tmp_path / "o.safetensors").provenance["source_sha256"] == sha256_of(files)


def test_convert_keeps_what_is_there(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"before")
    with pytest.raises(OutputError, match=r"out\.safetensors: exists already"):
        convert(checkpoint, out)
    assert out.read_bytes() == b"before"
    assert convert(checkpoint, out, overwrite=True).tensors


@pytest.mark.parametrize(
    ("name", "match"), [("x" * 300, r"cannot be written \(.*\); expected"), (".", "is a folder; expected")]
)
def test_convert_reports_a_name_that_cannot_be_written(checkpoint: Path, name: str, match: str) -> None:
    with pytest.raises(OutputError, match=match):
        convert(checkpoint, name, overwrite=True)


def test_convert_wants_a_folder_that_exists(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist"):
        convert(checkpoint, tmp_path / "missing" / "out.safetensors")


def test_saved_weights_come_back_whole(tmp_path: Path, small_tensors: Tensors) -> None:
    made = weights.from_tensors("vggish", "tuned", small_tensors, {"source": "training", "licence": "CC0"})
    save(made, tmp_path / "tuned.safetensors")
    found = load("vggish", tmp_path / "tuned.safetensors")
    assert found.sha256 == made.sha256
    assert found.provenance == made.provenance
    assert weights.verify([str(tmp_path / "tuned.safetensors")])[0].ok


# PCA parameters


def _pca(path: Path, **changed: object) -> Path:
    content_of_it = {"pca_eigen_vectors": np.eye(128), "pca_means": np.zeros(128), **changed}
    np.savez(path, **content_of_it)  # type: ignore[arg-type]
    return path


def test_pca_parameters_are_returned_in_the_files_precision(tmp_path: Path) -> None:
    vectors, means = load_pca(_pca(tmp_path / "p.npz"))
    assert (vectors.shape, vectors.dtype.name) == ((128, 128), "float64")
    assert (means.shape, means.dtype.name) == ((128,), "float64")


def test_the_published_pca_parameters_are_taken_from_the_cache(data_dir: Path, isolated_cache: Path) -> None:
    shutil.copyfile(data_dir / "vggish" / "vggish_pca_params.npz", isolated_cache / "vggish_pca_params.npz")
    vectors, means = load_pca()
    assert vectors[127, 65] == pytest.approx(45.0, abs=0.5)
    assert means[65] == pytest.approx(-0.2511, abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"pca_means": np.zeros(64)}, r"pca_means is float64 \(64,\); expected finite floats \(128,\)"),
        ({"pca_eigen_vectors": np.eye(128, dtype=int)}, "pca_eigen_vectors is int64"),
        ({"pca_means": np.full(128, np.nan)}, "pca_means is float64"),
        ({"pca_means": np.array([{}])}, "cannot be read .Object arrays"),
    ],
)
def test_other_pca_parameters_are_refused(tmp_path: Path, changed: dict[str, object], match: str) -> None:
    with pytest.raises(WeightsFormatError, match=rf"p\.npz: .*{match}.*audioset models fetch vggish-pca"):
        load_pca(_pca(tmp_path / "p.npz", **changed))


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.eye(128))
    return buffer.getvalue()


@pytest.mark.parametrize("bytes_of_it", [b"", b"text", b"PK\x03\x04 cut", _npy()], ids=["empty", "text", "cut", "npy"])
def test_files_that_are_no_npz_are_refused(tmp_path: Path, bytes_of_it: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(bytes_of_it)
    with pytest.raises(WeightsFormatError, match=r"p\.npz: cannot be read .*; expected an \.npz file"):
        load_pca(tmp_path / "p.npz")


def test_a_missing_pca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"p\.npz: No such file"):
        load_pca(tmp_path / "p.npz")


def test_the_small_model_is_only_small(small_vggish: ModelSpec) -> None:
    assert list(small_vggish.tensor_shapes) == list(models.vggish.SPEC.tensor_shapes)
    assert small_vggish.num_weights < 10_000


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"unknown weights"):
        load("vggish", "")


def test_built_in_weights_are_read_from_the_package() -> None:
    weights = load("mini")
    assert weights.name == "mini"
    assert weights.provenance["teacher"] == "yamnet"
    assert all(values.dtype == np.float32 for values in weights.tensors.values())


def test_what_decides_the_network_goes_on_through_conversions(tmp_path: Path) -> None:
    """YAMNet's TensorFlow Lite file has other activations: copies of copies of its weights must have them too."""
    with pytest.warns(weights.UntrainedWeightsWarning):
        drawn = weights.load("yamnet", "untrained:0")
    first = tmp_path / "first.safetensors"
    weights.save(weights.from_tensors("yamnet", "y", drawn.tensors, {"source_format": "tflite"}), first)
    again = weights.convert(first, tmp_path / "again.safetensors", model="yamnet")
    assert again.provenance["source_format"] == "tflite"
    halves = {name: values.astype(np.float16) for name, values in drawn.tensors.items()}
    safetensors.numpy.save_file(halves, tmp_path / "half.safetensors", metadata={"source_format": "tflite"})
    converted = weights.load("yamnet", tmp_path / "half.safetensors")
    spec = models.get("yamnet").of_format(converted.provenance["source_format"])
    assert any(getattr(layer, "activation", None) == "relu6" for layer in spec.layers)
