"""Models, heads and embeddings on Hugging Face: pushed with a generated card, and loaded by their repository's name.

    audioset.hub.push("birds.safetensors", "owner/birds")    # the file, its card, its hash
    audioset.load("hf://owner/birds")                        # and wherever else a model or weights are named

Needs `huggingface_hub`, for all but the card. What was fetched stays in that library's own cache.
"""

from audioset.hub.cards import card
from audioset.hub.download import Pulled, from_pretrained, pull
from audioset.hub.upload import Pushed, Upload, prepare, push, send

__all__ = ["Pulled", "Pushed", "Upload", "card", "from_pretrained", "prepare", "pull", "push", "send"]
