"""A model as one ONNX file: the network, its weights and, for waveforms, the front end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from audioset import _protobuf, features, graph
from audioset._files import written_whole
from audioset.errors import OptionError
from audioset.export import front_end
from audioset.export.base import Cutting, Exported, Input, check_target, cutting, describe, open_model
from audioset.features import Pad
from audioset.models.spec import ModelSpec
from audioset.weights import Progress, Weights

if TYPE_CHECKING:
    import onnx

Precision: TypeAlias = Literal["fp32", "int8"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
SUFFIX: Final = ".onnx"
WeightBits: TypeAlias = Literal[8, 7]
WEIGHT_BITS: Final[tuple[WeightBits, ...]] = get_args(WeightBits)


def export_onnx(
    model: str,
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | Weights | None = None,
    input: Input = "waveform",  # noqa: A002
    precision: Precision = "fp32",
    weight_bits: WeightBits | None = None,
    hop_s: float | None = None,
    pad: Pad | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a model to one ONNX file, whole or not at all, with its weights in it.

    Inputs, by `input`:

    - `waveform`, float32, shape (samples,): 16 kHz mono, nominally in [-1, 1], of any length. The front end is in the
      graph, and the examples are those of `audioset.features.examples`, as many and from the same samples. A waveform
      without samples gives outputs without rows.
    - `examples`, float32, shape (n, 96, 64): what `audioset.features.examples` gives.

    Outputs: `embedding`, float32, shape (n, dim), and `scores`, float32, shape (n, classes), where the model has them.
    Row i is of the example that starts at sample `round(i · hop_s · 16000)`. Samples that are not finite give rows that
    are not; where `audioset.load(model)` raises an error or warns, the file does neither.

    Parameters
    ----------
    model : str
        A model of the registry, or the path of a model of one's own.
    path : path
        Ends in .onnx.
    weights : str, path or Weights, optional
        As for `audioset.load`; or those of a model that is loaded, `model.weights`.
    input : {"waveform", "examples"}
        What the exported model takes.
    precision : {"fp32", "int8"}
        Of the network. In 8 bits the file holds pairs of QuantizeLinear and DequantizeLinear, which runtimes fuse; the
        calibration is that of the cache, made if need be.
    weight_bits : {8, 7}, optional
        Of the weights in int8, by default 8. ONNX Runtime cuts sums of 8-bit products off on x86 processors without
        VNNI; weights of 7 bits keep these in range everywhere, and are less exact.
    hop_s : float, optional
        Seconds from one example to the next, by default the model's own.
    pad : {"short", "none", "all"}, optional
        What happens to samples that do not fill an example, by default as the model's own; see `audioset.features`.
    overwrite : bool
        Replace the file if it exists.
    progress : callable, optional
        Called as `progress(bytes_done, bytes_total)` while weights are downloaded.

    Returns
    -------
    Exported
        The path, size, inputs, outputs and metadata. The ONNX operator set is 17.

    Raises
    ------
    OptionError
        There is no such model, an option is out of range or would not be used, or the name does not end in .onnx.
    WeightsError, FetchError
        The weights are unknown, do not fit or cannot be fetched.
    OutputError
        The file exists already or cannot be written.
    """
    target = check_target(path, SUFFIX, overwrite=overwrite)
    if precision not in PRECISIONS:
        raise OptionError(f"precision: {precision!r} cannot be exported; expected one of {', '.join(PRECISIONS)}")
    bits = check_weight_bits(weight_bits, precision)
    spec, found = open_model(model, weights, progress)
    cut = cutting(spec, input, hop_s, pad)
    metadata = describe(spec, found, cut, precision)
    tensors, scales = _tensors(spec, found, bits, metadata)
    built = graph.build(spec, scales=scales)
    if cut is not None:
        front_end.prepend(built, cut, log_offset=spec.log_offset)
    _label(built, spec, cut, metadata)
    with written_whole(target) as temporary, temporary.open("wb") as file:
        _write(file, built, tensors)
    return Exported(
        path=target,
        num_bytes=target.stat().st_size,
        inputs=dict(map(_in_words, built.graph.input)),
        outputs=dict(map(_in_words, built.graph.output)),
        metadata=metadata,
    )


def check_weight_bits(bits: int | None, precision: Precision) -> WeightBits | None:
    """Return the bits of weights in 8-bit networks, None for networks in float32."""
    if precision == "fp32":
        if bits is not None:
            raise OptionError("weight_bits: would not be used; expected precision='int8' beside it")
        return None
    chosen = WEIGHT_BITS[0] if bits is None else bits
    if chosen not in WEIGHT_BITS:
        raise OptionError(f"weight_bits: {bits!r} cannot be exported; expected {' or '.join(map(str, WEIGHT_BITS))}")
    return chosen


def _tensors(
    spec: ModelSpec, weights: Weights, bits: int | None, metadata: dict[str, str]
) -> tuple[Mapping[str, npt.NDArray[Any]], Mapping[int, graph.Scale] | None]:
    """Return the tensors by the names of `graph.build`, and the scales of 8 bits; `metadata` is told of these."""
    if bits is None:
        return graph.onnx_tensors(spec, weights.tensors), None
    from audioset import int8

    # The cache has the bits that suit this processor, not the one that the file goes to; the calibration is the same.
    ready = int8.load(spec, weights)
    made = int8.quantize(spec, weights, dict(ready.scales), calibration=ready.calibration, bits=bits)
    metadata |= {"int8_weight_bits": str(bits), "int8_calibration": made.calibration, "int8_sha256": made.sha256}
    return made.tensors, made.scales


def _label(model: onnx.ModelProto, spec: ModelSpec, cut: Cutting | None, metadata: Mapping[str, str]) -> None:
    from onnx import helper

    helper.set_model_props(model, dict(metadata))
    model.producer_version = metadata["audioset_version"]
    takes = (
        f"log-mel examples (n, {features.NUM_FRAMES}, {features.NUM_MEL_BANDS}), as audioset.features.examples gives"
        if cut is None
        else f"a mono waveform at {features.SAMPLE_RATE_HZ} Hz, of any length; row i starts at i · {cut.hop_s} s"
    )
    model.doc_string = f"{spec.summary}. Input: {takes}. Outputs: {', '.join(spec.outputs)}."


def _in_words(value: onnx.ValueInfoProto) -> tuple[str, str]:
    dims = [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
    return value.name, f"float32 ({', '.join(dims)}{',' if len(dims) == 1 else ''})"


def _write(file: IO[bytes], model: onnx.ModelProto, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the message with the tensors in it; they go from where they are to the file, one after another.

    Serializing the whole would take three times its size. The metadata comes before the weights, so that those who
    want no more than that need not read further.
    """
    import onnx

    shell, graph_without = onnx.ModelProto(), onnx.GraphProto()
    shell.CopyFrom(model)
    shell.ClearField("graph")
    graph_without.CopyFrom(model.graph)
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    inside = [tensor for tensor in model.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    del graph_without.initializer[:]
    graph_without.initializer.extend(inside)

    start = graph_without.SerializeToString()
    heads = [_head(tensor, tensors[tensor.name].nbytes) for tensor in outside]
    total = len(start) + sum(
        len(head) + tensors[tensor.name].nbytes for head, tensor in zip(heads, outside, strict=True)
    )
    file.write(shell.SerializeToString())
    file.write(_protobuf.field_start(onnx.ModelProto.GRAPH_FIELD_NUMBER, total))
    file.write(start)
    for head, tensor in zip(heads, outside, strict=True):
        file.write(head)
        values = tensors[tensor.name]
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        file.write(cast(Any, little.reshape(-1).view(np.uint8).data))


def _head(declared: onnx.TensorProto, num_bytes: int) -> bytes:
    """Return what comes before a tensor's bytes within the graph's message."""
    import onnx

    tensor = onnx.TensorProto(name=declared.name, data_type=declared.data_type, dims=declared.dims)
    inner: bytes = tensor.SerializeToString() + _protobuf.field_start(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, num_bytes)
    return _protobuf.field_start(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(inner) + num_bytes) + inner
