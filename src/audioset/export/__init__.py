"""Models as files that other programs run without this package.

    export_onnx("mini", "mini.onnx")    # one file: waveform in, embeddings and scores out
    export_saved_model("mini", "mini")  # a folder for TensorFlow and tensorflow_hub
    export_keras("mini", "mini.keras")
    export_tflite("mini", "mini.tflite")

A format is a module with a function that returns `Exported`; `cli/export.py` has the table of them.
"""

from __future__ import annotations

from audioset.export.base import Exported
from audioset.export.keras_file import export_keras
from audioset.export.onnx_file import export_onnx
from audioset.export.tensorflow import export_saved_model, export_tflite

__all__ = ["Exported", "export_keras", "export_onnx", "export_saved_model", "export_tflite"]
