"""A model as a file of Keras's own: `.keras`, with its layers and weights, for any backend."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from audioset import models
from audioset._files import written_whole
from audioset.export.base import Cutting, Exported, Input, check_target, cutting, describe, open_model
from audioset.features import NUM_FRAMES, NUM_MEL_BANDS, Pad
from audioset.weights import Progress, Weights

SUFFIX: Final = ".keras"
METADATA_NAME: Final = "audioset.json"


def export_keras(
    model: str,
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | Weights | None = None,
    input: Input = "waveform",  # noqa: A002
    hop_s: float | None = None,
    pad: Pad | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a model to one `.keras` file, whole or not at all.

    `keras.saving.load_model(path)` reads it on any backend; from waveforms, after `import audioset.keras`, which has
    the layers that are not Keras's own. What it is and gives is what `audioset.keras.model` returns.

    Parameters
    ----------
    model : str
        A model of the registry, or the path of a model of one's own.
    path : path
        Ends in .keras.
    weights : str, path or Weights, optional
        As for `audioset.load`; or those of a model that is loaded, `model.weights`.
    input : {"waveform", "examples"}
        What the model takes: waveforms (n, samples), n clips of one length, or examples (n, 96, 64).
    hop_s : float, optional
        Seconds from one example to the next, a multiple of 0.01; by default the model's own.
    pad : {"short", "none", "all"}, optional
        What happens to samples that do not fill an example; by default the model's own.
    overwrite : bool
        Replace the file if it exists.
    progress : callable, optional
        Called as `progress(bytes_done, bytes_total)` while weights are downloaded.

    Raises
    ------
    MissingExtraError
        Keras is not installed.
    OptionError
        There is no such model, an option is out of range or would not be used, or the name does not end in .keras.
    WeightsError, FetchError
        The weights are unknown, do not fit or cannot be fetched.
    OutputError
        The file exists already or cannot be written.
    """
    target = check_target(path, SUFFIX, overwrite=overwrite)
    check_keras(cutting(models.get(model), input, hop_s, pad))
    from audioset.keras import from_spec

    spec, found = open_model(model, weights, progress)
    cut = cutting(spec, input, hop_s, pad)
    metadata = describe(spec, found, cut, "fp32")
    network = from_spec(spec, found, input, hop_s=hop_s, pad=pad)
    with written_whole(target) as temporary, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        named = Path(folder, f"model{SUFFIX}")  # Keras goes by the ending
        network.save(named)
        append_metadata(named, metadata)
        named.replace(temporary)
    rows = "clips, k" if input == "waveform" else "n"
    return Exported(
        path=target,
        num_bytes=target.stat().st_size,
        inputs={input: f"float32 ({'clips, samples' if input == 'waveform' else f'n, {NUM_FRAMES}, {NUM_MEL_BANDS}'})"},
        outputs={name: f"float32 ({rows}, {width})" for name, width in spec.outputs.items()},
        metadata=metadata,
    )


def check_keras(cut: Cutting | None) -> None:
    """Raise an error if Keras cannot make a model that cuts waveforms so.

    Raises
    ------
    MissingExtraError
        Keras is not installed, or not what it runs on.
    OptionError
        The hop is no whole number of frames.
    """
    from audioset.keras import LogMel

    if cut is not None:
        LogMel(hop_s=cut.hop_s, pad=cut.pad)


def append_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add what a model says of itself to its zip archive; to one at the end of a file that is none."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_NAME, as_text(metadata))


def as_text(metadata: Mapping[str, str]) -> str:
    """Return what a model says of itself as JSON."""
    return json.dumps(dict(metadata), ensure_ascii=False, indent=1)
