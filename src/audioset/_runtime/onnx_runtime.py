"""Networks in ONNX Runtime: on the processor, or by one of its providers on an NVIDIA or Apple device."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from audioset import graph
from audioset._runtime.base import CPU, Float32Array, Place
from audioset.errors import OptionError
from audioset.models.spec import ModelSpec
from audioset.weights import Weights, safetensors_file

if TYPE_CHECKING:
    import onnx

    from audioset.int8 import Int8Weights

# The provider of each kind of device.
PROVIDERS: Final = {"cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider"}


class OnnxRuntime:
    """One network in an ONNX Runtime session.

    Parameters
    ----------
    spec : ModelSpec
        Layers and names of outputs.
    weights : Weights or Int8Weights
        Its tensors, in float32 or in 8 bits.
    place : Place
        The device.
    threads : int
        Threads that one call of `run` uses on a processor.

    Raises
    ------
    OptionError
        The device, or a library that its provider needs, is not there.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights | Int8Weights,
        place: Place,
        *,
        threads: int = 1,
    ) -> None:
        if isinstance(weights, Weights) and place.kind != CPU:
            self._session = open_on_device(graph.build(spec), graph.onnx_tensors(spec, weights.tensors), place)
            return
        places = locations(spec, weights.path)
        if isinstance(weights, Weights):
            # The session reads these arrays in place for as long as it lives.
            self._tensors: Mapping[str, npt.NDArray[Any]] = graph.onnx_tensors(spec, weights.tensors)
            model = graph.build(spec, places)
        else:
            self._tensors = weights.tensors
            model = graph.build(spec, places, scales=weights.scales)
        self._session = open_session(model, self._tensors, places, weights.path, threads=threads)

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
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def open_on_device(model: onnx.ModelProto, tensors: Mapping[str, npt.NDArray[Any]], place: Place) -> Any:
    """Return a session on a device other than the processor, of a model with these tensors.

    The weights travel within the model: not every provider finds them elsewhere.
    """
    import onnxruntime as ort
    from onnx import TensorProto

    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = np.ascontiguousarray(tensors[tensor.name]).tobytes()
    provider = PROVIDERS[place.kind]
    if place.kind == "cuda":
        _load_cuda()
    try:
        # Without its fallback, which would print to stdout and go on with the processor.
        session = ort.InferenceSession(
            model.SerializeToString(),
            providers=[(provider, provider_options(place)), "CPUExecutionProvider"],
            enable_fallback=0,
        )
    except (RuntimeError, ValueError) as error:
        raise _unusable(place, str(error).strip().partition("\n")[0]) from error
    # A provider that lacks a library is left out without an error.
    if provider not in session.get_providers():
        raise _unusable(place, "it fell back to the processor; stderr says which library is missing")
    return session


def provider_options(place: Place) -> dict[str, str]:
    """Return what the provider of a device is told, so that float32 is computed in float32.

    Sources: onnxruntime.ai/docs/execution-providers, the pages of CUDA and of CoreML.
    """
    if place.kind == "cuda":
        return {"device_id": str(place.index), "use_tf32": "0"}
    # Programs keep the types of the graph, and the neural engine, left out here, knows float16 alone.
    return {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"}


def _load_cuda() -> None:
    """Load the CUDA libraries that pip installed, where there are any; the system's are found without."""
    import onnxruntime as ort

    with redirect_stdout(io.StringIO()):  # it prints what it does not find, which may not be needed
        ort.preload_dlls()


def _unusable(place: Place, found: str) -> OptionError:
    hint = "another engine, or the processor"
    if place.kind == "cuda":
        hint = (
            "the CUDA and cuDNN that this onnxruntime-gpu was built for (`pip install onnxruntime-gpu[cuda,cudnn]` "
            "brings them), another card, PyTorch for CUDA as the engine, or the processor"
        )
    return OptionError(
        f"device: ONNX Runtime's {PROVIDERS[place.kind]} cannot use {place.device} ({found}); expected it to. "
        f"Use {hint}"
    )


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
