"""What the formats share: the model that goes out, and what is said of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from audioset import features, models
from audioset import weights as all_weights
from audioset._version import __version__
from audioset.errors import OptionError
from audioset.features import Pad
from audioset.models.spec import ModelSpec
from audioset.weights import Progress, Weights
from audioset.weights.content import check_names_and_shapes, check_output
from audioset.weights.files import user_path

Input: TypeAlias = Literal["waveform", "examples"]
INPUTS: Final[tuple[Input, ...]] = get_args(Input)


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    path : Path
        The file or folder.
    num_bytes : int
        Its size.
    inputs, outputs : mapping of str to str
        Names, and type and shape in words, such as "float32 (n, 128)".
    metadata : mapping of str to str
        What the file says of itself.
    """

    path: Path
    num_bytes: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Cutting:
    """How a waveform is cut into examples.

    Attributes
    ----------
    hop_s : float
        Seconds from one example to the next.
    pad : {"short", "none", "all"}
        What happens to samples that do not fill an example; see `audioset.features`.
    """

    hop_s: float
    pad: Pad


def check_target(path: str | os.PathLike[str], ending: str, *, overwrite: bool) -> Path:
    """Return where a file that ends so is to be written.

    Raises
    ------
    OptionError
        The name does not end so.
    OutputError
        The file exists and may not be replaced, or none can be written there.
    """
    target = user_path(path)
    if target.suffix != ending or not target.stem:
        raise OptionError(f"{target}: expected a name that ends in {ending}, such as model{ending}")
    check_output(target, overwrite=overwrite)
    return target


def open_model(
    model: str, weights: str | os.PathLike[str] | Weights | None, progress: Progress | None = None
) -> tuple[ModelSpec, Weights]:
    """Return a model's network, as its weights need it, and the weights, read unless they are at hand.

    Raises
    ------
    OptionError
        There is no such model.
    WeightsError, FetchError
        The weights are unknown, do not fit or cannot be fetched.
    """
    spec = models.get(model)
    if isinstance(weights, Weights):
        found = weights
        check_names_and_shapes(spec, found.tensors, Path(found.name))
    else:
        found = all_weights.load(model, weights, progress=progress)
    return spec.of_format(found.provenance.get("source_format")), found


def cutting(spec: ModelSpec, input: str, hop_s: float | None, pad: Pad | None) -> Cutting | None:  # noqa: A002
    """Return how an exported model is to cut waveforms, by default as the model's own; None where it takes examples.

    Raises
    ------
    OptionError
        The input is unknown, `hop_s` or `pad` is out of range, or of no use.
    """
    if input not in INPUTS:
        raise OptionError(f"input: {input!r} is unknown; expected one of {', '.join(INPUTS)}")
    if input == "examples":
        for name, value in (("hop_s", hop_s), ("pad", pad)):
            if value is not None:
                raise OptionError(
                    f"{name}: would not be used, as examples are cut before they come in; expected input='waveform' "
                    "beside it"
                )
        return None
    chosen = Cutting(spec.hop_s if hop_s is None else hop_s, spec.pad if pad is None else pad)
    features.num_examples(0, hop_s=chosen.hop_s, pad=chosen.pad)  # raises for what is out of range
    return chosen


def describe(spec: ModelSpec, weights: Weights, cut: Cutting | None, precision: str) -> dict[str, str]:
    """Return what an exported model says of itself, as text by name; what is not known is left out."""
    known: dict[str, Any] = {
        "audioset_version": __version__,
        "model": spec.name,
        "precision": precision,
        "weights": weights.name,
        "weights_sha256": weights.sha256,
        "licence": weights.provenance.get("licence"),
        "citation": weights.provenance.get("citation", spec.citation),
        "sample_rate_hz": features.SAMPLE_RATE_HZ,
        "log_offset": spec.log_offset,
        "hop_s": cut and cut.hop_s,
        "pad": cut and cut.pad,
        "classes": spec.classes and json.dumps(list(zip(spec.classes.mids, spec.classes.names, strict=True))),
    }
    return {name: str(value) for name, value in known.items() if value}
