"""Networks in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset import graph
from audioset._runtime.base import Float32Array
from audioset.models.spec import ModelSpec
from audioset.weights import Weights, safetensors_file

if TYPE_CHECKING:
    import onnx

    from audioset.int8 import Int8Weights


class OnnxRuntime:
    """One network in an ONNX Runtime session.

    Parameters
    ----------
    spec : ModelSpec
        Layers and names of outputs.
    weights : Weights or Int8Weights
        Its tensors, in float32 or in 8 bits.
    threads : int
        Threads that one call of `run` uses.
    providers : list
        Of ONNX Runtime, in order of preference.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights | Int8Weights,
        *,
        threads: int = 1,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
    ) -> None:
        places = locations(spec, weights.path)
        if isinstance(weights, Weights):
            # The session reads these arrays in place for as long as it lives.
            self._tensors: Mapping[str, npt.NDArray[Any]] = graph.onnx_tensors(spec, weights.tensors)
            model = graph.build(spec, places)
        else:
            self._tensors = weights.tensors
            model = graph.build(spec, places, scales=weights.scales)
        self._session = open_session(model, self._tensors, places, weights.path, threads=threads, providers=providers)

    def run(self, batch: Float32Array, outputs: Sequence[str]) -> list[Float32Array]:
        """Return the named outputs of a batch."""
        found: list[Float32Array] = self._session.run(list(outputs), {graph.INPUT_NAME: batch})
        return found


def locations(spec: ModelSpec, path: Path | None) -> dict[str, graph.Location]:
    """Return where large matrices are in a safetensors file, for a runtime to map: half the memory of copying them."""
    if path is None:
        return {}
    spans = safetensors_file.spans(path)
    return {name: graph.Location(path.resolve().name, *spans[name]) for name in graph.matrices(spec)}


def open_session(
    model: onnx.ModelProto,
    tensors: Mapping[str, npt.NDArray[Any]],
    places: Mapping[str, graph.Location],
    path: Path | None,
    *,
    threads: int = 1,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
) -> Any:
    """Return a session of a model whose tensors are handed over but for those that have a place in the file `path`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    if path is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.resolve().parent)
        )
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Workers take turns between this session, decoding and NumPy: a pool that spins would steal their cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    handed = {name: tensor for name, tensor in tensors.items() if name not in places}
    options.add_external_initializers(
        list(handed), [ort.OrtValue.ortvalue_from_numpy(tensor) for tensor in handed.values()]
    )
    return ort.InferenceSession(model.SerializeToString(), options, providers=list(providers))


@cache
def saturates() -> bool:
    """Return whether products of 8-bit numbers are cut off at 16 bits on this processor when they are summed in pairs.

    x86 processors without VNNI do that. Weights of 7 bits keep such sums in range.
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper

    depth = 64
    graph_ = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "saturation",
        inputs=[helper.make_tensor_value_info("a", TensorProto.UINT8, [1, depth])],
        outputs=[helper.make_tensor_value_info("c", TensorProto.INT32, [1, 1])],
        initializer=[helper.make_tensor("b", TensorProto.INT8, [depth, 1], [127] * depth)],
    )
    model = helper.make_model(graph_, opset_imports=[helper.make_opsetid("", graph.OPSET)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"a": np.full((1, depth), 255, np.uint8)})
    return int(product[0, 0]) != 255 * 127 * depth
