"""The front end as ONNX nodes: waveform (n,) in, examples (k, 96, 64) out; what `audioset.features` computes.

The transform is a convolution: its kernels are the sines and cosines of the 512-point transform under the window, and
its stride the frames' hop. Every runtime has convolutions, which cannot be said of ONNX's own STFT. How many examples
there are, and where each starts, is computed from the waveform's length inside the graph: in integers where the hop is
a whole number of samples, else in float64, as `features` does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from audioset import features, graph
from audioset.export.base import Cutting
from audioset.features import (
    EXAMPLE_SAMPLES,
    FFT_SAMPLES,
    FRAME_HOP_SAMPLES,
    NUM_FRAMES,
    WINDOW_SAMPLES,
)

if TYPE_CHECKING:
    import onnx

INPUT_NAME: Final = "waveform"
_SCOPE: Final = "front_end"


def prepend(model: onnx.ModelProto, cut: Cutting, *, log_offset: float) -> None:
    """Make a network take a waveform instead of examples.

    The network always runs on one example at least, as not every kernel takes none; its outputs are then cut to the
    number of examples that there are.

    Parameters
    ----------
    model : ModelProto
        What `graph.build` returned; it is changed.
    cut : Cutting
        How the waveform is cut into examples.
    log_offset : float
        Added to the mel magnitudes before the logarithm.
    """
    from onnx import TensorProto, helper

    front = _FrontEnd(features._hop_samples(cut.hop_s), cut.pad, log_offset)
    count = front.build()
    network = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*front.nodes, *network])
    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        if node.output[0] in outputs:  # the Identity that names an output
            node.op_type = "Slice"
            node.input.extend([front.constant([0]), count, front.constant([0])])
    model.graph.initializer.extend(front.initializers)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["samples"]))


class _FrontEnd:
    """Collects nodes and constants; every method returns the name of the tensor that it made."""

    def __init__(self, hop: float, pad: str, log_offset: float) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._whole = hop.is_integer()
        self._hop = hop
        self._pad = pad
        self._log_offset = log_offset

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        return list(self._constants.values())

    def build(self) -> str:
        """Add everything; `graph.INPUT_NAME` then has the examples, at least one. Return their number, shape (1,)."""
        samples = self._add("Shape", INPUT_NAME)
        count = self._count(samples)
        kept = self._add("Max", count, self.constant([1]))
        starts = self._starts(self._range(kept))
        last = self._starts(self._add("Sub", kept, self.constant([1])))
        needed = self._add("Add", last, self.constant([EXAMPLE_SAMPLES]))
        missing = self._add("Max", self._add("Sub", needed, samples), self.constant([0]))
        pads = self._add("Concat", self.constant([0]), missing, axis=0)
        waveform = self._add("Pad", INPUT_NAME, pads)
        self._cut(waveform, starts)
        return count

    def constant(self, values: npt.ArrayLike, name: str | None = None) -> str:
        """Return the name of a constant: of integers in a list by their values, of an array by a name of its own."""
        from onnx import numpy_helper

        array = np.asarray(values)
        name = f"{_SCOPE}/{name or '_'.join(['int', *map(str, array.tolist())])}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def _add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{_SCOPE}/{len(self.nodes)}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _cast(self, tensor: str, data_type: str) -> str:
        from onnx import TensorProto

        return self._add("Cast", tensor, to=TensorProto.DataType.Value(data_type))

    def _range(self, count: str) -> str:
        """0, 1, … below a count of shape (1,)."""
        zero, one = (self.constant(np.int64(value), f"scalar_{value}") for value in (0, 1))
        return self._add("Range", zero, self._add("Squeeze", count), one)

    def _count(self, samples: str) -> str:
        """Number of examples, by the formula of `audioset.features`."""
        spare = self._add("Sub", samples, self.constant([EXAMPLE_SAMPLES]))
        spare = self._add("Max", spare, self.constant([0]))
        last = self._last_within(spare)
        count = following = self._add("Add", last, self.constant([1]))
        if self._pad == "all":
            ends_short = self._add("Less", self._starts(last), spare)
            begins = self._add("Less", self._starts(following), samples)
            count = self._add("Add", following, self._cast(self._add("And", ends_short, begins), "INT64"))
        fewest = EXAMPLE_SAMPLES if self._pad == "none" else 1
        any_at_all = self._add("GreaterOrEqual", samples, self.constant([fewest]))
        return self._add("Mul", count, self._cast(any_at_all, "INT64"))

    def _last_within(self, spare: str) -> str:
        """Index of the last example that starts no later than sample `spare`."""
        if self._whole:
            return self._add("Div", spare, self.constant([int(self._hop)]))
        quotient = self._add("Div", self._cast(spare, "DOUBLE"), self.constant([self._hop], "hop"))
        nearest = self._cast(self._add("Floor", quotient), "INT64")
        # Starts are rounded, so the quotient is exact to within one: count which of those around it do start in time.
        around = self._add("Add", nearest, self.constant([-1, 0, 1]))
        in_time = self._cast(self._add("LessOrEqual", self._starts(around), spare), "INT64")
        return self._add("Sub", self._add("Add", nearest, self._add("ReduceSum", in_time)), self.constant([2]))

    def _starts(self, indices: str) -> str:
        """First samples of the examples with these indices."""
        if self._whole:
            return self._add("Mul", indices, self.constant([int(self._hop)]))
        exact = self._add("Mul", self._cast(indices, "DOUBLE"), self.constant([self._hop], "hop"))
        rounded = self._add("Floor", self._add("Add", exact, self.constant([0.5], "half")))
        return self._cast(rounded, "INT64")

    def _cut(self, waveform: str, starts: str) -> None:
        """Examples of a waveform that is long enough for all of them."""
        column = self._add("Unsqueeze", starts, self.constant([1]))
        if self._hop % FRAME_HOP_SAMPLES == 0 and self._hop <= NUM_FRAMES * FRAME_HOP_SAMPLES:
            # Examples share frames, or lie side by side: each frame is computed once, and each example picks its own.
            whole = self._add("Reshape", waveform, self.constant([1, 1, -1]))
            frames = self._add("Squeeze", self._log_mel(whole), self.constant([0]))
            first = self._add("Div", column, self.constant([FRAME_HOP_SAMPLES]))
            within = self._range(self.constant([NUM_FRAMES]))
            self._add("Gather", frames, self._add("Add", first, within), axis=0, output=graph.INPUT_NAME)
            return
        within = self._range(self.constant([EXAMPLE_SAMPLES]))
        patches = self._add("Gather", waveform, self._add("Add", column, within), axis=0)
        self._log_mel(self._add("Unsqueeze", patches, self.constant([1])), output=graph.INPUT_NAME)

    def _log_mel(self, waveforms: str, output: str | None = None) -> str:
        """(b, 1, samples) to log-mel frames (b, f, 64)."""
        mel = features.mel_matrix()
        bins = np.flatnonzero(mel.any(axis=1))  # the others count in no band
        parts = self._add("Conv", waveforms, self.constant(_kernels(bins), "dft"), strides=[FRAME_HOP_SAMPLES])
        parts = self._add("Mul", parts, parts)
        real, imaginary = (
            self._add("Slice", parts, *map(self.constant, ([side * len(bins)], [(side + 1) * len(bins)], [1])))
            for side in (0, 1)
        )
        magnitude = self._add("Sqrt", self._add("Add", real, imaginary))
        bands = self._add(
            "MatMul", self._add("Transpose", magnitude, perm=[0, 2, 1]), self.constant(mel[bins], "mel_matrix")
        )
        offset = self._add("Add", bands, self.constant(np.float32(self._log_offset), "log_offset"))
        return self._add("Log", offset, output=output)


def _kernels(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Cosines, then sines, of these bins of the transform under the window, shape (2 · bins, 1, 400)."""
    # Reduced to one turn in integers, so that large phases lose nothing.
    turns = np.outer(bins, np.arange(WINDOW_SAMPLES)) % FFT_SAMPLES / FFT_SAMPLES
    window = features._hann().astype(np.float64)
    waves = np.concatenate([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)])
    return (waves * window)[:, np.newaxis].astype(np.float32)
