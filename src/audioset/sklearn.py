"""Embeddings as a step of scikit-learn's pipelines: files in, one row of numbers each out.   [extra: sklearn]

from audioset.sklearn import AudioSetEmbedder

classifier = make_pipeline(AudioSetEmbedder("vggish"), StandardScaler(), LogisticRegression())
classifier.fit(paths, labels)
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Generator, Hashable, Iterable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from audioset._extras import check_installed
from audioset.errors import AudioError, OptionError
from audioset.features import Pad

check_installed("audioset.sklearn", "sklearn")

from sklearn.base import BaseEstimator, TransformerMixin  # noqa: E402 - what is missing is named first

if TYPE_CHECKING:
    from audioset.audio import AudioSource
    from audioset.embed import Model

ClipPool: TypeAlias = Literal["mean", "max", "mean_std"]
OnError: TypeAlias = Literal["raise", "nan"]
Float32Array: TypeAlias = npt.NDArray[np.float32]

_CACHE_BYTES: Final = 256 << 20
_NAMED: Final = 5


class UnreadSoundsWarning(UserWarning):
    """Some sounds could not be embedded: their rows are NaN."""


class AudioSetEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A transformer from recordings to one embedding each. It learns nothing: no label or clip can leak through it.

    Recordings are embedded many at a time, on `threads` cores, in bounded memory. The model is loaded by `fit`, or by
    the first `transform`; it is neither copied by `clone` nor pickled, but loaded again where it is needed.

    Parameters
    ----------
    model, weights
        As `audioset.load` takes them: a name or a file of one's own, and where its weights come from.
    pool : {"mean", "max", "mean_std"}
        What one row says of a recording's examples: their mean, as `audioset.Model.embed(…, pool="mean")` gives it;
        their maximum; or their mean and then their standard deviation (divided by their number: 0 for one example),
        twice as many columns.
    hop_s, pad
        See `audioset.EmbedOptions`; the model's own by default.
    sample_rate : int, optional
        Of recordings that are given as arrays of samples, in Hz.
    precision, engine, device, threads
        See `audioset.load`.
    on_error : {"raise", "nan"}
        A recording that cannot be read, or has no example: raise AudioError, or give it a row of NaN and warn.
    cache : bool
        Keep the rows of files in this process's memory, up to 256 MiB for all embedders together, and use them again
        while a file has the same size and time of change: cross-validation then embeds each file once, not once a
        fold.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "vggish",
        weights: str | os.PathLike[str] | None = None,
        *,
        pool: ClipPool = "mean",
        hop_s: float | None = None,
        pad: Pad | None = None,
        sample_rate: int | None = None,
        precision: str = "fp32",
        engine: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        on_error: OnError = "raise",
        cache: bool = True,
    ) -> None:
        self.model = model
        self.weights = weights
        self.pool = pool
        self.hop_s = hop_s
        self.pad = pad
        self.sample_rate = sample_rate
        self.precision = precision
        self.engine = engine
        self.device = device
        self.threads = threads
        self.on_error = on_error
        self.cache = cache

    def fit(self, X: Any, y: Any = None) -> AudioSetEmbedder:  # noqa: N803 - scikit-learn's name for it
        """Load the model, check the settings and the form of `X`, and return the embedder itself. No file is read.

        Raises
        ------
        OptionError
            A setting is out of range, or `X` holds no recordings.
        WeightsError, FetchError, MissingExtraError
            As `audioset.load`.
        """
        self._loaded: tuple[Any, Model] | None = None  # weights may have changed on disk
        self._loaded_model()
        self._sounds(X)
        return self

    def transform(self, X: Any) -> Float32Array:  # noqa: N803
        """Return one row a recording.

        Parameters
        ----------
        X : list, array, Series, or DataFrame or array of one column, of n recordings
            Paths; with `sample_rate` also arrays of samples, each of shape (samples,) or (samples, channels), or one
            array of shape (n, samples).

        Returns
        -------
        ndarray of float32, shape (n, dim), or what `set_output` says
            `dim` is the model's, twice for `pool="mean_std"`.

        Raises
        ------
        AudioError
            A recording cannot be read, or has no example, and `on_error` is "raise".
        OptionError, WeightsError, FetchError, MissingExtraError
            As `fit`.

        Warns
        -----
        UnreadSoundsWarning
            Rows are NaN for that reason, and `on_error` is "nan".
        """
        model = self._loaded_model()
        sounds = self._sounds(X)
        regime = (model.spec.layers, model.weights.sha256, model.place, *self._options(model), self.pool)
        keys = [self._key(regime, sound) for sound in sounds]
        width = len(self.pool.split("_")) * model.spec.embedding_dim
        rows = np.full((len(sounds), width), np.nan, np.float32)
        new = []
        for at, key in enumerate(keys):
            kept = None if key is None else _KEPT.get(key)
            if kept is None:
                new.append(at)
            else:
                rows[at] = kept
        failed: list[str] = []
        with contextlib.closing(self._pooled(model, [sounds[at] for at in new])) as pooled:
            for at, found in zip(new, pooled, strict=True):
                if isinstance(found, Exception):
                    if self.on_error == "raise":
                        raise AudioError(f"X[{at}]: {found}") from found
                    failed.append(f"X[{at}]: {found}")
                    continue
                rows[at] = found
                if (key := keys[at]) is not None:
                    _KEPT.put(key, found)
        if failed:
            more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
            warnings.warn(
                f"{len(failed)} of {len(sounds)} recordings have rows of NaN: {'; '.join(failed[:_NAMED])}{more}",
                UnreadSoundsWarning,
                stacklevel=3,  # behind what does as set_output says
            )
        return rows

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns: `vggish_mean_0`, `vggish_mean_1`, …; `input_features` is not used.

        Raises
        ------
        OptionError, WeightsError, FetchError, MissingExtraError
            As `fit`.
        """
        spec = self._loaded_model().spec
        statistics = self.pool.split("_")
        return np.array([f"{spec.name}_{of}_{i}" for of in statistics for i in range(spec.embedding_dim)], object)

    def _loaded_model(self) -> Model:
        """The model for the settings as they are now, which are all checked."""
        import audioset
        from audioset.audio import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ

        rate: Any = self.sample_rate
        if rate is not None and not (
            isinstance(rate, int | float | np.number) and MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ
        ):
            raise OptionError(
                f"sample_rate: {rate!r} is out of range; expected {MIN_SAMPLE_RATE_HZ:,} to {MAX_SAMPLE_RATE_HZ:,} Hz, "
                "or None"
            )
        for name, value, known in (("pool", self.pool, ClipPool), ("on_error", self.on_error, OnError)):
            if value not in get_args(known):
                raise OptionError(f"{name}: {value!r} is unknown; expected one of {', '.join(get_args(known))}")
        settings = {name: getattr(self, name) for name in ("precision", "engine", "device", "threads")}
        wanted = (self.model, self.weights, settings)
        loaded: tuple[Any, Model] | None = getattr(self, "_loaded", None)
        if loaded is None or loaded[0] != wanted:
            self._loaded = loaded = (wanted, audioset.load(self.model, self.weights, **settings))
        self._options(loaded[1])
        return loaded[1]

    def _options(self, model: Model) -> tuple[float, Pad]:
        from audioset.embed import EmbedOptions

        return EmbedOptions(self.hop_s, self.pad).resolve(model.spec)

    def _sounds(self, X: Any) -> list[AudioSource]:  # noqa: N803
        """The recordings in `X`, one a row."""
        expected = "expected recordings: a list or a column of paths"
        if isinstance(X, str | os.PathLike):
            raise OptionError(f"X: {os.fspath(X)!r} is one path; {expected}. Use a list of one")
        if hasattr(X, "toarray"):
            raise OptionError(f"X: {type(X).__name__}, a sparse array; {expected}. Samples are dense: X.toarray()")
        if not hasattr(X, "__len__") or getattr(X, "ndim", 1) == 0 or isinstance(X, Mapping | Set):  # no rows in order
            raise OptionError(f"X: {type(X).__name__}; {expected}")
        values = np.asarray(X) if hasattr(X, "__array__") else X
        if isinstance(values, np.ndarray) and values.dtype.kind not in "fiu":
            if values.ndim == 2 and values.shape[1] == 1:
                values = values[:, 0]
            if values.ndim != 1:
                raise OptionError(f"X: shape {values.shape}; {expected}, one column")
        return [self._sound(sound, f"X[{at}]") for at, sound in enumerate(values)]

    def _sound(self, sound: Any, subject: str) -> AudioSource:
        if isinstance(sound, str | os.PathLike):
            return os.fspath(sound)
        samples = np.asarray(sound)
        if samples.dtype.kind not in "fiu" or samples.ndim == 0:
            raise OptionError(f"{subject}: {sound!r:.80}; expected the path of a recording, or an array of its samples")
        if self.sample_rate is None:
            raise OptionError(
                f"{subject}: an array of samples, whose rate is not known; expected a path, or the rate: "
                "AudioSetEmbedder(sample_rate=16000)"
            )
        return samples

    def _key(self, regime: tuple[Hashable, ...], sound: AudioSource) -> Hashable | None:
        """What a row in the cache is found by, or None where it is not to be kept."""
        if not self.cache or not isinstance(sound, str):
            return None
        try:
            path = Path(sound).absolute()
            status = path.stat()
        except (OSError, ValueError):
            return None  # reading says what is wrong with it
        return (*regime, path, status.st_size, status.st_mtime_ns)

    def _pooled(self, model: Model, sounds: Iterable[AudioSource]) -> Generator[Float32Array | Exception, None, None]:
        """Yield the row of each recording in turn, or why it has none."""
        from audioset.embed import EmbedOptions

        rated = ((sound, None if isinstance(sound, str) else self.sample_rate) for sound in sounds)
        statistics = _Statistics()
        for block in model.embed_blocks(rated, EmbedOptions(self.hop_s, self.pad)):
            statistics.add(block.values)
            if not block.last:
                continue
            if block.error is not None:
                yield block.error
            elif not statistics.count:
                least = "0.975 s or more" if self.pad == "none" else "one sample or more"
                yield AudioError(f"{block.duration_s:g} s of sound, no example; expected {least}. Leave it out")
            else:
                yield statistics.row(self.pool)
            statistics = _Statistics()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_loaded"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        arrays = self.sample_rate is not None
        tags.input_tags.two_d_array = arrays
        tags.input_tags.one_d_array = not arrays
        tags.input_tags.string = True
        tags.no_validation = True  # of numbers: recordings are looked at one by one
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags


class _Statistics:
    """What is known of the examples of one recording so far, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._total = self._squares = np.zeros(1)  # squares of the distances from the mean
        self._highest = np.full(1, -np.inf)

    def add(self, values: npt.NDArray[Any]) -> None:
        if not len(values):
            return
        total = values.sum(axis=0, dtype=np.float64)
        mean = total / len(values)
        squares = np.square(values - mean).sum(axis=0)
        if self.count:  # Chan, Golub and LeVeque 1983: no difference of large numbers
            apart = mean - self._total / self.count
            squares = squares + np.square(apart) * (self.count * len(values) / (self.count + len(values)))
        self._squares = self._squares + squares
        self._total = self._total + total
        self._highest = np.maximum(self._highest, values.max(axis=0))
        self.count += len(values)

    def row(self, pool: ClipPool) -> Float32Array:
        mean = self._total / self.count
        if pool == "max":
            return self._highest.astype(np.float32)
        if pool == "mean_std":
            mean = np.concatenate([mean, np.sqrt(self._squares / self.count)])
        return mean.astype(np.float32)


class _Rows:
    """Rows by key, the ones not used for longest forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._rows: OrderedDict[Hashable, Float32Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Float32Array | None:
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
            return self._rows.get(key)

    def put(self, key: Hashable, row: Float32Array) -> None:
        with self._lock:
            old = self._rows.pop(key, None)
            self._rows[key] = row
            self.num_bytes += row.nbytes - (0 if old is None else old.nbytes)
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._rows.popitem(last=False)[1].nbytes


_KEPT = _Rows(_CACHE_BYTES)
