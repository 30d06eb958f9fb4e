"""The public names of `audioset.dataset`, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

from audioset import dataset

PUBLIC = [
    "FeatureBatch",
    "FeatureDataset",
    "FeatureRecord",
    "Ontology",
    "convert_features",
    "download_audio",
    "read_features",
    "read_segments",
    "read_strong",
    "read_youtube8m",
    "write_features",
    "write_segments",
]


def test_public_names_are_these_and_all_are_there() -> None:
    assert dataset.__all__ == PUBLIC
    assert all(callable(getattr(dataset, name)) for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(dataset))


def test_the_package_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'pyarrow', 'torch', 'yt_dlp'}"
    subprocess.run(
        [sys.executable, "-c", f"import sys, audioset.dataset; assert not {heavy} & set(sys.modules)"], check=True
    )
