"""The transformer for scikit-learn: its own checks, pipelines and searches, forms of input, what cannot be read."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audioset
from audioset import audio
from audioset.errors import AudioError, MissingExtraError, OptionError, WeightsError

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from audioset.sklearn import AudioSetEmbedder, UnreadSoundsWarning, _Rows, _Statistics

RATE = 16_000
pytestmark = [
    pytest.mark.usefixtures("tiny"),
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioset.sklearn._KEPT", _Rows(1 << 20))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every source that a model is given to embed."""
    found: list[Any] = []
    stream = audio.stream

    def noting(source: Any, *arguments: Any, **options: Any) -> Any:
        found.append(source)
        return stream(source, *arguments, **options)

    monkeypatch.setattr(audio, "stream", noting)
    return found


def write(path: Path, samples: np.ndarray) -> str:
    import soundfile

    soundfile.write(path, samples, RATE)
    return str(path)


@pytest.fixture
def clips(tmp_path: Path, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Six clips of a tone and six of noise, and which is which."""
    seconds = np.arange(4_000) / RATE
    paths = []
    for i in range(6):
        tone = 0.5 * np.sin(2 * np.pi * (400 + 50 * i) * seconds)
        paths += [
            write(tmp_path / f"{i}-tone.wav", tone),
            write(tmp_path / f"{i}-noise.wav", rng.normal(0, 0.1, 4_000)),
        ]
    return paths, [Path(path).stem[2:] for path in paths]


def embedder(**options: Any) -> AudioSetEmbedder:
    return AudioSetEmbedder("tiny", "untrained:0", threads=1, **options)


def test_the_checks_of_scikit_learn_pass() -> None:
    # It knows how to check only what takes an array of two axes: here rows of samples.
    rows_of_samples = embedder(sample_rate=RATE)
    not_for_sounds = {"check_estimators_dtypes": "int64 is no type of PCM samples: how loud 1 would be is not known"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks themselves, which differ from version to version
        results = check_estimator(rows_of_samples, expected_failed_checks=not_for_sounds, on_skip=None)
    found = {
        status: {result["check_name"] for result in results if result["status"] == status}
        for status in ("passed", "xfail", "skipped")
    }
    assert found["xfail"] == not_for_sounds.keys()
    assert found["skipped"] <= {"check_array_api_input"}  # wants a variable of the environment
    assert found["passed"] >= {
        "check_estimator_cloneable",
        "check_estimators_pickle",
        "check_parameters_default_constructible",
        "check_pipeline_consistency",
        "check_methods_subset_invariance",
        "check_transformer_general",
        "check_transformers_unfitted_stateless",
    }


def test_its_tags_say_that_it_takes_paths() -> None:
    tags = get_tags(embedder())
    assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, True, False)
    assert not tags.requires_fit
    assert get_tags(embedder(sample_rate=RATE)).input_tags.two_d_array


def test_a_row_is_what_embed_gives(clips: Any) -> None:
    paths, _ = clips
    rows = AudioSetEmbedder("mini", threads=1).fit_transform(paths)
    assert (rows.dtype, rows.shape) == (np.float32, (12, 128))
    model = audioset.load("mini", threads=1)
    np.testing.assert_array_equal(rows, [e.values[0] for e in model.embed_files(paths, pool="mean")])


@pytest.mark.parametrize("form", ["paths", "array", "column", "strings", "series", "frame"])
def test_paths_come_in_any_form(clips: Any, form: str) -> None:
    pandas = pytest.importorskip("pandas")
    paths = clips[0][:3]
    forms = {
        "paths": [Path(path) for path in paths],
        "array": np.array(paths),
        "column": np.array(paths, object)[:, np.newaxis],
        "strings": np.array(paths)[:, np.newaxis],
        "series": pandas.Series(paths, index=[7, 8, 9]),
        "frame": pandas.DataFrame({"file": paths}),
    }
    np.testing.assert_array_equal(embedder().transform(forms[form]), embedder(cache=False).transform(paths))


def test_samples_are_taken_with_their_rate(rng: np.random.Generator) -> None:
    sounds = [rng.uniform(-1, 1, 3_000), rng.integers(-9_999, 9_999, (5_000, 2)).astype(np.int16)]
    rows = embedder(sample_rate=8_000).transform(sounds)
    model = audioset.load("tiny", "untrained:0", threads=1)
    with pytest.warns(audioset.features.ShortClipWarning):
        expected = [model.embed(sound, 8_000, pool="mean").values[0] for sound in sounds]
    np.testing.assert_array_equal(rows, expected)
    same_length = np.stack([sounds[0], sounds[0] / 2])
    assert embedder(sample_rate=8_000).transform(same_length).shape == (2, 16)


def test_other_statistics_are_of_the_examples(clips: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    long = write(tmp_path / "long.wav", rng.uniform(-1, 1, 80_000) * np.linspace(0, 1, 80_000))
    values = audioset.load("tiny", "untrained:0", threads=1).embed(long).values
    assert len(values) > 3
    np.testing.assert_array_equal(embedder(pool="max").transform([long])[0], values.max(axis=0))
    both = embedder(pool="mean_std").transform([long, clips[0][0]])
    np.testing.assert_allclose(both[0], np.concatenate([values.mean(axis=0), values.std(axis=0)]), atol=1e-6)
    assert not both[1, 16:].any()  # one example


def test_statistics_of_blocks_are_those_of_the_whole(rng: np.random.Generator) -> None:
    values = (rng.normal(1_000, 1e-3, (50, 4))).astype(np.float32)
    statistics = _Statistics()
    for block in np.split(values, [0, 1, 7, 7, 30]):
        statistics.add(block)
    expected = np.concatenate([values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)])
    np.testing.assert_allclose(statistics.row("mean_std"), expected, rtol=1e-6)
    np.testing.assert_array_equal(statistics.row("max"), values.max(axis=0))


def test_columns_have_names(clips: Any) -> None:
    names = embedder(pool="mean_std").get_feature_names_out()
    assert (len(names), names[0], names[15], names[16]) == (32, "tiny_mean_0", "tiny_mean_15", "tiny_std_0")
    pytest.importorskip("pandas")
    frame = embedder().set_output(transform="pandas").fit_transform(clips[0][:2])
    assert list(frame.columns) == list(embedder().get_feature_names_out())
    assert frame.shape == (2, 16)


def test_it_is_a_step_of_a_pipeline(clips: Any, embedded: list[Any]) -> None:
    paths, labels = clips
    classifier = make_pipeline(embedder(), StandardScaler(), LogisticRegression())
    assert cross_val_score(classifier, paths, labels, cv=3).tolist() == [1, 1, 1]
    search = GridSearchCV(classifier, {"audiosetembedder__pool": ["mean", "max"]}, cv=2)
    search.fit(paths, labels)
    assert search.best_score_ == 1
    assert sorted(embedded) == sorted(paths * 2)  # one time for each pooling
    again = pickle.loads(pickle.dumps(search.best_estimator_))  # noqa: S301 - made here
    assert again.predict(paths).tolist() == labels


def test_it_joins_others(clips: Any) -> None:
    pandas = pytest.importorskip("pandas")
    paths, labels = clips
    union = FeatureUnion([("mean", embedder()), ("max", embedder(pool="max"))])
    assert union.fit_transform(paths).shape == (12, 32)
    assert union.get_feature_names_out()[16] == "max__tiny_max_0"
    table = pandas.DataFrame({"file": paths, "year": range(12)})
    columns = ColumnTransformer([("sound", embedder(), "file"), ("others", "passthrough", ["year"])])
    assert columns.fit_transform(table, labels).shape == (12, 17)


def test_a_loaded_model_is_not_copied_and_not_pickled(clips: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = audioset.load
    monkeypatch.setattr(audioset, "load", lambda *arguments, **options: loaded.append(1) or load(*arguments, **options))
    fitted = embedder().fit(clips[0])
    rows = fitted.transform(clips[0])
    assert len(loaded) == 1
    pickled = pickle.dumps(fitted)
    assert len(pickled) < 2_000
    np.testing.assert_array_equal(pickle.loads(pickled).transform(clips[0]), rows)  # noqa: S301 - made here
    np.testing.assert_array_equal(clone(fitted).transform(clips[0]), rows)
    assert len(loaded) == 3
    fitted.set_params(precision="fp32", pool="max").transform(clips[0])
    assert len(loaded) == 3
    fitted.set_params(threads=2).transform(clips[0])
    assert len(loaded) == 4
    fitted.fit(clips[0])  # a file of weights may have changed
    assert len(loaded) == 5


def test_a_file_is_embedded_once_until_it_changes(clips: Any, embedded: list[Any]) -> None:
    path, other = clips[0][:2]
    first = embedder().transform([path, path, other])
    assert len(embedded) == 3
    np.testing.assert_array_equal(embedder().transform([other, path]), first[[2, 0]])
    assert len(embedded) == 3
    embedder(hop_s=0.1).transform([path])
    embedder(cache=False).transform([path])
    assert len(embedded) == 5
    Path(path).write_bytes(Path(other).read_bytes() + b"\0\0")
    np.testing.assert_array_equal(embedder().transform([path])[0], first[2])


def test_the_rows_that_are_kept_take_bounded_memory() -> None:
    rows = _Rows(3 * 512)
    for key in "abc":
        rows.put(key, np.full(128, ord(key), np.float32))
    assert rows.get("a") is not None  # now b is the oldest
    rows.put("d", np.zeros(128, np.float32))
    rows.put("d", np.ones(128, np.float32))
    assert [rows.get(key) is None for key in "abcd"] == [False, True, False, False]
    assert rows.num_bytes == 3 * 512


def test_a_file_that_cannot_be_read_is_named(clips: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no sound")
    empty = write(tmp_path / "empty.wav", np.zeros(0))
    paths = [clips[0][0], str(tmp_path / "notes.wav"), str(tmp_path / "absent.wav"), empty]
    for at, what in ((1, "notes.wav"), (2, "absent.wav")):
        with pytest.raises(AudioError, match=rf"X\[1\]: .*{what}"):
            embedder().fit_transform([paths[0], paths[at]])
    with pytest.warns(UnreadSoundsWarning, match=r"3 of 4 recordings .* X\[1\]: .*notes.wav.*X\[2\].*absent.*X\[3\]"):
        rows = embedder(on_error="nan").transform(paths)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, True, True]
    short = embedder(on_error="nan", pad="none")
    with pytest.warns(UnreadSoundsWarning, match=r"0.25 s of sound, no example; expected 0.975 s or more"):
        assert np.isnan(short.transform(paths[:1])).all()
    with pytest.warns(UnreadSoundsWarning, match="; and 2 more$"):
        embedder(on_error="nan").transform(["absent.wav"] * 7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("street.wav", "X: 'street.wav' is one path; expected recordings"),
        (Path("street.wav"), "X: 'street.wav' is one path"),
        (iter(["street.wav"]), "X: list_iterator; expected recordings"),
        ({"street.wav"}, "X: set; expected recordings"),
        ({"street.wav": "street"}, "X: dict; expected recordings"),
        (np.array("street.wav"), "X: ndarray; expected recordings"),
        (np.array([["a.wav", "b.wav"]]), r"X: shape \(1, 2\); expected recordings: a list or a column of paths, one"),
        (["a.wav", None], r"X\[1\]: None; expected the path of a recording"),
        ([3, 4], r"X\[0\]: 3; expected the path of a recording"),
        (np.zeros((2, 100)), r"X\[0\]: an array of samples, whose rate is not known; .*sample_rate=16000"),
    ],
)
def test_what_holds_no_recordings_is_refused(given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        embedder().fit(given)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pool": "median"}, OptionError, "pool: 'median' is unknown; expected one of mean, max, mean_std"),
        ({"on_error": "skip"}, OptionError, "on_error: 'skip' is unknown; expected one of raise, nan"),
        ({"sample_rate": 0}, OptionError, "sample_rate: 0 is out of range; expected 1,000 to 1,000,000 Hz"),
        ({"sample_rate": "16k"}, OptionError, "sample_rate: '16k' is out of range"),
        ({"hop_s": -1}, OptionError, "hop_s: -1 is out of range"),
        ({"pad": "wrap"}, OptionError, "pad: 'wrap' is not a policy"),
        ({"precision": "fp64"}, OptionError, "precision: 'fp64' is unknown"),
        ({"model": "vgg"}, OptionError, "unknown model 'vgg'"),
        ({"weights": "absent.safetensors"}, WeightsError, "absent.safetensors"),
    ],
)
def test_settings_are_checked_by_fit(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        embedder().set_params(**options).fit([])


def test_without_scikit_learn_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    monkeypatch.delitem(sys.modules, "audioset.sklearn")
    with pytest.raises(MissingExtraError, match=r"scikit-learn is not installed; .* `pip install scikit-learn`"):
        importlib.import_module("audioset.sklearn")
