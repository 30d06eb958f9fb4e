"""Audio to embeddings and scores: what `audioset.load` returns, and what it gives."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

import numpy as np
import numpy.typing as npt

from audioset import _runtime, audio, engine, features, models
from audioset._runtime import Place, Precision
from audioset.audio import AudioSource, Clip
from audioset.classes import ClassList
from audioset.errors import OptionError
from audioset.features import Pad
from audioset.models.spec import ModelSpec
from audioset.network import Network
from audioset.postprocess import Pca, quantize
from audioset.scores import Scores
from audioset.weights import Weights, load_pca
from audioset.weights import load as load_weights

if TYPE_CHECKING:
    from audioset.hub import Pushed
    from audioset.live import Stream

Pool: TypeAlias = Literal["none", "mean"]
Postprocess: TypeAlias = Literal["none", "pca", "uint8"]
Regime: TypeAlias = Literal["raw", "pca", "uint8"]
StreamOutput: TypeAlias = Literal["embedding", "scores"]


@dataclass(frozen=True)
class EmbedOptions:
    """What decides the values of a job, besides the audio and the model.

    Attributes
    ----------
    hop_s : float or None
        Seconds from one example to the next; None is the model's own.
    pad : {"short", "none", "all"} or None
        What happens to samples that do not fill an example (see `audioset.features`); None is the model's own.
    start_s, duration_s : float, float or None
        Part of each file to read. Times in the results count from the start of the file.
    pool : {"none", "mean"}
        "mean" gives one row a file, the mean of its examples.
    postprocess : {"none", "pca", "uint8"}
        "pca" gives PCA components, "uint8" the released 8-bit form; VGGish only. Pooling comes before.
    """

    hop_s: float | None = None
    pad: Pad | None = None
    start_s: float = 0.0
    duration_s: float | None = None
    pool: Pool = "none"
    postprocess: Postprocess = "none"

    def resolve(self, spec: ModelSpec) -> tuple[float, Pad]:
        """Check every option for this model and return the hop and the padding, its own where not given."""
        hop_s = spec.hop_s if self.hop_s is None else self.hop_s
        pad = features.check_pad(spec.pad if self.pad is None else self.pad)
        features.num_examples(0, hop_s=hop_s, pad=pad)  # raises for a hop out of range
        for name, value, known in (("pool", self.pool, Pool), ("postprocess", self.postprocess, Postprocess)):
            if value not in get_args(known):
                raise OptionError(f"{name}: {value!r} is unknown; expected one of {', '.join(get_args(known))}")
        if not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise OptionError(f"start_s: {self.start_s} is out of range; expected seconds, 0 or more")
        if self.duration_s is not None and not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise OptionError(f"duration_s: {self.duration_s} is out of range; expected seconds above 0, or None")
        if self.postprocess != "none" and not spec.has_pca:
            raise OptionError(
                f"postprocess: {self.postprocess!r} is not defined for {spec.name}; PCA parameters are published for "
                'vggish only. Use postprocess="none"'
            )
        return hop_s, pad

    @property
    def regime(self) -> Regime:
        """The space that the values are in."""
        return "raw" if self.postprocess == "none" else self.postprocess


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of one file, with what a bare array forgets.

    Attributes
    ----------
    values : ndarray of float32 (uint8 when so postprocessed), shape (k, dim)
        Row `i` is of the example that starts at `start_s[i]`; k is 0 where the clip is too short under `pad="none"`.
    start_s, end_s : ndarray of float64, shape (k,)
        Seconds in the file.
    file : str
        The path as it was given; "<array>" or "<stream>" for what has none.
    model : str
        Name of the model.
    weights : str
        SHA-256 of the weights.
    regime : {"raw", "pca", "uint8"}
        The space that the values are in.
    duration_s : float
        Seconds of audio that were read.
    padded_short : bool
        The clip was shorter than one example and was zero-padded to one.
    precision : {"fp32", "bf16", "int8"}
        Of the network's arithmetic.
    error : Exception or None
        In `embed_files` only: why this file has no values.
    """

    values: npt.NDArray[Any]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    file: str
    model: str
    weights: str
    regime: Regime
    duration_s: float
    padded_short: bool = False
    precision: Precision = "fp32"
    error: Exception | None = None

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Start times in seconds, shape (k,); the same as `start_s`."""
        return self.start_s

    @property
    def centre_s(self) -> npt.NDArray[np.float64]:
        """Centre times in seconds, shape (k,)."""
        return (self.start_s + self.end_s) / 2

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class EmbeddedBlock:
    """Some consecutive rows of one file, as `Model.embed_blocks` gives them; fields as in `Embeddings`.

    `index` is that of the source, counted from 0; `offset_s` the second of it at which reading began.
    """

    index: int
    values: npt.NDArray[Any]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    last: bool
    duration_s: float
    padded_short: bool
    error: Exception | None
    offset_s: float = 0.0


class Model:
    """A network with its weights: audio in, embeddings and scores out. Made by `audioset.load`."""

    def __init__(
        self,
        spec: ModelSpec,
        model_weights: Weights,
        *,
        threads: int | None = None,
        batch_size: int | None = None,
        pca: Pca | str | os.PathLike[str] | None = None,
        place: Place | None = None,
    ) -> None:
        check_cores(threads, batch_size)
        self.place = _runtime.resolve() if place is None else place
        self.spec = spec = spec.of_format(model_weights.provenance.get("source_format"))
        self.weights = model_weights
        self.threads = available_cores() if threads is None else threads
        self.batch_size = self.place.batch_size if batch_size is None else batch_size
        self._pca = pca
        self._network = Network(spec, model_weights, place=self.place, calls=self.place.calls(self.threads))

    @property
    def name(self) -> str:
        """The model's name."""
        return self.spec.name

    @cached_property
    def pca(self) -> Pca:
        """The published PCA parameters, fetched where they are not in the cache."""
        return self._pca if isinstance(self._pca, Pca) else Pca(*load_pca(self._pca))

    def embed(
        self,
        source: AudioSource,
        sample_rate: int | None = None,
        *,
        hop_s: float | None = None,
        pad: Pad | None = None,
        start_s: float = 0.0,
        duration_s: float | None = None,
        pool: Pool = "none",
        postprocess: Postprocess = "none",
    ) -> Embeddings:
        """Return the embeddings of one file, stream or array.

        Parameters
        ----------
        source : path, binary file object, or array of shape (n,) or (n, channels)
            Any audio; see `audioset.audio.read`.
        sample_rate : int, optional
            Of an array, in Hz.
        hop_s, pad, start_s, duration_s, pool, postprocess
            See `EmbedOptions`.

        Returns
        -------
        Embeddings
            `values` has shape (k, dim); the example axis always stays, so one example gives (1, dim).

        Raises
        ------
        AudioError
            The source cannot be read.
        OptionError
            An option is out of range.

        Warns
        -----
        ShortClipWarning
            The clip is shorter than one example (0.975 s) and was zero-padded to one.
        """
        options = EmbedOptions(hop_s, pad, start_s, duration_s, pool, postprocess)
        (result,) = self._embed_sources([(source, sample_rate)], options)
        if result.error is not None:
            raise result.error
        if result.padded_short:
            features.warn_short()
        return result

    def embed_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        hop_s: float | None = None,
        pad: Pad | None = None,
        start_s: float = 0.0,
        duration_s: float | None = None,
        pool: Pool = "none",
        postprocess: Postprocess = "none",
    ) -> Iterator[Embeddings]:
        """Yield the embeddings of many files, in order, batched across files, in bounded memory.

        A file that cannot be read does not stop the others: its `Embeddings` has no rows and says why in `error`.
        Parameters are as in `embed`; `paths` is taken lazily.
        """
        if isinstance(paths, str | os.PathLike):
            raise OptionError(f"paths: {os.fspath(paths)!r} is one path; expected several. Use embed, or a list of one")
        options = EmbedOptions(hop_s, pad, start_s, duration_s, pool, postprocess)
        return self._embed_sources(((path, None) for path in paths), options)

    def embed_blocks(
        self, sources: Iterable[tuple[AudioSource | Clip, int | None]], options: EmbedOptions
    ) -> Iterator[EmbeddedBlock]:
        """Yield rows as they are ready, in order: what `embed_files` collects, for files too long to collect.

        Parameters
        ----------
        sources : iterable of (source, sample_rate)
            As `embed` takes them. An `audioset.audio.Clip` has a window of its own, in place of that of `options`.
        options : EmbedOptions
            For all of them.
        """
        hop_s, pad = options.resolve(self.spec)
        return self._blocks(sources, options, hop_s, pad, self._postprocessor(options.postprocess))

    def _blocks(
        self,
        sources: Iterable[tuple[AudioSource | Clip, int | None]],
        options: EmbedOptions,
        hop_s: float,
        pad: Pad,
        finish: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
    ) -> Iterator[EmbeddedBlock]:
        pooled = np.zeros(self.spec.embedding_dim, np.float64)
        count = 0
        for block in self._rows(sources, "embedding", options, hop_s, pad):
            values, start_s, end_s = block.values, block.start_s, block.end_s
            if options.pool == "mean":
                pooled += values.sum(axis=0, dtype=np.float64)
                count += len(values)
                if not block.last:
                    continue
                rows = min(count, 1)
                values = (pooled / max(count, 1)).astype(np.float32)[np.newaxis][:rows]
                start_s = np.full(rows, block.offset_s)
                end_s = np.full(rows, block.offset_s + block.duration_s)
                pooled[:] = 0
                count = 0
            yield replace(block, values=finish(values), start_s=start_s, end_s=end_s)

    def _rows(
        self,
        sources: Iterable[tuple[AudioSource | Clip, int | None]],
        output: str,
        options: EmbedOptions,
        hop_s: float,
        pad: Pad,
    ) -> Iterator[EmbeddedBlock]:
        """Yield rows of one of the network's outputs."""
        offsets: dict[int, float] = {}

        def waveforms() -> Iterator[engine.OpenWaveform]:
            for index, (source, rate) in enumerate(sources):
                clip = source if isinstance(source, Clip) else Clip(source, options.start_s, options.duration_s)
                offsets[index] = clip.start_s
                yield partial(audio.stream, clip.source, rate, start_s=clip.start_s, duration_s=clip.duration_s)

        nothing = np.empty((0, self.spec.outputs[output]), np.float32)
        for block in engine.run(
            waveforms(),
            partial(self._network.run, outputs=(output,)),
            hop_s=hop_s,
            pad=pad,
            log_offset=self.spec.log_offset,
            batch_size=self.batch_size,
            threads=self.place.workers(self.threads),
            calls=self.place.calls(self.threads),
        ):
            values = block.values.get(output, nothing)
            start_s, _, end_s = features.example_times(len(values), hop_s=hop_s, first=block.first)
            offset_s = offsets.pop(block.index) if block.last else offsets[block.index]
            yield EmbeddedBlock(
                block.index,
                values,
                offset_s + start_s,
                offset_s + end_s,
                block.last,
                block.num_samples / features.SAMPLE_RATE_HZ,
                block.padded_short,
                block.error,
                offset_s,
            )

    def _postprocessor(self, kind: Postprocess) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]:
        if kind == "none":
            return lambda values: values
        pca = self.pca
        if kind == "pca":
            return pca.apply
        return lambda values: quantize(pca.apply(values))

    def _embed_sources(
        self, sources: Iterable[tuple[AudioSource, int | None]], options: EmbedOptions
    ) -> Iterator[Embeddings]:
        names: deque[str] = deque()
        # Checks the options now, not when the first result is asked for.
        return self._collected(self.embed_blocks(_noting_names(sources, names), options), names, options.regime)

    def _collected(
        self, all_blocks: Iterator[EmbeddedBlock], names: deque[str], regime: Regime
    ) -> Iterator[Embeddings]:
        for whole in _whole_files(all_blocks):
            yield Embeddings(
                values=whole.values,
                start_s=whole.start_s,
                end_s=whole.end_s,
                file=names.popleft(),
                model=self.name,
                weights=self.weights.sha256,
                regime=regime,
                duration_s=whole.duration_s,
                padded_short=whole.padded_short,
                precision=self.place.precision,
                error=whole.error,
            )

    def tag(
        self,
        source: AudioSource,
        sample_rate: int | None = None,
        *,
        hop_s: float | None = None,
        pad: Pad | None = None,
        start_s: float = 0.0,
        duration_s: float | None = None,
    ) -> Scores:
        """Return the scores of one file, stream or array: which sounds are in it, and when.

        Parameters
        ----------
        source : path, binary file object, or array of shape (n,) or (n, channels)
            Any audio; see `audioset.audio.read`.
        sample_rate : int, optional
            Of an array, in Hz.
        hop_s, pad, start_s, duration_s
            See `EmbedOptions`.

        Returns
        -------
        Scores
            `values` has shape (k, num_classes); the example axis always stays.

        Raises
        ------
        AudioError
            The source cannot be read.
        OptionError
            An option is out of range, or the model has no classes.

        Warns
        -----
        ShortClipWarning
            The clip is shorter than one example (0.975 s) and was zero-padded to one.
        """
        options = EmbedOptions(hop_s, pad, start_s, duration_s)
        (result,) = self._tag_sources([(source, sample_rate)], options, None)
        if result.error is not None:
            raise result.error
        if result.padded_short:
            features.warn_short()
        return result

    def tag_files(
        self,
        sources: Iterable[AudioSource],
        *,
        hop_s: float | None = None,
        pad: Pad | None = None,
        start_s: float = 0.0,
        duration_s: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[Scores]:
        """Yield the scores of many files, in order, batched across files, holding those of one at a time.

        A file that cannot be read does not stop the others: its `Scores` has no rows and says why in `error`.
        Parameters are as in `tag`; `sources` is taken lazily.

        Parameters
        ----------
        progress : callable, optional
            Called now and then with the seconds of audio that have been scored, over all files.
        """
        return self._tag_sources(
            ((source, None) for source in sources), EmbedOptions(hop_s, pad, start_s, duration_s), progress
        )

    @overload
    def stream(
        self,
        sample_rate: int,
        *,
        channels: int | None = None,
        output: Literal["embedding"] = "embedding",
        hop_s: float | None = None,
        pad: Pad | None = None,
        postprocess: Postprocess = "none",
    ) -> Stream[Embeddings]: ...

    @overload
    def stream(
        self,
        sample_rate: int,
        *,
        channels: int | None = None,
        output: Literal["scores"],
        hop_s: float | None = None,
        pad: Pad | None = None,
    ) -> Stream[Scores]: ...

    def stream(
        self,
        sample_rate: int,
        *,
        channels: int | None = None,
        output: StreamOutput = "embedding",
        hop_s: float | None = None,
        pad: Pad | None = None,
        postprocess: Postprocess = "none",
    ) -> Stream[Embeddings] | Stream[Scores]:
        """Return a stream that takes sound in chunks as it comes and gives rows as soon as they are known.

        `push(chunk)` gives the rows that a chunk completes and `finish()` the rest: all together those of `embed` or
        `tag`, bit for bit. See `audioset.Stream` for how late they come.

        Parameters
        ----------
        sample_rate : int
            Of the chunks, in Hz.
        channels : int, optional
            Of the chunks; by default as many as the first one has.
        output : {"embedding", "scores"}
            What to give: `Embeddings`, or `Scores` of a model that tags.
        hop_s, pad, postprocess
            See `EmbedOptions`; `postprocess` of embeddings only.

        Raises
        ------
        SampleRateError
            The rate cannot be resampled.
        OptionError
            An option is out of range, or the model has no classes.
        """
        from audioset.live import Stream

        options = EmbedOptions(hop_s, pad, postprocess=postprocess)
        hop, policy = options.resolve(self.spec)
        if output not in get_args(StreamOutput):
            raise OptionError(f"output: {output!r} is unknown; expected one of {', '.join(get_args(StreamOutput))}")
        if output == "scores" and postprocess != "none":
            raise OptionError(f'postprocess: {postprocess!r} is of embeddings; expected "none" with output="scores"')
        begin = partial(
            Stream,
            sample_rate,
            lambda examples: self._network.run(examples, outputs=(output,))[output],
            channels=channels,
            hop_s=hop,
            pad=policy,
            log_offset=self.spec.log_offset,
            batch_size=self.batch_size,
        )
        if output == "scores":
            classes = self._classes()
            return begin(
                rows=lambda values, **about: Scores(
                    values,
                    classes=classes,
                    file="<stream>",
                    model=self.name,
                    weights=self.weights.sha256,
                    precision=self.place.precision,
                    **about,
                )
            )
        finish = self._postprocessor(postprocess)
        return begin(
            rows=lambda values, **about: Embeddings(
                finish(values),
                file="<stream>",
                model=self.name,
                weights=self.weights.sha256,
                regime=options.regime,
                precision=self.place.precision,
                **about,
            )
        )

    def push_to_hub(self, repo_id: str, **options: Any) -> Pushed:
        """Push a model of one's own to a repository on Hugging Face; its `name` is "hf://owner/name@COMMIT" then.

        It is the file that the model was loaded from; `options` are those of `audioset.hub.push`.

        Raises
        ------
        OptionError
            The model is not one's own.
        FetchError
            The Hub refuses, or cannot be reached.
        """
        from audioset.hub import push

        if self.spec.own_classes is None or self.weights.path is None:
            raise OptionError(
                f"{self.name}: no model of your own; expected one from a file that `audioset finetune` wrote"
            )
        return push(self.weights.path, repo_id, **options)

    def _classes(self) -> ClassList:
        if self.spec.classes is None:
            tagging = ", ".join(spec.name for spec in models.REGISTRY.values() if spec.num_classes)
            raise OptionError(
                f"{self.name}: gives embeddings and has no classes to score; expected a model that tags"
                + (f": {tagging}" if tagging else "")
            )
        return self.spec.classes

    def _tag_sources(
        self,
        sources: Iterable[tuple[AudioSource, int | None]],
        options: EmbedOptions,
        progress: Callable[[float], None] | None,
    ) -> Iterator[Scores]:
        classes = self._classes()
        hop_s, pad = options.resolve(self.spec)
        return self._collected_scores(sources, options, hop_s, pad, classes, progress)

    def _collected_scores(
        self,
        sources: Iterable[tuple[AudioSource, int | None]],
        options: EmbedOptions,
        hop_s: float,
        pad: Pad,
        classes: ClassList,
        progress: Callable[[float], None] | None,
    ) -> Iterator[Scores]:
        names: deque[str] = deque()
        blocks = self._rows(_noting_names(sources, names), "scores", options, hop_s, pad)
        if progress is not None:
            blocks = _telling(blocks, options.start_s, progress)
        for whole in _whole_files(blocks):
            yield Scores(
                values=whole.values,
                start_s=whole.start_s,
                end_s=whole.end_s,
                classes=classes,
                file=names.popleft(),
                model=self.name,
                weights=self.weights.sha256,
                duration_s=whole.duration_s,
                padded_short=whole.padded_short,
                precision=self.place.precision,
                error=whole.error,
            )


def load(
    model: str | os.PathLike[str] = "vggish",
    weights: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    batch_size: int | None = None,
    pca: Pca | str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    engine: str | None = None,
    device: str = "cpu",
) -> Model:
    """Return a model ready to embed and, where it has classes, to tag.

    Parameters
    ----------
    model : str or path
        Its name: see `audioset models list`. Or a model of one's own: a file that `audioset finetune` wrote, or
        "hf://owner/name", "hf://owner/name@revision": such a file on Hugging Face.
    weights : str or path, optional
        None: the published ones, from the cache or downloaded and verified. A path: safetensors, a TensorFlow
        checkpoint (V1, or the prefix of V2), torchvggish's .pth; or "hf://owner/name". "untrained:SEED": the seeded
        network, for tests.
    threads : int, optional
        Cores to use; all that the process may use by default.
    batch_size : int, optional
        Examples that go through the network at once; 32 by default, 256 on a graphics processor.
    pca : Pca or path, optional
        PCA parameters (a path: .npz) for `postprocess`; the published ones by default, fetched when first needed.
    precision : {"fp32", "bf16", "int8"}
        Of the network's arithmetic; results are float32 in any case. "int8" makes it three to four times as fast on
        processors and differs a little: see docs/performance.md. It is made once for given weights, which takes
        seconds, and kept in the cache. "bf16" needs OpenVINO on processors, PyTorch on graphics processors.
    engine : {"onnxruntime", "openvino", "torch"}, optional
        The library that runs the network; by default the first installed one that can.
    device : str
        "cpu"; "cuda" or "cuda:1", a graphics processor; "coreml", Apple's.

    Raises
    ------
    OptionError
        The model is unknown or an option out of range, or the device is not there.
    MissingExtraError
        No library that is installed can run it so.
    WeightsError, FetchError
        The weights cannot be had or are not this model's.
    """
    name = _as_now(os.fspath(model))
    if isinstance(weights, str):
        weights = _as_now(weights)
    spec = models.get(name)
    place = _runtime.resolve(precision, engine, device)
    return Model(spec, load_weights(name, weights), threads=threads, batch_size=batch_size, pca=pca, place=place)


def _as_now(name: str) -> str:
    """Return a name on Hugging Face with the commit that it is at now, any other as it is."""
    if not name.startswith(models.own.HUB):
        return name
    from audioset.hub.download import pinned

    return pinned(name)


def _whole_files(blocks: Iterable[EmbeddedBlock]) -> Iterator[EmbeddedBlock]:
    """Yield one block a file with all of its rows, none where it failed."""
    parts: list[EmbeddedBlock] = []
    for block in blocks:
        parts.append(block)
        if not block.last:
            continue
        rows = slice(None) if block.error is None else slice(0)
        yield replace(
            block,
            values=np.concatenate([part.values for part in parts])[rows],
            start_s=np.concatenate([part.start_s for part in parts])[rows],
            end_s=np.concatenate([part.end_s for part in parts])[rows],
        )
        parts.clear()


def _telling(
    blocks: Iterable[EmbeddedBlock], start_s: float, progress: Callable[[float], None]
) -> Iterator[EmbeddedBlock]:
    """Pass blocks on, telling the seconds of audio that they reach to, over all files."""
    done_s = 0.0
    for block in blocks:
        if block.last:
            done_s += block.duration_s
            progress(done_s)
        elif len(block.end_s):
            progress(done_s + float(block.end_s[-1]) - start_s)
        yield block


def _noting_names(
    sources: Iterable[tuple[AudioSource, int | None]], names: deque[str]
) -> Iterator[tuple[AudioSource, int | None]]:
    """Pass sources on, appending the name of each as it is taken."""
    for source, rate in sources:
        names.append(_name(source))
        yield source, rate


def _name(source: AudioSource) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "<array>" if isinstance(source, np.ndarray) else "<stream>"


def check_cores(threads: int | None, batch_size: int | None) -> None:
    """Raise OptionError for a number of threads or a size of batches that makes no sense."""
    for name, value in (("threads", threads), ("batch_size", batch_size)):
        if value is not None and not 1 <= value <= 1024:
            raise OptionError(f"{name}: {value} is out of range; expected 1 to 1024")


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
