"""Waveform to log-mel examples as a Keras layer: what `audioset.features` computes, on any backend, with gradients."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from audioset import features
from audioset.errors import AudioError, OptionError
from audioset.features import (
    DEFAULT_HOP_S,
    DEFAULT_LOG_OFFSET,
    EXAMPLE_SAMPLES,
    FFT_SAMPLES,
    FRAME_HOP_S,
    FRAME_HOP_SAMPLES,
    NUM_FRAMES,
    NUM_MEL_BANDS,
    WINDOW_SAMPLES,
    Pad,
)
from audioset.models.spec import ModelSpec

Float64Array: TypeAlias = npt.NDArray[np.float64]

# Hops that a frame reaches into: its samples are whole hops and a part of the last one.
_HOPS_A_FRAME = -(-WINDOW_SAMPLES // FRAME_HOP_SAMPLES)
# Added to the power, as the square root has no gradient at 0; too little to be seen beside the offset.
_LEAST_POWER = 1e-30


@keras.saving.register_keras_serializable(package="audioset")
class LogMel(keras.layers.Layer):  # type: ignore[misc]
    """Log-mel examples of a batch of waveforms of one length, as `audioset.features.examples` gives them one by one.

    It has no weights. Inside it is float64, whatever the policy for types (`mixed_float16`, …) is, and float32 on JAX,
    unless `jax_enable_x64` is set, and on Apple's GPUs: in the logarithm of a faint band beside a loud tone, that is
    off by up to 6e-3. Samples are not looked at: NaN in gives NaN out.

    Parameters
    ----------
    log_offset : float
        Added to the mel magnitudes before the natural logarithm: 0.01 for VGGish, 0.001 for YAMNet and mini.
    hop_s : float
        Seconds from one example's start to the next, a whole number of frames (of 0.01 s).
    pad : {"short", "none", "all"}
        What happens to samples that do not fill an example, see `audioset.features`. No warning is given.
    **options
        Of every Keras layer, such as `name`.

    Raises
    ------
    OptionError
        `hop_s` or `pad` is out of range.
    """

    def __init__(
        self,
        log_offset: float = DEFAULT_LOG_OFFSET,
        *,
        hop_s: float = DEFAULT_HOP_S,
        pad: Pad = "short",
        **options: Any,
    ) -> None:
        features.num_examples(0, hop_s=hop_s, pad=pad)  # raises for what is out of range
        self._hop_frames = round(hop_s / FRAME_HOP_S)
        if not np.isclose(self._hop_frames * FRAME_HOP_S, hop_s, rtol=0, atol=1e-9):
            raise OptionError(
                f"hop_s: {hop_s} is no whole number of frames; expected a multiple of {FRAME_HOP_S} s here. "
                "audioset.load(…).embed takes any hop"
            )
        super().__init__(**{"dtype": "float32", **options})
        self.log_offset = log_offset
        self.hop_s = hop_s
        self.pad = pad

    @classmethod
    def of(cls, spec: ModelSpec, *, hop_s: float | None = None, pad: Pad | None = None, **options: Any) -> LogMel:
        """Return the front end that a model was trained on; hop and padding are its own unless given."""
        hop_s = spec.hop_s if hop_s is None else hop_s
        return cls(spec.log_offset, hop_s=hop_s, pad=spec.pad if pad is None else pad, **options)

    def call(self, waveform: Any) -> Any:
        """Return the log-mel examples of a batch of waveforms.

        Parameters
        ----------
        waveform : tensor of float, shape (n, samples)
            16 kHz mono, nominally in [-1, 1].

        Returns
        -------
        tensor of float32, shape (n, k, 96, 64)
            `examples[b, i, j]` is the frame that starts `j · 0.01` seconds into example `i` of clip `b`; k is
            `audioset.features.num_examples(samples, hop_s=hop_s, pad=pad)`, and stays an axis where it is 1 or 0.

        Raises
        ------
        AudioError
            The waveform has other axes.
        """
        return self.cut(self.spectrogram(waveform), self.num_examples(ops.shape(waveform)[1]))

    def spectrogram(self, waveform: Any, *, precision: str | None = None) -> Any:
        """Return the frames that the examples are cut from, shape (n, frames, 64), zero-padded as they are.

        Where there is no example, they are those of one.

        Parameters
        ----------
        waveform : tensor of float, shape (n, samples)
            As for `call`.
        precision : {"float32", "float64"}, optional
            What to compute in; what the backend has, by default.
        """
        _check_axes(tuple(waveform.shape))
        samples = ops.shape(waveform)[1]
        _, larger = _least_and_largest(samples)
        frames = (larger(self.num_examples(samples), 1) - 1) * self._hop_frames + NUM_FRAMES
        hops = frames + _HOPS_A_FRAME - 1
        waveform = waveform[:, : hops * FRAME_HOP_SAMPLES]
        waveform = ops.pad(waveform, [[0, 0], [0, larger(hops * FRAME_HOP_SAMPLES - samples, 0)]])
        dtype = precision or _precision(waveform)
        by_hop = ops.reshape(ops.cast(waveform, dtype), (ops.shape(waveform)[0], hops, FRAME_HOP_SAMPLES))
        parts = [by_hop[:, first : frames + first] for first in range(_HOPS_A_FRAME)]
        framed = ops.concatenate(parts, axis=-1)[:, :, :WINDOW_SAMPLES]
        window, mel = (ops.convert_to_tensor(table, dtype) for table in _tables())
        # Operators here, as Keras's own functions of two tensors give float32.
        real, imaginary = ops.rfft(framed * window, fft_length=FFT_SAMPLES)
        magnitude = ops.sqrt(real * real + imaginary * imaginary + _LEAST_POWER)
        with _in_full():
            log_mel = ops.log(magnitude @ mel + self.log_offset)
        return ops.cast(log_mel, "float32")

    def cut(self, spectrogram: Any, count: Any) -> Any:
        """Return the first `count` examples, shape (n, count, 96, 64), of frames that `spectrogram` gave."""
        first = ops.expand_dims(ops.arange(count, dtype="int32") * self._hop_frames, 1)
        return ops.take(spectrogram, first + ops.arange(NUM_FRAMES, dtype="int32"), axis=1)

    def num_examples(self, samples: Any) -> Any:
        """Return `audioset.features.num_examples` of a number, or of a tensor where a graph leaves lengths open."""
        least, largest = _least_and_largest(samples)
        hop = self._hop_frames * FRAME_HOP_SAMPLES
        within = largest((samples - EXAMPLE_SAMPLES) // hop + 1, 0)
        if self.pad == "none":
            return within
        if self.pad == "short":
            return largest(within, least(samples, 1))
        # Up to the first that reaches the end, of those that start before it.
        reaching = (samples - EXAMPLE_SAMPLES + hop - 1) // hop + 1
        return largest(least(reaching, (samples + hop - 1) // hop), least(samples, 1))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the examples of waveforms of this shape."""
        _check_axes(input_shape)
        clips, samples = input_shape
        return clips, None if samples is None else self.num_examples(samples), NUM_FRAMES, NUM_MEL_BANDS

    def get_config(self) -> dict[str, Any]:
        """Return the settings, for saving."""
        return {**super().get_config(), "log_offset": self.log_offset, "hop_s": self.hop_s, "pad": self.pad}


def _check_axes(shape: tuple[int | None, ...]) -> None:
    if len(shape) != 2:
        raise AudioError(
            f"waveform: shape {shape}; expected (n, samples), a batch of mono clips of one length. "
            "One clip is waveform[None]; average channels first"
        )


def _least_and_largest(number: Any) -> tuple[Any, Any]:
    """Functions for the smaller and the larger of two numbers, one of which may be a tensor."""
    return (min, max) if isinstance(number, int) else (ops.minimum, ops.maximum)


def _tables() -> tuple[Float64Array, Float64Array]:
    """Periodic Hann window and mel weights."""
    phase = 2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES
    return 0.5 - 0.5 * np.cos(phase), features.mel_matrix().astype(np.float64)


def _precision(waveform: Any) -> str:
    """The finest type that there is: JAX has no float64 unless it was asked to, and Apple's GPUs have none."""
    if keras.backend.backend() == "jax":
        import jax

        return "float64" if jax.config.jax_enable_x64 else "float32"
    return "float32" if getattr(getattr(waveform, "device", None), "type", "") == "mps" else "float64"


def _in_full() -> AbstractContextManager[Any]:
    """A context in which factors of products in float32 are not rounded, as JAX does by default on accelerators."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_matmul_precision("float32")  # type: ignore[no-any-return]
    return contextlib.nullcontext()
