"""From labelled clips to a model of one's own in one file, and to what can be said of it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset import embed, models
from audioset import weights as stored
from audioset._extras import check_installed
from audioset._version import __version__
from audioset.errors import DatasetError, OptionError
from audioset.evaluate import DEFAULT_RESAMPLES, Evaluation, evaluate
from audioset.finetune.data import TEST, TRAIN, VALID, Bools, Sounds, read_sounds
from audioset.finetune.options import FinetuneOptions, Progress
from audioset.finetune.probe import fit_probe
from audioset.finetune.result import Finetuned
from audioset.finetune.running import clip_examples, clip_means
from audioset.finetune.split import Indices, Split, carve, split
from audioset.models import own
from audioset.models.own import OwnModel
from audioset.network import Network
from audioset.weights import Weights, content

Tensors = Mapping[str, npt.NDArray[np.float32]]

WORK_SUFFIX = ".work"
_SHOWN = 5
_KEPT_VALUES = 50_000_000  # of the embeddings of single examples: 200 MB


def finetune(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str = "mini",
    weights: str | os.PathLike[str] | Weights | None = None,
    test: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    group: str | None = None,
    options: FinetuneOptions | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Finetuned:
    """Teach a model the classes of labelled clips, write it to one file and return what it is worth.

    Clips that cannot be read are named in the result and left out. What is held out is never learnt from, and groups
    are never torn. With `options.full`, what is done is kept in a folder beside `out`, named `OUT.work`, and the same
    call goes on from there after an interruption, to the same weights.

    Parameters
    ----------
    data, test, classes, group
        See `read_sounds`.
    out : path
        The file to write; it ends in .safetensors, and the name before that is the model's.
    model : str
        Of the registry: `mini`, `yamnet`, `vggish`.
    weights : path, str or Weights, optional
        The weights to start from, as `audioset.load` takes them; the published ones by default.
    options : FinetuneOptions, optional
        How to learn.
    resamples : int
        For the intervals of the metrics; 0 for none.
    threads : int, optional
        Cores to use; all that the process may use by default.
    overwrite : bool
        Begin anew, and replace the file if it exists.
    progress : callable, optional
        Called with what is being done, how much of it is done, how much there is, and how it goes.

    Raises
    ------
    OptionError
        An option is out of range or matches nothing.
    DatasetError
        The data cannot be used: a class with fewer than two clips, no clip that can be read, a damaged csv file.
    WeightsError, FetchError
        The weights cannot be had or are not the model's.
    OutputError
        The file exists already or cannot be written, or the folder beside it is of another job.
    MissingExtraError
        scikit-learn, or for `options.full` PyTorch or Lightning, is not installed.
    """
    options = options or FinetuneOptions()
    target = own.check_path(out)
    content.check_output(target, overwrite=overwrite)
    if model not in models.REGISTRY:
        raise OptionError(f"model {model!r}: unknown; expected one of {', '.join(models.REGISTRY)}")
    check_installed("audioset.finetune", "sklearn", *(("torch", "lightning", "tensorboard") if options.full else ()))
    sounds = read_sounds(data, test=test, classes=classes, group=group)
    base = weights if isinstance(weights, Weights) else stored.load(model, weights)
    job = _Job.of(sounds, model, base, options, threads, progress)
    split_up = job.split()
    work = target.with_name(f"{target.name}{WORK_SUFFIX}")
    if options.full:
        job.open(work, split_up, overwrite=overwrite)
    scored = [job.cross_validated(place, *fold) for place, fold in enumerate(split_up.folds)]
    stop_after = median_low([of.learnt.epoch or 1 for of in scored]) if scored and options.full else None
    learnt = job.learn(split_up.train, split_up.valid if len(split_up.valid) else None, "final", stop_after)
    own.save(job.own, learnt.tensors, target, provenance=job.provenance(split_up, learnt), overwrite=overwrite)

    written = embed.load(target)
    network = Network(written.spec, written.weights)
    warned = [*job.sounds.warnings, *split_up.warnings]
    assess = partial(job.evaluated, resamples=resamples, warned=warned)
    valid, test_result = (
        assess(job.scores(network, clips, f"scoring {what}"), clips, what)
        for what, clips in ((VALID, split_up.valid), (TEST, split_up.test))
    )
    folds = [assess(of.scores, of.held, f"fold {place + 1}") for place, of in enumerate(scored)]
    pooled = None
    if scored:
        held = np.concatenate([of.held for of in scored])
        pooled = assess(np.concatenate([of.scores for of in scored]), held, "all folds")
    if options.full:
        job.close(work)
    return Finetuned(
        path=target,
        base=model,
        weights=base.sha256,
        classes=job.sounds.classes,
        multi_label=job.sounds.multi_label,
        options=options,
        counts=job.counts(split_up),
        num_clips={TRAIN: len(split_up.train), VALID: len(split_up.valid), TEST: len(split_up.test)},
        valid=valid,
        test=test_result,
        folds=tuple(of for of in folds if of is not None),
        pooled=pooled,
        strength=learnt.strength,
        epochs=learnt.epoch,
        failed=job.failed,
        warnings=tuple(warned),
    )


@dataclass(frozen=True)
class _Learnt:
    """Weights, and what they took."""

    tensors: Tensors
    strength: float
    epoch: int | None


@dataclass(frozen=True)
class _Fold:
    """A model of a cross-validation on what was held out from it."""

    learnt: _Learnt
    held: Indices
    scores: npt.NDArray[np.float32]


@dataclass
class _Job:
    """Clips that can be read, with their embeddings and what is learnt on them."""

    sounds: Sounds
    targets: Bools
    embeddings: npt.NDArray[np.float32]
    examples: list[npt.NDArray[np.float32]]
    own: OwnModel
    base: Weights
    options: FinetuneOptions
    threads: int | None
    progress: Progress | None
    failed: tuple[str, ...]
    work: Path | None = None
    waveforms: Any = None

    @classmethod
    def of(
        cls,
        sounds: Sounds,
        model: str,
        base: Weights,
        options: FinetuneOptions,
        threads: int | None,
        progress: Progress | None,
    ) -> _Job:
        """Embed every clip, and leave out those that cannot be read."""
        source_format = base.provenance.get("source_format", "")
        spec = models.get(model)
        network = Network(spec.of_format(source_format), base)
        embeddings, examples, reasons = clip_examples(
            network, "embedding", sounds.clips, _KEPT_VALUES, threads=threads, progress=_stage(progress, "embedding")
        )
        if len(reasons) == len(sounds.clips):
            raise DatasetError(
                f"clips: none of {len(reasons):,} could be read; expected labelled sound. The first: "
                f"{next(iter(reasons.values()), 'there is none')}"
            )
        kept = [place for place in range(len(sounds.clips)) if place not in reasons]
        readable = replace(sounds, clips=tuple(sounds.clips[place] for place in kept))
        return cls(
            sounds=readable,
            targets=readable.targets(),
            embeddings=embeddings[kept],
            examples=[examples[place] for place in kept],
            own=OwnModel(
                base=model,
                classes=sounds.classes,
                activation="sigmoid" if sounds.multi_label else "softmax",
                variant=source_format if source_format in spec.variants else "",
            ),
            base=base,
            options=options,
            threads=threads,
            progress=progress,
            failed=tuple(reasons.values()),
        )

    def split(self) -> Split:
        tested = any(clip.split == TEST for clip in self.sounds.clips)
        options = self.options
        try:
            return split(
                self.sounds,
                valid_fraction=options.share_to_validate(tested),
                num_folds=options.folds,
                seed=options.seed,
            )
        except DatasetError as error:
            missing = [*self.sounds.warnings, *self.failed]
            if not missing:
                raise
            more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
            raise DatasetError(f"{error}. Left out before: {'; '.join(missing[:_SHOWN])}{more}") from error

    def open(self, work: Path, split_up: Split, *, overwrite: bool) -> None:
        """Make or take up the folder of a full job, with all clips that it learns from or stops by decoded."""
        from audioset.finetune.full import Waveforms
        from audioset.train import _running

        if not split_up.folds and not len(split_up.valid):
            raise DatasetError(
                "validation clips: none; expected some, to know when to stop. Add clips or groups, give clips to "
                "validate by (a csv file with the column split), or use --folds"
            )
        if overwrite:
            _running.discard(work)
        _running.prepare(work, {**self._about(), "options": dataclasses.asdict(self.options)})
        self.work = work
        self.waveforms = Waveforms.of(self.sounds.clips, work, self.progress)

    def close(self, work: Path) -> None:
        """Delete the decoded clips, which are large; logs and checkpoints stay."""
        from audioset.finetune.full import Waveforms

        self.waveforms = None
        Waveforms.discard(work)

    def learn(self, train: Indices, valid: Indices | None, name: str, stop_after: int | None = None) -> _Learnt:
        """Fit the linear layer, and in a full job let all weights move from there."""
        groups = [self.sounds.clips[place].group for place in train]
        probe = fit_probe(
            self.embeddings[train],
            self.targets[train],
            groups,
            multi_label=self.sounds.multi_label,
            examples=[self.examples[place] for place in train],
            seed=self.options.seed,
            progress=_stage(self.progress, f"fitting {name}"),
        )
        head = {f"{own.HEAD}/weights": probe.weights, f"{own.HEAD}/biases": probe.biases}
        spec = self.own.spec(name)
        tensors = {key: head[key] if key in head else self.base.tensors[key] for key in spec.tensor_shapes}
        if self.work is None:
            return _Learnt(tensors, probe.strength, None)
        from audioset.finetune.full import fit_full

        tuned = fit_full(
            spec,
            tensors,
            self.waveforms,
            self.targets,
            train,
            valid,
            self.options,
            self.work / name,
            about=self._about(),
            stop_after=stop_after,
            stage=f"training {name}",
            threads=self.threads,
            progress=self.progress,
        )
        return _Learnt(tuned.tensors, probe.strength, tuned.epoch)

    def cross_validated(self, place: int, train: Indices, held: Indices) -> _Fold:
        """Learn from all folds but one, and score that."""
        name = f"fold-{place + 1}"
        valid = None
        if self.options.full:
            train, valid = carve(self.sounds, train, self.options.share_to_validate(True), self.options.seed)
            if not len(valid):
                raise DatasetError(
                    f"{name}: no clip to validate by is left of what it may learn from; expected some, to know when to "
                    "stop. Use fewer folds, or more clips or groups"
                )
        learnt = self.learn(train, valid, name)
        spec = self.own.spec(name)
        network = Network(spec, stored.from_tensors(name, name, learnt.tensors, {}))
        return _Fold(learnt, held, self.scores(network, held, f"scoring {name}"))

    def scores(self, network: Network, clips: Indices, stage: str) -> npt.NDArray[np.float32]:
        """Return clip scores as `audioset tag` gives them."""
        chosen = [self.sounds.clips[place] for place in clips]
        scores, reasons = clip_means(
            network, "scores", chosen, threads=self.threads, progress=_stage(self.progress, stage)
        )
        for reason in reasons.values():
            raise DatasetError(f"{reason} It could be read before: leave files alone while they are used")
        return scores

    def evaluated(
        self, scores: npt.NDArray[np.float32], clips: Indices, what: str, *, resamples: int, warned: list[str]
    ) -> Evaluation | None:
        if not len(clips):
            return None
        targets = self.targets[clips]
        if not targets.any():
            warned.append(f"{what}: no clip of any class; nothing can be said of it")
            return None
        groups = np.array([self.sounds.clips[place].group for place in clips])
        several = self.sounds.grouped and len(set(groups)) > 1
        return evaluate(
            scores,
            targets,
            self.sounds.classes,
            groups=groups if several else None,
            single_label=not self.sounds.multi_label,
            resamples=resamples,
            seed=self.options.seed,
        )

    def counts(self, split_up: Split) -> dict[str, list[int]]:
        parts = {TRAIN: split_up.train, VALID: split_up.valid, TEST: split_up.test}
        return {what: self.targets[clips].sum(axis=0).tolist() for what, clips in parts.items()}

    def provenance(self, split_up: Split, learnt: _Learnt) -> dict[str, str]:
        """Return what the file says of how it was made."""
        counts = self.counts(split_up)
        trained_on = {
            "clips": {
                TRAIN: len(split_up.train),
                VALID: len(split_up.valid),
                TEST: len(split_up.test),
                "unreadable": len(self.failed),
            },
            "clips_of_class": dict(zip(self.sounds.classes.names, counts[TRAIN], strict=True)),
            "sounds_sha256": self.sounds.sha256,
        }
        about = {
            "source": f"fine-tuned from {self.base.name}",
            "method": "full" if self.options.full else "frozen",
            "trained_from_sha256": self.base.sha256,
            "trained_on": json.dumps(trained_on, ensure_ascii=False),
            "seed": str(self.options.seed),
            "options": json.dumps({**dataclasses.asdict(self.options), "strength": learnt.strength}),
            "audioset_version": __version__,
        }
        if learnt.epoch is not None:
            about["epochs"] = str(learnt.epoch)
        return about | {
            key: self.base.provenance[key] for key in ("licence", "citation") if key in self.base.provenance
        }

    def _about(self) -> dict[str, Any]:
        """What decides the result besides the options, to compare when continuing."""
        return {"clips": self.sounds.sha256, "model": self.own.base, "weights": self.base.sha256}


def _stage(progress: Progress | None, stage: str) -> Any:
    return None if progress is None else lambda done, total: progress(stage, done, total, "")
