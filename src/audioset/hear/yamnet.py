"""YAMNet as HEAR 2021 calls it: `hear-validator audioset.hear.yamnet`.   [extra: torch]"""

from audioset.hear._base import DEFAULT_HOP_S, HearModel, get_scene_embeddings, get_timestamp_embeddings, load

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str = "", *, hop_s: float = DEFAULT_HOP_S) -> HearModel:
    """Return YAMNet on the CPU, whose embeddings have 1024 numbers.

    Parameters
    ----------
    model_file_path : str
        Empty for the published weights, from the cache or downloaded and verified. Else as the weights of
        `audioset.load`: the path of a file in any format that can be read, or "untrained:SEED".
    hop_s : float
        Seconds from one timestamp to the next; `hop_s` of the model, which may be changed later.

    Raises
    ------
    OptionError
        `hop_s` is out of range.
    WeightsError, FetchError
        The weights cannot be had or are not this model's.
    """
    return load("yamnet", model_file_path, hop_s)
