"""The metrics as their definitions say them, a clip and a pair at a time: slow, plain, not the package's code."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def average_precision(scores, targets):
    """Sum over thresholds, highest first, of precision times the step of recall."""
    if not any(targets):
        return math.nan
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = [t for s, t in zip(scores, targets, strict=True) if s >= threshold]
        recall = sum(called) / sum(targets)
        area += sum(called) / len(called) * (recall - before)
        before = recall
    return area


def auc(scores, targets):
    """Share of pairs in their order, equal ones one half."""
    above = [s for s, t in zip(scores, targets, strict=True) if t]
    below = [s for s, t in zip(scores, targets, strict=True) if not t]
    if not above or not below:
        return math.nan
    return sum((a > b) + (a == b) / 2 for a in above for b in below) / (len(above) * len(below))


def d_prime(area):
    return math.sqrt(2) * NormalDist().inv_cdf(area)


def lwlrap(scores, targets):
    """(overall, per class)"""
    precisions: list[list[float]] = [[] for _ in range(scores.shape[1])]
    for row, truth in zip(scores, targets, strict=True):
        for j in np.flatnonzero(truth):
            as_high = row >= row[j]
            precisions[j].append(truth[as_high].sum() / as_high.sum())
    every = [p for of_class in precisions for p in of_class]
    mean = [float(np.mean(p)) if p else math.nan for p in precisions]
    return (float(np.mean(every)) if every else math.nan), mean


def hits_by_lot(scores, targets, rng, width):
    """Share of right ones among the `width(truth)` highest of each clip, equal scores in random order."""
    shares = []
    for row, truth in zip(scores, targets, strict=True):
        if truth.any():
            order = np.lexsort((rng.random(len(row)), -row))
            shares.append(truth[order[: width(truth)]].mean())
    return float(np.mean(shares))


def starter_code_gap(scores, targets, k):
    """YouTube-8M's: pool the k highest of each clip, sort, add precision at each hit over all positives."""
    pooled = []
    for row, truth in zip(scores, targets, strict=True):
        pooled += [(row[j], truth[j]) for j in np.argsort(-row)[:k]]
    pooled.sort(key=lambda pair: -pair[0])
    found, area = 0, 0.0
    for place, (_, truth) in enumerate(pooled, start=1):
        if truth:
            found += 1
            area += found / place / targets.sum()
    return area
