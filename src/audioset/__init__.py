"""VGGish embeddings and AudioSet tools for any audio."""

from audioset._version import __version__

__all__ = ["__version__"]
