"""The models as HEAR 2021 calls them: one module each, made for `hear-validator` and `hear-eval-kit`.   [extra: torch]

    hear-validator audioset.hear.mini
    python -m heareval.embeddings.runner audioset.hear.vggish --tasks-dir tasks

`vggish`, `yamnet` and `mini` have `load_model`, `get_timestamp_embeddings` and `get_scene_embeddings`. What they
share is here, for modules of one's own.
"""

from audioset._extras import check_installed

check_installed("audioset.hear", "torch")

from audioset.hear._base import HearModel, get_scene_embeddings, get_timestamp_embeddings  # noqa: E402

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings"]
