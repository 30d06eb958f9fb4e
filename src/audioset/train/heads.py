"""The heads: networks from the frame embeddings of a clip to a score a class, one entry a head in `HEADS`.

Every head takes embeddings (n, t, dim), of which the first `num_frames[i]` of clip `i` count, and gives logits
(n, classes): what is in the padding never matters. Heads that end in probabilities (attention, mixtures of experts)
give their log-odds, so that one loss serves all and `sigmoid` gives scores.

Sources: average and max pooling, single and multi-level attention as in Yu et al. 2018 (arXiv:1803.02353) and Kong et
al. 2018 (arXiv:1711.00927); feature-level attention, Kong et al. 2019 (arXiv:1903.00765); mixtures of experts, LSTM and
Deep Bag of Frames as in Abu-El-Haija et al. 2016 (arXiv:1609.08675); NetVLAD with gating, Miech et al. 2017
(arXiv:1706.06905).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from audioset.errors import OptionError

Pooling: TypeAlias = Literal["mean", "max"]
_EPSILON: Final = 1e-6  # probabilities stay this far from 0 and 1: their log-odds are finite


@dataclass(frozen=True)
class HeadOptions:
    """Sizes of a head; each uses those that its description names.

    Attributes
    ----------
    hidden : int
        Units of hidden layers and of recurrent cells.
    layers : int
        Hidden layers, recurrent layers, or levels of attention.
    dropout : float
        Share of hidden units that training drops, from 0 up to 1.
    mixtures : int
        Experts a class.
    clusters : int
        Clusters of NetVLAD and Deep Bag of Frames.
    """

    hidden: int = 1024
    layers: int = 3
    dropout: float = 0.5
    mixtures: int = 2
    clusters: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            fits = 0 <= value < 1 if name == "dropout" else type(value) is int and value >= 1
            if not fits:
                expected = "0 up to 1" if name == "dropout" else "a whole number, 1 or more"
                raise OptionError(f"{name}: {value!r} is out of range; expected {expected}")


@dataclass(frozen=True)
class HeadKind:
    """One head of the registry: what makes it, one line on it, and the options that it uses."""

    make: Callable[[int, int, HeadOptions], nn.Module]
    about: str
    uses: tuple[str, ...]


def build(name: str, dim: int, num_classes: int, options: HeadOptions | None = None) -> nn.Module:
    """Return a head with random weights: `head(embeddings (n, t, dim), num_frames (n,))` gives logits (n, classes).

    Raises
    ------
    OptionError
        There is no head of this name.
    """
    if name not in HEADS:
        raise OptionError(f"head {name!r}: unknown; expected one of {', '.join(HEADS)}")
    return HEADS[name].make(dim, num_classes, options or HeadOptions())


def frame_mask(num_frames: Tensor, length: int) -> Tensor:
    """Return which frames count: bool (n, length)."""
    return torch.arange(length, device=num_frames.device) < num_frames[:, None]


def log_odds(probabilities: Tensor) -> Tensor:
    """Return logits, finite, of probabilities; float32 whatever the precision around it."""
    return torch.logit(probabilities.float(), eps=_EPSILON)


def pooled(frames: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """Return (n, width) of frames (n, t, width): mean or maximum of those that count, zeros where none does."""
    inside = mask[:, :, None]
    if how == "mean":
        return (frames * inside).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    highest = frames.masked_fill(~inside, -torch.inf).amax(1)
    return torch.where(mask.any(1, keepdim=True), highest, torch.zeros_like(highest))


class Logistic(nn.Module):
    """One matrix on the pooled embedding."""

    def __init__(self, dim: int, num_classes: int, pooling: Pooling) -> None:
        super().__init__()
        self._pooling: Pooling = pooling
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        logits: Tensor = self.classify(pooled(embeddings, mask, self._pooling))
        return logits


class _BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes its running statistics where a batch of one frame, or of none, has none of its own."""

    def forward(self, frames: Tensor) -> Tensor:
        if self.training and len(frames) < 2:
            return functional.batch_norm(
                frames, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(frames)


class FrameLayers(nn.Module):
    """Hidden layers on each frame by itself; batch norm sees only the frames that count."""

    def __init__(self, dim: int, options: HeadOptions) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim if level == 0 else options.hidden, options.hidden),
                _BatchNorm(options.hidden),
                nn.ReLU(),
                nn.Dropout(options.dropout),
            )
            for level in range(options.layers)
        )

    def forward(self, embeddings: Tensor, mask: Tensor) -> list[Tensor]:
        """Return what each layer gives, (n, t, hidden), zero in the padding."""
        frames, levels = embeddings[mask], []
        for step in self.steps:
            frames = step(frames)
            level = frames.new_zeros(*mask.shape, frames.shape[-1])
            level[mask] = frames
            levels.append(level)
        return levels


class DecisionPooling(nn.Module):
    """Hidden layers on each frame, a score a frame and class, then their mean or maximum over time."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions, pooling: Pooling) -> None:
        super().__init__()
        self._pooling: Pooling = pooling
        self.frames = FrameLayers(dim, options)
        self.classify = nn.Linear(options.hidden, num_classes)

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        scores = torch.sigmoid(self.classify(self.frames(embeddings, mask)[-1]).float())
        return log_odds(pooled(scores, mask, self._pooling))


class Attention(nn.Module):
    """A score a frame and class, averaged with weights that are learnt, for each class by itself."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.attend = nn.Linear(dim, num_classes)
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Return probabilities (n, classes)."""
        scores = torch.sigmoid(self.classify(frames).float())
        # As published: a softmax over classes, what it gives normalized over time.
        strengths = torch.log_softmax(self.attend(frames).float(), dim=-1)
        return (scores * attention(strengths, mask)).sum(1)


def attention(strengths: Tensor, mask: Tensor) -> Tensor:
    """Return weights (n, t, width), float32, that sum to 1 over the frames that count; zero where none does."""
    weights = torch.softmax(strengths.float().masked_fill(~mask[:, :, None], -1e9), dim=1)
    return weights * mask[:, :, None]


class MultiAttention(nn.Module):
    """Attention on the output of each hidden layer, or of the last alone; the levels' scores go through one matrix."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions, *, levels: int) -> None:
        super().__init__()
        self._levels = levels
        self.frames = FrameLayers(dim, options)
        self.attentions = nn.ModuleList(Attention(options.hidden, num_classes) for _ in range(levels))
        self.classify = nn.Linear(levels * num_classes, num_classes) if levels > 1 else None

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        outputs = self.frames(embeddings, mask)[-self._levels :]
        found = [attend(level, mask) for attend, level in zip(self.attentions, outputs, strict=True)]
        if self.classify is None:
            return log_odds(found[0])
        logits: Tensor = self.classify(torch.cat(found, dim=1))
        return logits


class FeatureAttention(nn.Module):
    """Attention that weighs each dimension of the hidden frames by itself, then one matrix."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions) -> None:
        super().__init__()
        self.frames = FrameLayers(dim, options)
        self.attend = nn.Linear(options.hidden, options.hidden)
        self.value = nn.Linear(options.hidden, options.hidden)
        self.after = nn.Sequential(
            _BatchNorm(options.hidden),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.hidden, num_classes),
        )

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        frames = self.frames(embeddings, mask)[-1]
        # Sigmoids normalized to sum to 1 rather than a softmax, as in the paper: many frames may matter at once.
        strengths = torch.sigmoid(self.attend(frames).float()).clamp(min=_EPSILON) * mask[:, :, None]
        weights = strengths / strengths.sum(1, keepdim=True).clamp(min=_EPSILON)
        logits: Tensor = self.after((self.value(frames) * weights).sum(1))
        return logits


class Experts(nn.Module):
    """A mixture of logistic experts a class, one of which always says no."""

    def __init__(self, dim: int, num_classes: int, mixtures: int) -> None:
        super().__init__()
        self._shape = (num_classes, mixtures)
        self.gates = nn.Linear(dim, num_classes * (mixtures + 1))
        self.experts = nn.Linear(dim, num_classes * mixtures)

    def forward(self, features: Tensor) -> Tensor:
        num_classes, mixtures = self._shape
        gates = torch.softmax(self.gates(features).float().view(-1, num_classes, mixtures + 1), dim=-1)
        experts = torch.sigmoid(self.experts(features).float().view(-1, num_classes, mixtures))
        return log_odds((gates[..., :mixtures] * experts).sum(-1))


class Mlp(nn.Module):
    """Hidden layers on the mean embedding."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions) -> None:
        super().__init__()
        widths = [dim] + [options.hidden] * options.layers
        steps: list[nn.Module] = []
        for entering, leaving in itertools.pairwise(widths):
            steps += [nn.Linear(entering, leaving), nn.ReLU(), nn.Dropout(options.dropout)]
        self.steps = nn.Sequential(*steps, nn.Linear(widths[-1], num_classes))

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        logits: Tensor = self.steps(pooled(embeddings, mask, "mean"))
        return logits


class MixtureOfExperts(nn.Module):
    """A mixture of experts on the mean embedding."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions) -> None:
        super().__init__()
        self.experts = Experts(dim, num_classes, options.mixtures)

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        logits: Tensor = self.experts(pooled(embeddings, frame_mask(num_frames, embeddings.shape[1]), "mean"))
        return logits


class Recurrent(nn.Module):
    """GRU or LSTM over the frames; a mixture of experts on its state after the last of them."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions, cell: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        between = options.dropout if options.layers > 1 else 0.0
        self.cells = cell(dim, options.hidden, options.layers, batch_first=True, dropout=between)
        self.experts = Experts(options.hidden, num_classes, options.mixtures)

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        # A clip without a frame counts as one frame of zeros.
        lengths = num_frames.clamp(min=1, max=embeddings.shape[1]).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            embeddings * mask[:, :, None], lengths, batch_first=True, enforce_sorted=False
        )
        state: Any = self.cells(packed)[1]
        last = state[0][-1] if isinstance(state, tuple) else state[-1]
        logits: Tensor = self.experts(last)
        return logits


class NetVlad(nn.Module):
    """Residuals of the frames to learnt clusters, summed; hidden layer, gating, mixture of experts."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions) -> None:
        super().__init__()
        self.assign = nn.Linear(dim, options.clusters)
        self.centres = nn.Parameter(torch.randn(options.clusters, dim) * dim**-0.5)
        self.hidden = nn.Linear(options.clusters * dim, options.hidden)
        self.norm = nn.LayerNorm(options.hidden)
        self.gate = nn.Linear(options.hidden, options.hidden)
        self.dropout = nn.Dropout(options.dropout)
        self.experts = Experts(options.hidden, num_classes, options.mixtures)

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        frames = embeddings * mask[:, :, None]
        assigned = torch.softmax(self.assign(frames).float(), dim=-1) * mask[:, :, None]
        residuals = assigned.transpose(1, 2) @ frames.float() - assigned.sum(1)[:, :, None] * self.centres
        normed = functional.normalize(functional.normalize(residuals, dim=-1).flatten(1), dim=-1)
        features = torch.relu(self.norm(self.hidden(normed)))
        logits: Tensor = self.experts(self.dropout(features * torch.sigmoid(self.gate(features))))
        return logits


class DeepBagOfFrames(nn.Module):
    """Each frame in a wide sparse code, the codes' maximum over time; hidden layer, mixture of experts."""

    def __init__(self, dim: int, num_classes: int, options: HeadOptions) -> None:
        super().__init__()
        wide = HeadOptions(options.clusters, 1, options.dropout)
        self.frames = FrameLayers(dim, wide)
        self.hidden = nn.Sequential(
            nn.Linear(options.clusters, options.hidden), nn.LayerNorm(options.hidden), nn.ReLU6()
        )
        self.experts = Experts(options.hidden, num_classes, options.mixtures)

    def forward(self, embeddings: Tensor, num_frames: Tensor) -> Tensor:
        mask = frame_mask(num_frames, embeddings.shape[1])
        code = pooled(self.frames(embeddings, mask)[-1], mask, "max")
        logits: Tensor = self.experts(self.hidden(code))
        return logits


_DEEP = ("hidden", "layers", "dropout")
HEADS: Final = MappingProxyType(
    {
        "logistic": HeadKind(lambda d, c, o: Logistic(d, c, "mean"), "logistic regression on the mean embedding", ()),
        "logistic_max": HeadKind(lambda d, c, o: Logistic(d, c, "max"), "the same on the maximum over time", ()),
        "mlp": HeadKind(Mlp, "hidden layers on the mean embedding", _DEEP),
        "moe": HeadKind(MixtureOfExperts, "a mixture of experts on the mean embedding", ("mixtures",)),
        "average": HeadKind(
            lambda d, c, o: DecisionPooling(d, c, o, "mean"), "hidden layers a frame, mean of the frames' scores", _DEEP
        ),
        "max": HeadKind(
            lambda d, c, o: DecisionPooling(d, c, o, "max"),
            "hidden layers a frame, maximum of the frames' scores",
            _DEEP,
        ),
        "single_attention": HeadKind(
            lambda d, c, o: MultiAttention(d, c, o, levels=1), "hidden layers a frame, attention over the scores", _DEEP
        ),
        "multi_attention": HeadKind(
            lambda d, c, o: MultiAttention(d, c, o, levels=min(2, o.layers)),
            "attention after the last two hidden layers",
            _DEEP,
        ),
        "feature_attention": HeadKind(FeatureAttention, "attention over each hidden dimension", _DEEP),
        "gru": HeadKind(
            lambda d, c, o: Recurrent(d, c, o, nn.GRU),
            "gated recurrent units, mixture of experts",
            (*_DEEP, "mixtures"),
        ),
        "lstm": HeadKind(
            lambda d, c, o: Recurrent(d, c, o, nn.LSTM),
            "long short-term memory, mixture of experts",
            (*_DEEP, "mixtures"),
        ),
        "netvlad": HeadKind(
            NetVlad, "NetVLAD with gating, mixture of experts", ("clusters", "hidden", "dropout", "mixtures")
        ),
        "dbof": HeadKind(
            DeepBagOfFrames, "Deep Bag of Frames, mixture of experts", ("clusters", "hidden", "dropout", "mixtures")
        ),
    }
)
"""The heads by name."""
