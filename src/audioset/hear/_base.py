"""What the modules of HEAR share: a network behind its front end, and sounds of any length in batches of examples.

An example lasts 0.96 s. With hop samples between timestamps and n samples of sound:

- Timestamps: `t[i] = i · hop`, for every i with `i · hop ≤ n`, given in milliseconds. Embedding i is of the example
  whose centre is t[i]: it begins 7,680 samples (0.48 s) earlier. Before the sound and after it there are zeros.
- Scenes: the mean over the examples that `audioset.Model.embed` cuts, with the model's own hop and padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from audioset import features
from audioset.errors import AudioError, OptionError
from audioset.features import EXAMPLE_S, EXAMPLE_SAMPLES, SAMPLE_RATE_HZ
from audioset.torch import LogMel, Network
from audioset.torch import load as load_network

DEFAULT_HOP_S = 0.05
_HALF_EXAMPLE = round(EXAMPLE_S / 2 * SAMPLE_RATE_HZ)
_BATCH_SIZE = 32
_GPU_BATCH_SIZE = 256


class HearModel(nn.Module):
    """A network as HEAR 2021 takes it: with the sizes of what it gives, on any device.

    Parameters
    ----------
    network : Network
        What the examples go through.
    hop_s : float
        Seconds from one timestamp to the next, rounded to whole samples (1/16000 s).

    Attributes
    ----------
    sample_rate : int
        Of the sounds, in Hz: 16000.
    scene_embedding_size, timestamp_embedding_size : int
        Numbers in one embedding.
    hop_s : float
        May be set at any time. Every timestamp costs one example: at 0.05 VGGish computes 19 for each of `embed`'s.
    batch_size : int or None
        Examples that go through the network at once; None for 32 on processors, 256 elsewhere. Memory for intermediate
        results depends on it alone, not on how many sounds there are or how long they are.

    Raises
    ------
    OptionError
        `hop_s` is out of range.
    """

    def __init__(self, network: Network, *, hop_s: float = DEFAULT_HOP_S) -> None:
        super().__init__()
        spec = network.spec
        self.sample_rate = SAMPLE_RATE_HZ
        self.scene_embedding_size = self.timestamp_embedding_size = spec.embedding_dim
        self.batch_size: int | None = None
        self.network = network
        self.of_timestamps = LogMel(spec.log_offset, pad="none")
        self.of_scenes = LogMel(spec.log_offset, hop_s=spec.hop_s, pad="none")
        self.hop_s = hop_s

    @property
    def hop_s(self) -> float:
        """Seconds from one timestamp to the next."""
        return self.of_timestamps.hop_s

    @hop_s.setter
    def hop_s(self, value: float) -> None:
        features.num_examples(0, hop_s=value)  # raises for what is out of range
        self.of_timestamps.hop_s = round(value * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ

    def _embed(self, audio: Tensor, front_end: LogMel, count: int, lead: int = 0) -> Iterator[Tensor]:
        """Yield embeddings (n, count, dim) of the next n sounds; example i begins at sample `i · hop − lead`."""
        weight = next(self.network.parameters())
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = _BATCH_SIZE if weight.device.type == "cpu" else _GPU_BATCH_SIZE
        if batch_size < 1:
            raise OptionError(f"batch_size: {batch_size} is out of range; expected 1 or more, or None")
        hop = round(front_end.hop_s * SAMPLE_RATE_HZ)
        at_once = math.ceil(count / math.ceil(count / batch_size))  # of a long sound equal parts, so that none is tiny
        sounds_at_once = max(1, batch_size // at_once)
        for sound in range(0, len(audio), sounds_at_once):
            sounds = audio[sound : sound + sounds_at_once]
            parts = []
            for first in range(0, count, at_once):
                last = min(first + at_once, count) - 1
                samples = _cut(sounds, first * hop - lead, last * hop - lead + EXAMPLE_SAMPLES)
                examples = front_end(samples.to(weight.device))
                rows = self.network(examples.flatten(0, 1).to(weight.dtype)).embedding
                parts.append(rows.float().unflatten(0, examples.shape[:2]))
            yield torch.cat(parts, 1)


def load(model: str, model_file_path: str, hop_s: float) -> HearModel:
    """Return a model of the registry with weights from where `audioset.load` takes them; published ones for ""."""
    return HearModel(load_network(model, model_file_path or None), hop_s=hop_s)


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Return embeddings of the sounds' course, and the times that they are centred on.

    No gradients are kept; `audioset.torch.EndToEnd` has them.

    Parameters
    ----------
    audio : Tensor of float, shape (n_sounds, n_samples)
        16 kHz mono, nominally in [-1, 1], of any length from one sample on, on any device.
    model : HearModel
        From `load_model`.

    Returns
    -------
    embeddings : Tensor of float32, shape (n_sounds, n_timestamps, timestamp_embedding_size)
        On the model's device. `embeddings[:, i]` is of the example (0.96 s) whose centre is `timestamps[:, i]`; before
        and after the sound there are zeros.
    timestamps : Tensor of float32, shape (n_sounds, n_timestamps)
        In milliseconds: `timestamps[:, i] = i · 1000 · model.hop_s`, from 0 to at most the sound's end.

    Raises
    ------
    AudioError
        The sounds have other axes, whole numbers, NaN or infinite samples, or there are none.
    OptionError
        The model is not one of these, or its `batch_size` is below 1.
    """
    sounds = _checked(audio, model)
    hop = round(model.hop_s * SAMPLE_RATE_HZ)
    count = 1 + sounds.shape[1] // hop
    embeddings = torch.cat(list(model._embed(sounds, model.of_timestamps, count, _HALF_EXAMPLE)))
    times_ms = torch.arange(count, device=embeddings.device) * hop / (SAMPLE_RATE_HZ // 1000)
    return embeddings, times_ms.float().repeat(len(sounds), 1)


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Return one embedding a sound: the mean of its examples, as `audioset.Model.embed(…, pool="mean")` gives it.

    No gradients are kept; `audioset.torch.EndToEnd` has them.

    Parameters
    ----------
    audio : Tensor of float, shape (n_sounds, n_samples)
        16 kHz mono, nominally in [-1, 1], of any length from one sample on, on any device. What is shorter than one
        example is padded with zeros.
    model : HearModel
        From `load_model`.

    Returns
    -------
    Tensor of float32, shape (n_sounds, scene_embedding_size)
        On the model's device.

    Raises
    ------
    AudioError
        The sounds have other axes, whole numbers, NaN or infinite samples, or there are none.
    OptionError
        The model is not one of these, or its `batch_size` is below 1.
    """
    sounds = _checked(audio, model)
    spec = model.network.spec
    count = features.num_examples(sounds.shape[1], hop_s=spec.hop_s, pad=spec.pad)
    return torch.cat([rows.mean(1) for rows in model._embed(sounds, model.of_scenes, count)])


def _cut(sounds: Tensor, begin: int, end: int) -> Tensor:
    """Samples `begin` to `end` of sounds (n, samples); zeros where these have none."""
    samples = sounds.shape[1]
    within = sounds[:, max(begin, 0) : min(end, samples)]
    return nn.functional.pad(within, (max(-begin, 0), max(end - samples, 0)))


def _checked(audio: Tensor, model: HearModel) -> Tensor:
    if not isinstance(model, HearModel):
        raise OptionError(
            f"model: {type(model).__name__}; expected a HearModel. Take it from the load_model of this module"
        )
    expected = "expected a torch.Tensor of floats, (n_sounds, n_samples), in [-1, 1]"
    if not isinstance(audio, Tensor):
        raise AudioError(f"audio: {type(audio).__name__}; {expected}. An array is torch.from_numpy(array)")
    if audio.ndim != 2:
        raise AudioError(f"audio: shape {tuple(audio.shape)}; {expected}. One sound is audio[None]; average channels")
    if not audio.is_floating_point():
        raise AudioError(f"audio: dtype {audio.dtype}; {expected}. Scale whole numbers, as audioset.audio.read does")
    if not audio.numel():
        raise AudioError(f"audio: shape {tuple(audio.shape)}, no samples; {expected}. Leave empty sounds out")
    finite = audio.isfinite().all(1)
    if not finite.all():
        first = int(finite.logical_not().nonzero()[0])
        raise AudioError(f"audio: NaN or infinite samples in sound {first}; {expected}. Cut them out or set them to 0")
    return audio
