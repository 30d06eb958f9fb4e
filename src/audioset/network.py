"""Examples to embeddings (and scores): one network with its weights, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset import graph
from audioset.errors import OptionError
from audioset.models.spec import INPUT_SHAPE, ModelSpec
from audioset.weights import Weights, safetensors_file

Float32Array = npt.NDArray[np.float32]


class Network:
    """One network with its weights, ready to run.

    Parameters
    ----------
    spec : ModelSpec
        Layers and names of outputs.
    weights : Weights
        Tensors by name, in the layouts of the layers.
    threads : int
        Threads that one call of `run` uses. Several threads may call `run` at once, each with as many.

    Notes
    -----
    An example's result does not depend on the others in its batch, to the last bit, nor on the batch's size: a property
    of the runtime's kernels, held by the tests on the processors that they run on.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, *, threads: int = 1) -> None:
        import onnxruntime as ort

        self.spec = spec
        self.weights = weights
        options = ort.SessionOptions()
        locations: dict[str, graph.Location] = {}
        if weights.path is not None:
            # Large matrices are mapped by the runtime itself: half the memory of handing them over, which copies.
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(weights.path.resolve().parent)
            )
            spans = safetensors_file.spans(weights.path)
            locations = {
                name: graph.Location(weights.path.resolve().name, *spans[name]) for name in graph.matrices(spec)
            }
        # The session reads these arrays in place for as long as it lives.
        tensors = graph.onnx_tensors(spec, weights.tensors)
        self._tensors = {name: tensor for name, tensor in tensors.items() if name not in locations}
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Workers take turns between this session, decoding and NumPy: a pool that spins would steal their cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_external_initializers(
            list(self._tensors), [ort.OrtValue.ortvalue_from_numpy(tensor) for tensor in self._tensors.values()]
        )
        self._session: Any = ort.InferenceSession(
            graph.build(spec, locations).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, examples: npt.ArrayLike, outputs: Sequence[str] = ("embedding",)) -> dict[str, Float32Array]:
        """Return the network's outputs for a batch.

        Parameters
        ----------
        examples : array_like of float, shape (n, 96, 64)
            Log-mel examples; n may be 0.
        outputs : sequence of str
            Of `embedding` and, where the network classifies, `scores`.

        Returns
        -------
        dict of str to ndarray of float32, shape (n, width)
            The example axis always stays: one example gives (1, width).
        """
        batch = np.ascontiguousarray(examples, dtype=np.float32)
        if batch.ndim != 3 or batch.shape[1:] != INPUT_SHAPE[:2]:
            expected = ", ".join(map(str, INPUT_SHAPE[:2]))
            raise OptionError(f"examples: shape {batch.shape}; expected (n, {expected}), as features.examples gives")
        unknown = [name for name in outputs if name not in self.spec.outputs]
        if unknown:
            known = ", ".join(self.spec.outputs)
            raise OptionError(f"outputs: {self.spec.name} has no {unknown[0]!r}; expected some of {known}")
        if len(batch) == 0:
            return {name: np.empty((0, self.spec.outputs[name]), np.float32) for name in outputs}
        values = self._session.run(list(outputs), {graph.INPUT_NAME: batch})
        return dict(zip(outputs, values, strict=True))
