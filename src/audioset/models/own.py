"""Models of users' own: a network of the registry up to its embedding, and classes of theirs on top, in one file.

The file is safetensors, as for any weights. Its metadata says, besides the usual, what network it is:

    own_model = {"base": "mini", "variant": "", "activation": "softmax", "classes": [["/m/0bt9lr", "Dog"], …]}

so `audioset.load("mine.safetensors")` needs nothing else. `audioset finetune` writes such files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from audioset.classes import ClassList
from audioset.errors import OptionError, WeightsError
from audioset.models.layers import Dense, Output
from audioset.models.spec import ModelSpec

HeadActivation: TypeAlias = Literal["sigmoid", "softmax"]

SUFFIX: Final = ".safetensors"
HUB: Final = "hf://"  # before names on Hugging Face: hf://owner/name, hf://owner/name@revision
HEAD: Final = "head"
_KEY: Final = "own_model"


@dataclass(frozen=True)
class OwnModel:
    """What makes a network of the registry a model of one's own.

    Attributes
    ----------
    base : str
        The model of the registry whose network leads up to the embedding.
    classes : ClassList
        What the head scores, in order; mids are the names where a class is none of AudioSet's.
    activation : {"sigmoid", "softmax"}
        Softmax where each clip is of one class, sigmoid where several may be heard at once.
    variant : str
        Format of the file that the base's weights came from, where its layers depend on it (`ModelSpec.variants`).
    """

    base: str
    classes: ClassList
    activation: HeadActivation
    variant: str = ""

    def spec(self, name: str) -> ModelSpec:
        """Return the whole network as a model called `name`.

        Raises
        ------
        OptionError
            The base is no model of the registry, or there is no class.
        """
        from audioset import models

        if self.base not in models.REGISTRY:
            raise OptionError(f"base model {self.base!r}: unknown; expected one of {', '.join(models.REGISTRY)}")
        if not self.classes.names:
            raise OptionError("classes: none; expected one or more")
        base = models.REGISTRY[self.base].of_format(self.variant)
        end = base.layers.index(Output("embedding")) + 1
        return replace(
            base,
            name=name,
            summary=f"{len(self.classes)} classes of one's own on {self.base}",
            layers=(
                *base.layers[:end],
                Dense(HEAD, len(self.classes), activation=self.activation),
                Output("scores"),
            ),
            has_pca=False,
            variants={},
            own_classes=self.classes,
            # A head is small: in 8 bits it would gain nothing, and scores would differ by a third more.
            float_layers=(*base.float_layers, HEAD),
        )


def is_own(name: str) -> bool:
    """Return whether a model's name is the path of a file of weights instead, or that of one on Hugging Face."""
    return name.startswith(HUB) or (name.endswith(SUFFIX) and os.path.isfile(os.path.expanduser(name)))  # noqa: PTH111  (raises where nobody is)


def read_spec(path: str) -> ModelSpec:
    """Return the network of a file that `save` wrote.

    Raises
    ------
    WeightsError
        The file says of no network, or not as `save` writes it; WeightsFormatError where it is damaged.
    """
    from audioset.train.head_file import KEY as HEAD_KEY
    from audioset.weights import files, safetensors_file

    metadata = safetensors_file.read(files.locate(path)[0])[1]
    if HEAD_KEY in metadata:
        raise WeightsError(
            f"{path}: a head on embeddings; expected a model. `audioset evaluate` takes it, and "
            "`audioset.train.head.Head.load`"
        )
    if _KEY not in metadata:
        raise WeightsError(
            f"{path}: weights that do not say of which network they are; expected a file that `audioset finetune` "
            "wrote. Name the model, and give this file as its weights (--weights)"
        )
    try:
        about = json.loads(metadata[_KEY])
        pairs = [(str(mid), str(name)) for mid, name in about["classes"]]
        own = OwnModel(
            base=str(about["base"]),
            classes=ClassList(tuple(mid for mid, _ in pairs), tuple(name for _, name in pairs)),
            activation=about["activation"],
            variant=str(about["variant"]),
        )
        if own.activation not in get_args(HeadActivation):
            raise ValueError(f"activation {own.activation!r}")
        return own.spec(metadata.get("model", Path(path).stem))
    except (ValueError, TypeError, KeyError, RecursionError, OptionError) as error:
        raise WeightsError(
            f"{path}: says {metadata[_KEY]!r:.200} of its network, which cannot be used ({error}); expected a base "
            "model, an activation and classes. Was it written by a newer version?"
        ) from error


def save(
    own: OwnModel,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    path: str | os.PathLike[str],
    *,
    provenance: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Write a model of one's own to one file, whole or not at all, and return its network.

    Parameters
    ----------
    own : OwnModel
        The network.
    tensors : mapping of str to ndarray of float32
        The base's tensors that lead up to the embedding, by name, and `head/weights` (dim, classes), `head/biases`.
    path : path
        Ends in .safetensors; the name before that becomes the model's.
    provenance : mapping of str to str, optional
        What else the file should say of itself.
    overwrite : bool
        Replace the file if it exists.

    Raises
    ------
    OptionError
        The name does not end so, or is that of a model of the registry.
    WeightsError
        The tensors are not this network's, or not finite.
    OutputError
        The file exists already or cannot be written.
    """
    from audioset import weights
    from audioset.weights import content

    target = check_path(path)
    spec = own.spec(target.stem)
    content.check_names_and_shapes(spec, tensors, target)
    ordered = {name: np.ascontiguousarray(tensors[name], np.float32) for name in spec.tensor_shapes}
    for name, values in ordered.items():
        content.check_finite(values, name, target)
    about: dict[str, Any] = {
        "base": own.base,
        "variant": own.variant,
        "activation": own.activation,
        "classes": list(zip(own.classes.mids, own.classes.names, strict=True)),
    }
    notes = {**(provenance or {}), _KEY: json.dumps(about, ensure_ascii=False)}
    weights.save(weights.from_tensors(spec.name, spec.name, ordered, notes), target, overwrite=overwrite)
    return spec


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return where a model of one's own is to be written, or raise OptionError if none may be called so."""
    from audioset import models

    target = Path(path)
    if target.suffix != SUFFIX or not target.stem:
        raise OptionError(f"{target}: expected a name that ends in {SUFFIX}, such as birds{SUFFIX}")
    if target.stem in models.REGISTRY:
        raise OptionError(f"{target}: {target.stem} is a model that the package knows; expected another name")
    return target
