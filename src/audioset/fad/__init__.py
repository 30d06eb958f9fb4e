"""Fréchet Audio Distance: how far the embeddings of some sounds are from those of a reference.

reference = fad.statistics_of("reference.parquet")
fad.frechet_distance(reference, fad.statistics_of("generated.parquet"))
"""

from __future__ import annotations

from audioset.fad.cache import cache_folder, clear
from audioset.fad.distance import SmallSampleWarning, frechet_distance, small_sample
from audioset.fad.embedding import Embedded, embed_files
from audioset.fad.estimates import FadInfinity, FileDistance, fad_infinity, per_file
from audioset.fad.sources import EmbeddingSource, open_embeddings, statistics_of
from audioset.fad.statistics import Accumulator, Statistics

__all__ = [
    "Accumulator",
    "Embedded",
    "EmbeddingSource",
    "FadInfinity",
    "FileDistance",
    "SmallSampleWarning",
    "Statistics",
    "cache_folder",
    "clear",
    "embed_files",
    "fad_infinity",
    "frechet_distance",
    "open_embeddings",
    "per_file",
    "small_sample",
    "statistics_of",
]
