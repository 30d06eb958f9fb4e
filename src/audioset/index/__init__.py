"""Similar sounds: an index of stored embeddings, and what in it is nearest to a recording or a part of one.

Needs the extra `index` (USearch).
"""

from audioset.index._query import embed_query, model_of, query_in
from audioset.index.build import BuildSummary, build
from audioset.index.search import Hit, Query, SoundIndex, load

__all__ = ["BuildSummary", "Hit", "Query", "SoundIndex", "build", "embed_query", "load", "model_of", "query_in"]
