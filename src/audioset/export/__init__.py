"""Models as files that other programs run without this package.

    export_onnx("mini", "mini.onnx")    # one file: waveform in, embeddings and scores out

A format is a module with a function that returns `Exported`; `cli/export.py` has the table of them.
"""

from __future__ import annotations

from audioset.export.base import Exported
from audioset.export.onnx_file import export_onnx

__all__ = ["Exported", "export_onnx"]
