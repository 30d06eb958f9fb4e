"""Examples to embeddings (and scores): one network with its weights, in the library that runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from audioset import _runtime
from audioset._runtime import Place
from audioset.errors import OptionError
from audioset.models.spec import INPUT_SHAPE, ModelSpec
from audioset.weights import Weights

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
    place : Place, optional
        Where and how it runs: see `_runtime.resolve`. By default ONNX Runtime in float32 on the processor.
    calls : int
        Calls of `run` at once that it is made for; with OpenVINO, further ones wait.

    Raises
    ------
    OptionError
        The device is not there, or does not know the precision.
    MissingExtraError
        No library that can is installed.

    Notes
    -----
    With ONNX Runtime on a processor, an example's result does not depend on the others in its batch, to the last bit,
    nor on the batch's size: a property of the runtime's kernels, held by the tests on the processors that they run on.
    """

    def __init__(
        self, spec: ModelSpec, weights: Weights, *, threads: int = 1, place: Place | None = None, calls: int = 1
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.place = _runtime.resolve() if place is None else place
        self._runtime = _runtime.open_runtime(spec, weights, self.place, threads=threads, calls=calls)

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
        return dict(zip(outputs, self._runtime.run(batch, outputs), strict=True))
