"""Models of one's own: labelled clips to a file that `audioset.load` and `audioset tag` use.   [extra: train]

    from audioset.finetune import FinetuneOptions, finetune

    result = finetune("birds/", "birds.safetensors", test="birds/*/2024-*", group=r"site(\\d+)")
    print(result.test.metrics["accuracy"])

The frozen way fits a linear layer on the clips' embeddings; the full way lets all weights move from there.
"""

from audioset.finetune.data import Clip, Sounds, read_sounds
from audioset.finetune.job import finetune
from audioset.finetune.options import FinetuneOptions
from audioset.finetune.result import Finetuned

__all__ = ["Clip", "FinetuneOptions", "Finetuned", "Sounds", "finetune", "read_sounds"]
