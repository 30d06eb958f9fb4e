"""The machine that figures were measured on, in words that name no one's computer."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from audioset.embed import available_cores

# Of all that a processor can do, what matrix products and FFTs are made of.
_FEATURES = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
_PACKAGES = ("audioset", "numpy", "onnxruntime", "openvino", "torch", "soundfile", "soxr", "av", "pyarrow")


def describe() -> dict[str, object]:
    """Return processor, cores, features, memory, system and versions."""
    text = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": available_cores(),
        "cpu_features": [name for name in _FEATURES if name in known],
        "memory_gb": round(int(memory[1]) / 1024**2) if memory else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if os.path.exists(path) else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
