"""`audioset export`: a model as a file that other programs run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from audioset._runtime.base import resolve
from audioset.cli._common import write_columns
from audioset.cli._place import prepare
from audioset.cli.embed import PadChoice
from audioset.cli.models import downloading

if TYPE_CHECKING:
    from audioset.export import Exported
    from audioset.export.base import Cutting
    from audioset.export.onnx_file import WeightBits
    from audioset.features import Pad
    from audioset.weights import Weights


class FormatChoice(str, Enum):
    """The formats, each with an entry in `FORMATS`."""

    onnx = "onnx"
    saved_model = "saved-model"
    keras = "keras"
    tflite = "tflite"


class InputChoice(str, Enum):
    """Of `audioset.export.base.Input`."""

    waveform = "waveform"
    examples = "examples"


class ExportPrecisionChoice(str, Enum):
    """Of `audioset.export.onnx_file.Precision`."""

    fp32 = "fp32"
    int8 = "int8"


@dataclass(frozen=True)
class Request:
    """What is to be exported, and how; None is the model's own."""

    model: str
    weights: Weights
    out: Path
    input: InputChoice
    precision: ExportPrecisionChoice
    weight_bits: WeightBits | None
    hop_s: float | None
    pad: Pad | None
    overwrite: bool


@dataclass(frozen=True)
class Format:
    """How a format's files end, what writes one, and what refuses before that what cannot be written.

    An empty ending is that of a folder.
    """

    ending: str
    write: Callable[[Request], Exported]
    check: Callable[[Path, Cutting | None, bool], None]
    precisions: tuple[ExportPrecisionChoice, ...] = (ExportPrecisionChoice.fp32,)


def _onnx(request: Request) -> Exported:
    from audioset.export import export_onnx

    return export_onnx(
        request.model,
        request.out,
        weights=request.weights,
        input=request.input.value,
        precision=request.precision.value,
        weight_bits=request.weight_bits,
        hop_s=request.hop_s,
        pad=request.pad,
        overwrite=request.overwrite,
    )


def _check_onnx(target: Path, _: Cutting | None, overwrite: bool) -> None:
    from audioset.export.base import check_target

    check_target(target, ".onnx", overwrite=overwrite)


def _saved_model(request: Request) -> Exported:
    from audioset.export.tensorflow import export_saved_model

    return _from_keras(export_saved_model, request)


def _check_saved_model(target: Path, cut: Cutting | None, overwrite: bool) -> None:
    from audioset.export.tensorflow import check_folder, check_tensorflow

    check_folder(target, overwrite=overwrite)
    check_tensorflow("SavedModel", cut)


def _keras(request: Request) -> Exported:
    from audioset.export.keras_file import export_keras

    return _from_keras(export_keras, request)


def _check_keras(target: Path, cut: Cutting | None, overwrite: bool) -> None:
    from audioset.export.base import check_target
    from audioset.export.keras_file import check_keras

    check_target(target, ".keras", overwrite=overwrite)
    check_keras(cut)


def _tflite(request: Request) -> Exported:
    from audioset.export.tensorflow import export_tflite

    return _from_keras(export_tflite, request)


def _check_tflite(target: Path, cut: Cutting | None, overwrite: bool) -> None:
    from audioset.export.base import check_target
    from audioset.export.tensorflow import check_tensorflow

    check_target(target, ".tflite", overwrite=overwrite)
    check_tensorflow("TensorFlow Lite", cut)


def _from_keras(write: Callable[..., Exported], request: Request) -> Exported:
    return write(
        request.model,
        request.out,
        weights=request.weights,
        input=request.input.value,
        hop_s=request.hop_s,
        pad=request.pad,
        overwrite=request.overwrite,
    )


FORMATS: Final = {
    FormatChoice.onnx: Format(".onnx", _onnx, _check_onnx, tuple(ExportPrecisionChoice)),
    FormatChoice.saved_model: Format("", _saved_model, _check_saved_model),
    FormatChoice.keras: Format(".keras", _keras, _check_keras),
    FormatChoice.tflite: Format(".tflite", _tflite, _check_tflite),
}


def export(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Model; `audioset models list` shows them. Or a file of your own."),
    ] = "vggish",
    weights: Annotated[
        str | None,
        typer.Option("--weights", "-w", help="Its weights, as for `embed`.", show_default="the published ones"),
    ] = None,
    to_format: Annotated[
        FormatChoice,
        typer.Option(
            "--format",
            "-f",
            help="`onnx`: one file for ONNX Runtime and others. `saved-model`: a folder that TensorFlow and "
            "`tensorflow_hub` load, called as TF-Hub's VGGish and YAMNet. `keras`: a file for Keras 3. `tflite`: a "
            "file for TensorFlow Lite. The last three need Keras, and but for `keras` TensorFlow.",
        ),
    ] = FormatChoice.onnx,
    input: Annotated[  # noqa: A002
        InputChoice,
        typer.Option(
            "--input",
            help="What the file takes: `waveform`, 16 kHz mono of any length, with the front end inside; or "
            "`examples`, log-mel patches of 96 × 64.",
        ),
    ] = InputChoice.waveform,
    precision: Annotated[
        ExportPrecisionChoice,
        typer.Option("--precision", help="Of the network: `int8` is smaller and differs a little."),
    ] = ExportPrecisionChoice.fp32,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            "--weight-bits",
            help="Of the weights with `--precision int8`: 7 where x86 processors without VNNI will run the file.",
            show_default="8",
        ),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option("--hop", help="Seconds from one example to the next.", show_default="the model's own"),
    ] = None,
    pad: Annotated[
        PadChoice | None,
        typer.Option(
            "--pad",
            help="What does not fill an example of 0.975 s: `short` pads a clip shorter than one to one, `none` drops "
            "it, `all` pads the tail of every clip too.",
            show_default="the model's own; `all` in saved-model and tflite",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write, or the folder.", show_default="the model's name, in this folder"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a model to a file that other programs run without this package, in browsers too.

    The file has the weights and, for waveforms, the front end inside. It says of itself what it is: model, weights and
    their hash, licence, citation, sample rate, hop, padding and classes. It is written whole or not at all.

    Examples:

      audioset export --model mini --format onnx

      audioset export -m yamnet --precision int8 -o yamnet-int8.onnx

      audioset export -m vggish --input examples -o vggish-examples.onnx

      audioset export -m birds.safetensors --hop 0.1 --pad none -o birds.onnx

      audioset export -m vggish --format saved-model -o vggish

      audioset export -m mini --format tflite
    """
    from audioset import models
    from audioset import weights as all_weights
    from audioset.errors import OptionError
    from audioset.export.base import cutting
    from audioset.export.onnx_file import check_weight_bits

    chosen = FORMATS[to_format]
    target = out or Path(f"{Path(model).stem}{chosen.ending}")
    spec = models.get(model)
    # All that can be wrong is found before anything is downloaded or calibrated.
    policy: Pad | None = None if pad is None else pad.value
    if precision not in chosen.precisions:
        able = ", ".join(choice.value for choice, form in FORMATS.items() if precision in form.precisions)
        raise OptionError(
            f"--precision {precision.value}: not in {to_format.value}; expected {chosen.precisions[0].value}. "
            f"Leave it out, or choose --format {able}"
        )
    chosen.check(target, cutting(spec, input.value, hop, policy), overwrite)
    bits = check_weight_bits(weight_bits, precision.value)
    with downloading(model) as progress:
        found = all_weights.load(model, weights, progress=progress)
    if precision is ExportPrecisionChoice.int8:
        prepare(spec, found, resolve("int8"))
    request = Request(model, found, target, input, precision, bits, hop, policy, overwrite)
    _report(chosen.write(request), to_format, as_json=as_json)


def _report(written: Exported, written_format: FormatChoice, *, as_json: bool) -> None:
    if as_json:
        found = {"format": written_format.value, **asdict(written), "path": str(written.path)}
        found["bytes"] = found.pop("num_bytes")
        typer.echo(json.dumps(found))
        return
    rows = [("file", str(written.path)), ("size", f"{written.num_bytes / 1e6:,.1f} MB")]
    for what, tensors in (("input", written.inputs), ("output", written.outputs)):
        rows += [(what, f"{name}: {shape}") for name, shape in tensors.items()]
    rows += [(name, text) for name, text in written.metadata.items() if name != "classes"]
    write_columns(rows)
