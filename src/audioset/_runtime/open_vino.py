"""Networks in OpenVINO, on processors: bf16 where they have it, and 8 bits.

The ONNX graph is read with its weights as inputs, in whose place constants are then put that are the arrays themselves:
nothing of the weights is serialized, parsed or copied, and no converted network has to be kept in a cache. Measured
with VGGish in float32, until the first embeddings: 0.8 GB at the peak instead of 1.7 with weights within the graph.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from audioset import graph
from audioset._runtime.base import Float32Array, Precision
from audioset.errors import OptionError
from audioset.models.spec import ModelSpec
from audioset.weights import Weights

if TYPE_CHECKING:
    import onnx

    from audioset.int8 import Int8Weights

_TELEMETRY: Final = "openvino_telemetry"
_importing = threading.Lock()


class OpenVino:
    """One network compiled by OpenVINO for the processor.

    Parameters
    ----------
    spec : ModelSpec
        Layers and names of outputs.
    weights : Weights or Int8Weights
        Its tensors, in float32 or in 8 bits.
    precision : {"fp32", "bf16", "int8"}
        Of the arithmetic; what is not in 8 bits under "int8" is in float32.
    threads : int
        Threads that one call of `run` uses.
    calls : int
        Calls of `run` at once; further ones wait.

    Raises
    ------
    OptionError
        The processor does not compute in bf16.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights | Int8Weights,
        precision: Precision,
        *,
        threads: int = 1,
        calls: int = 1,
    ) -> None:
        openvino = import_quietly()
        core = _core(openvino)
        if precision == "bf16":
            _check_bf16(core)
        tensors: Mapping[str, npt.NDArray[Any]]
        if isinstance(weights, Weights):
            tensors = graph.onnx_tensors(spec, weights.tensors)
            model = graph.build(spec)
        else:
            tensors = weights.tensors
            model = graph.build(spec, scales=weights.scales)
        self._compiled = core.compile_model(
            _read(openvino, core, model, tensors),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                "INFERENCE_NUM_THREADS": threads * calls,
                "NUM_STREAMS": calls,
                "PERFORMANCE_HINT": "THROUGHPUT",
                # Bound to cores, two processes would share the first and leave the others idle.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._requests: LifoQueue[Any] = LifoQueue()
        for _ in range(calls):
            self._requests.put(self._compiled.create_infer_request())
        # The compiled network reads these arrays in place for as long as it lives; it does not keep them itself.
        self._tensors = tensors

    def run(self, batch: Float32Array, outputs: Sequence[str]) -> list[Float32Array]:
        """Return the named outputs of a batch."""
        request = self._requests.get()
        try:
            found = request.infer({graph.INPUT_NAME: batch}, share_outputs=True)
            # Copied: the request's next batch goes to the same memory.
            return [np.array(found[name]) for name in outputs]
        finally:
            self._requests.put(request)


def import_quietly() -> Any:
    """Return the library, imported without its telemetry, which tells a server of each import unless it was refused.

    Where the package that sends is missing, OpenVINO does without, so it is made to look so for that moment. In a
    process that has imported OpenVINO before, that choice was its own.
    """
    with _importing:
        hidden = _TELEMETRY not in sys.modules
        if hidden:
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment] # Python's own way to make an import fail
        try:
            import openvino
        finally:
            if hidden:
                del sys.modules[_TELEMETRY]
    return openvino


def _core(openvino: Any) -> Any:
    """Return OpenVINO with what it has for processors, loaded by a thread that ends with it.

    Where the processor has AVX-512, the thread that loads it is given a stack for signals, and what was there before
    when that is unloaded. Of two that are not unloaded in reverse order, the last gives back memory that is no longer
    there, and the next signal of that thread, such as Ctrl-C in the main one, ends the process without a word.
    """

    def load() -> Any:
        core = openvino.Core()
        core.get_versions("CPU")
        return core

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result()


def _read(openvino: Any, core: Any, model: onnx.ModelProto, tensors: Mapping[str, npt.NDArray[Any]]) -> Any:
    """OpenVINO's form of a graph, with these arrays, shared, as its weights."""
    from onnx import TensorProto, helper

    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    for tensor in outside:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    read = core.read_model(model.SerializeToString())
    for parameter in list(read.get_parameters()):
        values = tensors.get(parameter.get_friendly_name())
        if values is not None:
            # Of the constructors that share memory, the one that takes arrays which may only be read.
            shared = openvino.Tensor(values, list(values.shape), openvino.Type(values.dtype))
            parameter.output(0).replace(openvino.op.Constant(shared).output(0))
            read.remove_parameter(parameter)
    read.validate_nodes_and_infer_types()
    return read


def _check_bf16(core: Any) -> None:
    """Refuse a processor without instructions for bf16, on which OpenVINO would compute in float32 and not say so."""
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capabilities:
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
        raise OptionError(
            f"precision: bf16 is not in this processor's instructions ({name}: {', '.join(capabilities)}); expected "
            "one with AVX-512 BF16 or AMX. Use int8, which is faster still, or fp32"
        )
