"""What runs a network: one module a library, each behind `Runtime`.

`open_runtime` chooses. ONNX Runtime is the default and comes with the package; OpenVINO (bf16 and int8 on processors)
and PyTorch (graphics processors, where it is installed anyway) are extras, loaded when asked for.
"""

from __future__ import annotations

from audioset._runtime.base import ENGINES, PRECISIONS, Engine, Place, Precision, Runtime, resolve
from audioset._runtime.opening import choose, open_runtime

__all__ = ["ENGINES", "PRECISIONS", "Engine", "Place", "Precision", "Runtime", "choose", "open_runtime", "resolve"]
