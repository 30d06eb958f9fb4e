"""A trained head in one file: its weights, its classes, and the embeddings that it expects.

The file is safetensors; its metadata `audioset_head` is JSON: kind and options, classes (mids and names), the embedder,
and what training noted. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from audioset.classes import ClassList
from audioset.errors import OptionError, WeightsError
from audioset.postprocess import QUANTIZE_MAX, QUANTIZE_MIN
from audioset.train import heads
from audioset.train.head_file import KEY
from audioset.train.heads import HeadOptions
from audioset.weights import content, safetensors_file
from audioset.weights.files import locate

SUFFIX: Final = ".safetensors"
_PREDICT_BATCH: Final = 512
# A dimension that never moved in training would be divided by nothing.
_DEVIATION_FLOOR: Final = 1e-3


@dataclass(frozen=True)
class Embedder:
    """What embeddings are of: a head takes those that it was trained on, and no others.

    Attributes
    ----------
    model : str
        Name of the model, such as "vggish".
    regime : {"raw", "pca", "uint8"}
        The space of the values.
    dim : int
        Width of one embedding.
    weights : str
        SHA-256 of the model's weights; empty where it is not known, as for features that others published.
    """

    model: str
    regime: str
    dim: int
    weights: str = ""

    def check(self, given: Embedder, subject: str) -> None:
        """Raise WeightsError, naming `subject`, unless these embeddings are the expected ones."""
        same = (self.model, self.regime, self.dim) == (given.model, given.regime, given.dim)
        if same and (not self.weights or not given.weights or self.weights == given.weights):
            return
        raise WeightsError(
            f"{subject}: embeddings of {given}; this head expects {self}. Embed with the model that it was trained on, "
            "or train another head"
        )

    def __str__(self) -> str:
        weights = f", weights {self.weights[:12]}" if self.weights else ""
        return f"{self.model} ({self.regime}, {self.dim} wide{weights})"


class HeadNetwork(nn.Module):
    """A head behind what brings its input to mean 0 and deviation 1; takes bytes as released, or floats."""

    def __init__(self, kind: str, dim: int, num_classes: int, options: HeadOptions) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.head = heads.build(kind, dim, num_classes, options)

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        """Return logits, float32 (n, classes), of embeddings (n, t, dim), uint8 or float, and their lengths (n,)."""
        normed = (self.plain(embeddings) - self.get_buffer("mean")) / self.get_buffer("deviation")
        logits: Tensor = self.head(normed, num_frames)
        return logits.float()

    @staticmethod
    def plain(embeddings: Tensor) -> Tensor:
        """Return embeddings as float32; bytes as the PCA components that they stand for."""
        if embeddings.dtype != torch.uint8:
            return embeddings.float()
        return embeddings.float() * ((QUANTIZE_MAX - QUANTIZE_MIN) / 255) + QUANTIZE_MIN

    @torch.no_grad()
    def expect(self, frames: npt.NDArray[Any]) -> None:
        """Take mean and deviation from frames (n, dim), uint8 or float."""
        values = frames.astype(np.float64)
        if frames.dtype == np.uint8:
            values = values * ((QUANTIZE_MAX - QUANTIZE_MIN) / 255) + QUANTIZE_MIN
        self.get_buffer("mean").copy_(torch.from_numpy(values.mean(axis=0)))
        self.get_buffer("deviation").copy_(torch.from_numpy(values.std(axis=0).clip(min=_DEVIATION_FLOOR)))


@dataclass(frozen=True, eq=False)
class Head:
    """A head with its classes and the embedder that it expects.

    Attributes
    ----------
    kind : str
        Of `audioset.train.heads.HEADS`.
    options : HeadOptions
        Its sizes.
    classes : ClassList
        What it scores, in order.
    embedder : Embedder
        What it expects.
    network : HeadNetwork
        Embeddings to logits.
    notes : mapping of str to Any
        What training noted, such as its configuration; JSON.
    """

    kind: str
    options: HeadOptions
    classes: ClassList
    embedder: Embedder
    network: HeadNetwork
    notes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def new(cls, kind: str, classes: ClassList, embedder: Embedder, options: HeadOptions | None = None) -> Head:
        """Return a head with random weights, drawn by `torch`'s generator."""
        sizes = options or HeadOptions()
        return cls(kind, sizes, classes, embedder, HeadNetwork(kind, embedder.dim, len(classes), sizes))

    def predict(
        self, embeddings: npt.NDArray[Any] | Sequence[npt.NDArray[Any]], num_frames: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.float32]:
        """Return scores, float32 (n, classes), from 0 to 1.

        Parameters
        ----------
        embeddings : ndarray (n, t, dim), or n arrays (t, dim) of any lengths
            Floats in the space that the embedder says; where that is "uint8", bytes as released too.
        num_frames : array_like of int (n,), optional
            How many frames of each clip count; all by default.

        Raises
        ------
        OptionError
            The shape is another, or the values are whole numbers that are no bytes as released.
        """
        if not isinstance(embeddings, np.ndarray):
            num_frames = [len(clip) for clip in embeddings]
            embeddings = _padded(embeddings, self.embedder.dim)
        if embeddings.ndim != 3 or embeddings.shape[2] != self.embedder.dim:
            raise OptionError(
                f"embeddings: shape {embeddings.shape}; expected (clips, frames, {self.embedder.dim}): {self.embedder}"
            )
        released = self.embedder.regime == "uint8"
        if embeddings.dtype.kind != "f" and not (released and embeddings.dtype == np.uint8):
            expected = "floats or uint8" if released else "floats"
            raise OptionError(f"embeddings: {embeddings.dtype} values; expected {expected}: {self.embedder}")
        lengths = np.full(len(embeddings), embeddings.shape[1]) if num_frames is None else np.asarray(num_frames)
        if lengths.shape != (len(embeddings),):
            raise OptionError(
                f"num_frames: shape {lengths.shape}; expected one number for each of {len(embeddings)} clips"
            )
        device = self.network.get_buffer("mean").device
        scores = np.empty((len(embeddings), len(self.classes)), np.float32)
        training = self.network.training
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, len(embeddings), _PREDICT_BATCH):
                some = slice(start, start + _PREDICT_BATCH)
                values = torch.from_numpy(np.ascontiguousarray(embeddings[some])).to(device)
                logits = self.network(values, torch.from_numpy(lengths[some].astype(np.int64)).to(device))
                scores[some] = torch.sigmoid(logits).cpu().numpy()
        self.network.train(training)
        return scores

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the head to one safetensors file, whole or not at all.

        Raises
        ------
        OptionError
            The name does not end in .safetensors.
        OutputError
            The file exists (and `overwrite` is not set) or cannot be written.
        WeightsError
            A weight is NaN or infinite.
        """
        target = Path(path)
        if target.suffix != SUFFIX:
            raise OptionError(f"{target}: expected a name that ends in {SUFFIX}")
        content.check_output(target, overwrite=overwrite)
        tensors = {
            name: np.ascontiguousarray(values.detach().cpu().numpy())
            for name, values in self.network.state_dict().items()
        }
        for name, values in tensors.items():
            if values.dtype.kind == "f":
                content.check_finite(values, name, target)
        about = {
            "kind": self.kind,
            "options": asdict(self.options),
            "classes": list(zip(self.classes.mids, self.classes.names, strict=True)),
            "embedder": asdict(self.embedder),
            "notes": dict(self.notes),
        }
        safetensors_file.write(target, tensors, {KEY: json.dumps(about, ensure_ascii=False)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Head:
        """Return the head in a file that `save` wrote, or in the repository "hf://owner/name" on Hugging Face.

        Raises
        ------
        WeightsError
            The file holds no head, or not as `save` writes it; WeightsFormatError where it is damaged.
        """
        file, _ = locate(path)
        tensors, metadata = safetensors_file.read(file)
        if KEY not in metadata:
            raise WeightsError(f"{file}: no head of `audioset train`; expected one. Train it, or name another file")
        try:
            about = json.loads(metadata[KEY])
            pairs = [(str(mid), str(name)) for mid, name in about["classes"]]
            options = HeadOptions(**about["options"])
            known = heads.HEADS.get(about["kind"])
            if known is not None and "layers" in known.uses and options.layers > len(tensors):  # each has some
                raise ValueError(f"{len(tensors)} tensors for {options.layers} layers")
            with torch.device("meta"):  # sizes that the file only claims take no memory
                head = cls.new(
                    about["kind"],
                    ClassList(tuple(mid for mid, _ in pairs), tuple(name for _, name in pairs)),
                    Embedder(**about["embedder"]),
                    options,
                )
            expected = head.network.state_dict()
            state = {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}
            for name, tensor in state.items():
                if name in expected and tensor.dtype != expected[name].dtype:
                    raise ValueError(f"{name} is {tensor.dtype}")
            head.network.load_state_dict(state, assign=True)
            notes = MappingProxyType(dict(about["notes"]))
        except (ValueError, TypeError, KeyError, RuntimeError, RecursionError, OptionError) as error:
            raise WeightsError(
                f"{file}: a head that cannot be used ({error}); expected one as `audioset train` writes it. "
                "Was it written by a newer version?"
            ) from error
        for name, values in tensors.items():
            if values.dtype == np.float32:
                content.check_finite(values, name, file)
        head.network.eval()
        return cls(head.kind, head.options, head.classes, head.embedder, head.network, notes)


def _padded(clips: Sequence[npt.NDArray[Any]], dim: int) -> npt.NDArray[Any]:
    longest = max((len(clip) for clip in clips), default=0)
    dtype = clips[0].dtype if len(clips) else np.float32
    padded = np.zeros((len(clips), max(longest, 1), dim), dtype)
    for place, clip in enumerate(clips):
        if clip.shape[1:] != (dim,):
            raise OptionError(f"embeddings: clip {place} has shape {clip.shape}; expected (frames, {dim})")
        if clip.dtype != dtype:
            raise OptionError(f"embeddings: clip {place} has {clip.dtype} values, clip 0 {dtype}; expected all alike")
        padded[place, : len(clip)] = clip
    return padded
