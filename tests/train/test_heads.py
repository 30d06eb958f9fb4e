"""The heads, over the whole registry: shapes, padding, gradients, and what each is known to compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from audioset.errors import OptionError
from audioset.train import heads
from audioset.train.heads import HEADS, HeadOptions, build

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = HeadOptions(hidden=12, layers=2, dropout=0.3, clusters=5)
DIM, CLASSES = 8, 6


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    """Four clips of 5, 1, 3 and no frames; what is in the padding is far from anything."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(4, 5, DIM, generator=generator)
    num_frames = torch.tensor([5, 1, 3, 0])
    embeddings[~heads.frame_mask(num_frames, 5)] = 100.0
    return embeddings, num_frames


def head_of(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    return build(name, DIM, CLASSES, SMALL)


@pytest.mark.parametrize("name", HEADS)
def test_logits_are_finite_and_of_every_class(name: str, clips: tuple[Tensor, Tensor]) -> None:
    head = head_of(name)
    for module in (head.eval(), head.train()):
        logits = module(*clips)
        assert logits.shape == (4, CLASSES)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", HEADS)
def test_the_padding_and_the_company_do_not_matter(name: str, clips: tuple[Tensor, Tensor]) -> None:
    head = head_of(name).eval()
    embeddings, num_frames = clips
    together = head(embeddings, num_frames)
    longer = torch.cat([embeddings, torch.full((4, 2, DIM), -50.0)], dim=1)
    torch.testing.assert_close(head(longer, num_frames), together, atol=1e-5, rtol=1e-5)
    for place, length in enumerate(num_frames.tolist()):
        alone = head(embeddings[place : place + 1, : max(length, 1)], num_frames[place : place + 1])
        torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_training_sees_only_the_frames_that_count(name: str, clips: tuple[Tensor, Tensor]) -> None:
    embeddings, num_frames = clips
    changed = embeddings.clone()
    changed[~heads.frame_mask(num_frames, 5)] = -3.0
    found = []
    for values in (embeddings, changed):
        head = head_of(name).train()
        torch.manual_seed(2)
        found.append(head(values, num_frames))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", HEADS)
def test_every_weight_gets_a_gradient(name: str, clips: tuple[Tensor, Tensor]) -> None:
    head = build(name, DIM, CLASSES, HeadOptions(hidden=12, layers=2, dropout=0.0, clusters=5)).train()
    torch.nn.functional.binary_cross_entropy_with_logits(head(*clips), torch.eye(CLASSES)[:4]).backward()
    for weight_name, weight in head.named_parameters():
        assert weight.grad is not None, weight_name
        assert torch.isfinite(weight.grad).all(), weight_name
        assert weight.grad.abs().sum() > 0 or weight_name.endswith("0.bias"), weight_name  # a norm follows: no effect


@pytest.mark.parametrize("name", HEADS)
def test_a_batch_of_one_frame_trains(name: str) -> None:
    logits = head_of(name).train()(torch.ones(1, 1, DIM), torch.tensor([1]))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_which_clips_hold_a_loud_frame(name: str) -> None:
    """One frame of five tells the class: every head must get from 50% to nearly all of the clips that it trains on."""
    rng = np.random.default_rng(3)
    embeddings = torch.from_numpy(rng.standard_normal((64, 5, DIM)).astype(np.float32))
    label = torch.arange(64) % 2
    embeddings[torch.arange(64), torch.from_numpy(rng.integers(0, 5, 64)), 0] += 8.0 * label
    targets = torch.stack([label, 1 - label], dim=1).float()
    torch.manual_seed(0)
    head = build(name, DIM, 2, HeadOptions(hidden=16, layers=2, dropout=0.0, clusters=8)).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02)
    frames = torch.full((64,), 5)
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(head(embeddings, frames), targets).backward()
        optimizer.step()
    right = (head.eval()(embeddings, frames).argmax(1) == targets.argmax(1)).float().mean()
    assert right > 0.9


def test_logistic_is_a_matrix_on_the_mean(clips: tuple[Tensor, Tensor]) -> None:
    head = head_of("logistic").eval()
    embeddings, _ = clips
    weights, biases = head.get_parameter("classify.weight"), head.get_parameter("classify.bias")
    torch.testing.assert_close(head(*clips)[2], embeddings[2, :3].mean(0) @ weights.T + biases)


def test_single_attention_is_a_weighted_mean_of_scores(clips: tuple[Tensor, Tensor]) -> None:
    head = head_of("single_attention").eval()
    embeddings = clips[0][2, :3]
    frames = head.get_submodule("frames.steps.1")(head.get_submodule("frames.steps.0")(embeddings))
    attend, classify = head.get_submodule("attentions.0.attend"), head.get_submodule("attentions.0.classify")
    weights = torch.softmax(attend(frames), dim=-1)
    weights = weights / weights.sum(0)
    expected = (weights * torch.sigmoid(classify(frames))).sum(0)
    torch.testing.assert_close(torch.sigmoid(head(*clips)[2]), expected, atol=1e-5, rtol=1e-5)


def test_experts_are_weighted_by_gates_of_which_one_says_no() -> None:
    torch.manual_seed(0)
    experts = heads.Experts(DIM, 2, mixtures=2)
    features = torch.randn(1, DIM)
    gates = torch.exp(experts.gates(features)[0].view(2, 3))
    says = torch.sigmoid(experts.experts(features)[0].view(2, 2))
    expected = [(gates[c, :2] @ says[c] / gates[c].sum()).item() for c in range(2)]
    np.testing.assert_allclose(torch.sigmoid(experts(features))[0].tolist(), expected, atol=1e-5)


def test_what_a_head_uses_is_what_changes_it() -> None:
    base = HeadOptions(hidden=8, layers=2, dropout=0.1, mixtures=2, clusters=4)
    other = HeadOptions(hidden=9, layers=3, dropout=0.2, mixtures=3, clusters=5)
    for name, kind in HEADS.items():
        for option in ("hidden", "layers", "mixtures", "clusters"):
            changed = HeadOptions(**{**vars(base), option: getattr(other, option)})
            shapes = [[tuple(w.shape) for w in build(name, DIM, CLASSES, o).parameters()] for o in (base, changed)]
            assert (shapes[0] != shapes[1]) == (option in kind.uses), f"{name}: {option}"


def test_unknown_heads_and_sizes_are_refused() -> None:
    with pytest.raises(OptionError, match="head 'transformer': unknown; expected one of logistic"):
        build("transformer", DIM, CLASSES)
    with pytest.raises(OptionError, match=r"dropout: 1\.0 is out of range"):
        HeadOptions(dropout=1.0)
    with pytest.raises(OptionError, match="hidden: 0 is out of range"):
        HeadOptions(hidden=0)
