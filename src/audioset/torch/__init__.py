"""The same networks for training: tables of layers as `nn.Module`s, with gradients.   [extra: torch]

    from audioset.torch import EndToEnd, VGGish

    network = VGGish.from_pretrained()      # examples (n, 96, 64) to embeddings (n, 128)
    from_waveforms = EndToEnd(network)      # waveforms (n, samples) to embeddings (n, k, 128)
    network.save_pretrained("mine.safetensors")

Both ways of running a network agree within 1e-4.
"""

from audioset.errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401 - said here, once, if it is missing
except ImportError as error:
    raise MissingExtraError(
        "audioset.torch: PyTorch is not installed; expected it, for networks that train. Install it with "
        "`pip install torch`."
    ) from error

from audioset.torch.front_end import LogMel
from audioset.torch.layers import Layers, Outputs
from audioset.torch.networks import EndToEnd, Mini, Network, VGGish, YAMNet, load

__all__ = ["EndToEnd", "Layers", "LogMel", "Mini", "Network", "Outputs", "VGGish", "YAMNet", "load"]
