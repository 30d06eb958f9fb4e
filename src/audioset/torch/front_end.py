"""Waveform to log-mel examples as an `nn.Module`: what `audioset.features` computes, with gradients, on any device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audioset import features
from audioset.errors import AudioError
from audioset.features import (
    DEFAULT_HOP_S,
    DEFAULT_LOG_OFFSET,
    EXAMPLE_SAMPLES,
    FFT_SAMPLES,
    FRAME_HOP_SAMPLES,
    NUM_FRAMES,
    NUM_MEL_BANDS,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    Pad,
)
from audioset.models.spec import ModelSpec


class LogMel(nn.Module):
    """Log-mel examples of a batch of waveforms of one length, as `audioset.features.examples` gives them one by one.

    It has no weights and adds nothing to the state dict. Inside it is float64, whatever the waveform's type, autocast
    and `.half()`: in the logarithm of a faint band, float32 transforms of different libraries differ by over 1e-4.
    (Apple's GPUs have float32 only.) Samples are not looked at: NaN in gives NaN out.

    Parameters
    ----------
    log_offset : float
        Added to the mel magnitudes before the natural logarithm: 0.01 for VGGish, 0.001 for YAMNet and mini.
    hop_s : float
        Seconds from one example's start to the next.
    pad : {"short", "none", "all"}
        What happens to samples that do not fill an example, see `audioset.features`. No warning is given.

    Raises
    ------
    OptionError
        `hop_s` or `pad` is out of range.
    """

    window: Tensor
    mel: Tensor

    def __init__(
        self, log_offset: float = DEFAULT_LOG_OFFSET, *, hop_s: float = DEFAULT_HOP_S, pad: Pad = "short"
    ) -> None:
        super().__init__()
        features.num_examples(0, hop_s=hop_s, pad=pad)  # raises for what is out of range
        self.log_offset = log_offset
        self.hop_s = hop_s
        self.pad = pad
        for name, values in _tables(torch.get_default_device()).items():
            self.register_buffer(name, values, persistent=False)

    @classmethod
    def of(cls, spec: ModelSpec, *, hop_s: float | None = None, pad: Pad | None = None) -> LogMel:
        """Return the front end that a model was trained on; hop and padding are its own unless given."""
        return cls(spec.log_offset, hop_s=spec.hop_s if hop_s is None else hop_s, pad=spec.pad if pad is None else pad)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-mel examples of a batch of waveforms.

        Parameters
        ----------
        waveform : Tensor of float, shape (n, samples)
            16 kHz mono, nominally in [-1, 1].

        Returns
        -------
        Tensor of float32, shape (n, k, 96, 64)
            `examples[b, i, j]` is the frame that starts `j · 0.01` seconds into example `i` of clip `b`; k is
            `audioset.features.num_examples(samples, hop_s=hop_s, pad=pad)`, and stays an axis where it is 1 or 0.

        Raises
        ------
        AudioError
            The waveform has other axes, or samples that are whole numbers.
        """
        if waveform.ndim != 2:
            raise AudioError(
                f"waveform: shape {tuple(waveform.shape)}; expected (n, samples), a batch of mono clips of one length. "
                "One clip is waveform[None]; average channels first"
            )
        if not waveform.is_floating_point():
            raise AudioError(
                f"waveform: dtype {waveform.dtype}; expected floating-point samples in [-1, 1]. "
                "Scale whole numbers, as audioset.audio.read does"
            )
        with without_autocast(waveform.device.type):
            return self._examples(waveform.to(self.window.dtype)).float()

    def _examples(self, waveform: Tensor) -> Tensor:
        count = features.num_examples(waveform.shape[1], hop_s=self.hop_s, pad=self.pad)
        if count == 0:
            return waveform.new_zeros((len(waveform), 0, NUM_FRAMES, NUM_MEL_BANDS))
        start_s, *_ = features.example_times(count, hop_s=self.hop_s)
        starts = np.rint(start_s * SAMPLE_RATE_HZ).astype(np.int64)
        needed = int(starts[-1]) + EXAMPLE_SAMPLES
        waveform = nn.functional.pad(waveform, (0, max(0, needed - waveform.shape[1])))[:, :needed]
        if (starts % FRAME_HOP_SAMPLES).any():  # no example shares a frame with another
            patches = torch.stack([waveform[:, at : at + EXAMPLE_SAMPLES] for at in starts.tolist()], 1)
            return self._log_mel(patches)
        frames = self._log_mel(waveform)
        return torch.stack([frames[:, at : at + NUM_FRAMES] for at in (starts // FRAME_HOP_SAMPLES).tolist()], 1)

    def _log_mel(self, samples: Tensor) -> Tensor:
        """(…, samples) to (…, frames, 64)."""
        frames = samples.unfold(-1, WINDOW_SAMPLES, FRAME_HOP_SAMPLES)
        # The gradient of a complex number's magnitude is 0 at 0, where that of a square root would be infinite.
        magnitude = torch.fft.rfft(frames * self.window, FFT_SAMPLES).abs()
        return torch.log(magnitude @ self.mel + self.log_offset)

    def extra_repr(self) -> str:
        """Return the settings, for printing."""
        return f"log_offset={self.log_offset}, hop_s={self.hop_s}, pad={self.pad!r}"

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LogMel:
        # `.half()` would round the tables and `.to_empty()` lose them: take the device alone from what is applied.
        device = fn(torch.empty(0, device=self.window.device)).device
        for name, values in _tables(device).items():
            setattr(self, name, values)
        return self


def _tables(device: torch.device) -> dict[str, Tensor]:
    """Window and mel weights, in the precision to compute in."""
    dtype = _precision(device)
    return {
        "window": torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64, device="cpu").to(device, dtype),
        "mel": torch.from_numpy(features.mel_matrix().copy()).to(device, dtype),
    }


def _precision(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """A context in which float32 stays float32."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
