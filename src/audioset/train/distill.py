"""Distillation: a small network learns, on random mixtures of anyone's recordings, to say what a large one says.

Two stages, each of which continues where it was stopped. First mixtures are made and the teacher listens to them; they
are kept in blocks, files in a working folder beside the output. Then the student goes through the blocks a number of
times, towards the teacher's scores (cross entropy) and, by a matrix that is thrown away afterwards, its embedding.
Everything is decided by the seed: mixtures bit for bit, training up to how PyTorch sums on the machine at hand.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from audioset import audio
from audioset._files import written_whole
from audioset.errors import MissingExtraError, OptionError, OutputError
from audioset.features import NUM_FRAMES, NUM_MEL_BANDS, Float32Array
from audioset.models import mini
from audioset.network import Network
from audioset.train.mixtures import Mixer, find_recordings, read_groups, spoken
from audioset.weights import safetensors_file

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from audioset.torch.layers import Outputs
    from audioset.train.student import Student
except ImportError as error:
    raise MissingExtraError(
        "distillation: PyTorch is not installed; expected it for training. Install it with `pip install torch`."
    ) from error

if TYPE_CHECKING:
    from audioset.embed import Model

_TEACHER_BATCH = 64
_WARM_UP_STEPS = 300
_BLOCKS_PER_REPORT = 8
# Keeps the dimensions of the teacher's embedding that hardly move from being blown up.
_DEVIATION_FLOOR = 0.05
# The cross entropy is summed over the classes; this brings it to the size of the embedding's error.
_SCORES_WEIGHT = 0.1

Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Recipe:
    """What decides the student, besides teacher and recordings.

    Attributes
    ----------
    seed : int
        Of mixtures, first weights and order.
    num_mixtures : int
        Examples of 0.96 s to learn from; rounded up to whole blocks.
    block_size : int
        Mixtures a file of the working folder.
    epochs : int
        How often each is seen.
    batch_size : int
        Examples a step.
    learning_rate : float
        Highest; it rises over the first 300 steps and then falls as a half cosine.
    weight_decay : float
        Of AdamW.
    mask_frames, mask_bands : int
        Widest run of frames and of mel bands that is hidden from the student, though not from the teacher, in each
        example (SpecAugment); 0 hides nothing.
    synthetic : float
        Share of sources that are synthesized on the spot.
    voices : bool
        Whether espeak-ng's voices are among the sources.
    """

    seed: int = 0
    num_mixtures: int = 262_144
    block_size: int = 4096
    epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    mask_frames: int = 16
    mask_bands: int = 8
    synthetic: float = 0.08
    voices: bool = True

    def __post_init__(self) -> None:
        for name in ("num_mixtures", "block_size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}: {getattr(self, name)} is out of range; expected at least 1")
        for name, most in (("mask_frames", NUM_FRAMES), ("mask_bands", NUM_MEL_BANDS)):
            if not 0 <= getattr(self, name) <= most:
                raise OptionError(f"{name}: {getattr(self, name)} is out of range; expected 0 to {most}")
        if self.block_size % self.batch_size or self.block_size % _TEACHER_BATCH:
            raise OptionError(
                f"block_size: {self.block_size} is out of range; expected a multiple of batch_size, {self.batch_size}, "
                f"and of {_TEACHER_BATCH}"
            )

    @property
    def num_blocks(self) -> int:
        """Files in the working folder."""
        return -(-self.num_mixtures // self.block_size)

    @property
    def num_steps(self) -> int:
        """Steps of the optimizer."""
        return self.epochs * self.num_blocks * (self.block_size // self.batch_size)


@dataclass(frozen=True)
class Teacher:
    """A network to learn from.

    Attributes
    ----------
    name, sha256 : str
        The model, and the hash of its weights.
    log_offset : float
        Of its front end, which becomes the student's.
    run : callable
        Examples (n, 96, 64) to outputs by name: `embedding` (n, width) and `scores` (n, 521).
    """

    name: str
    sha256: str
    log_offset: float
    run: Callable[[Float32Array], Mapping[str, Float32Array]]

    @classmethod
    def of(cls, model: Model) -> Teacher:
        """Return what `audioset.load` gave as a teacher.

        Raises
        ------
        OptionError
            The model gives no scores, or not those of mini's classes.
        """
        if model.spec.num_classes != mini.SPEC.num_classes:
            raise OptionError(
                f"teacher: {model.name} scores {model.spec.num_classes or 'no'} classes; expected a model that scores "
                f"{mini.SPEC.num_classes}, such as yamnet"
            )
        network = Network(model.spec, model.weights)
        return cls(
            model.name,
            model.weights.sha256,
            model.spec.log_offset,
            partial(network.run, outputs=("embedding", "scores")),
        )


def distill(
    teacher: Teacher,
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    exclude: Sequence[str] = (),
    recipe: Recipe | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train the model `mini` on mixtures of the recordings in `folders` and write its weights.

    Parameters
    ----------
    teacher : Teacher
        Whose scores and embeddings are learnt.
    folders : sequence of path
        Searched recursively for audio files.
    out : path
        The safetensors file to write, in float16. Beside it come the losses, `OUT.losses.csv` (and `.png` where
        matplotlib is installed), and the working folder `OUT.work`, which may be deleted afterwards.
    exclude : sequence of str
        Shell patterns of files to leave out, from the folder's own name on: `esc10/*/4-*`.
    recipe : Recipe, optional
        Sizes, seed and rates.
    threads : int, optional
        Cores to use; all that PyTorch would use by default.
    progress : callable, optional
        `progress(stage, done, total)`, stage being "mixtures" or "steps".

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    OptionError
        A folder is missing or holds no audio, or the working folder is of another recipe.
    AudioError
        A recording cannot be read.
    OutputError
        The output cannot be written.
    """
    recipe = recipe or Recipe()
    out = Path(out)
    threads = threads or torch.get_num_threads()
    report = progress or (lambda stage, done, total: None)
    recordings = find_recordings([Path(folder) for folder in folders], exclude=exclude)
    provenance = {
        "recipe": json.dumps(dataclasses.asdict(recipe)),
        "teacher": teacher.name,
        "teacher_sha256": teacher.sha256,
        "folders": json.dumps([Path(folder).name for folder in folders]),
        "exclude": json.dumps(list(exclude)),
        "recordings": str(len(recordings)),
        "recordings_sha256": _hash_of(recordings),
    }
    work = _working_folder(out, provenance)
    _make_blocks(work, teacher, recordings, recipe, threads, report)
    student = _fit(work, recipe, threads, report)
    tensors = {name: values.astype(np.float16) for name, values in student.tensors().items()}
    history = [line["cross_entropy"] for line in _losses(work)]
    metadata = {
        "model": mini.SPEC.name,
        "licence": mini.SPEC.licence,
        "citation": mini.SPEC.citation,
        "source": f"distilled from {teacher.name}",
        "final_cross_entropy": history[-1] if history else "",
        **provenance,
    }
    safetensors_file.write(out, tensors, metadata)
    _draw_losses(work, out)
    return out


def _hash_of(recordings: Sequence[tuple[Path, Path]]) -> str:
    """Hash of the names (from the folder on) and contents of the recordings."""
    digest = hashlib.sha256()
    for folder, path in recordings:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder.parent).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _working_folder(out: Path, provenance: Mapping[str, str]) -> Path:
    """The folder of what is kept between runs; it belongs to one recipe, one teacher and one set of recordings."""
    work = out.with_name(out.name + ".work")
    try:
        work.mkdir(parents=True, exist_ok=True)
        identity = work / "recipe.json"
        if identity.exists():
            if json.loads(identity.read_text(encoding="utf-8")) != provenance:
                raise OptionError(
                    f"{work}: made with another recipe, teacher or set of recordings; expected the same ones to "
                    "continue. Delete the folder, or choose another output."
                )
        else:
            with written_whole(identity) as temporary:
                temporary.write_text(json.dumps(provenance, indent=2), encoding="utf-8")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{work}: {error.strerror or error}; expected a folder that can be written to") from error
    return work


def _block_path(work: Path, index: int) -> Path:
    return work / f"{index:05d}.npy"


def _make_blocks(
    work: Path,
    teacher: Teacher,
    recordings: Sequence[tuple[Path, Path]],
    recipe: Recipe,
    threads: int,
    report: Progress,
) -> None:
    """Make the blocks that are not there yet."""
    missing = [index for index in range(recipe.num_blocks) if not _block_path(work, index).exists()]
    if not missing:
        return
    groups = read_groups(recordings, audio.read)
    if recipe.voices:
        groups.append(spoken())
    mixer = Mixer(groups, seed=recipe.seed, log_offset=teacher.log_offset, synthetic=recipe.synthetic)
    done = recipe.num_blocks - len(missing)
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(_make_block, work, teacher, mixer, index, recipe.block_size) for index in missing]
        try:
            for future in as_completed(futures):
                future.result()
                done += 1
                report("mixtures", done * recipe.block_size, recipe.num_blocks * recipe.block_size)
        finally:
            for future in futures:
                future.cancel()


def _make_block(work: Path, teacher: Teacher, mixer: Mixer, index: int, size: int) -> None:
    """Mix one block, let the teacher listen, and keep both in float16."""
    parts = size // _TEACHER_BATCH
    rows: npt.NDArray[np.void] | None = None
    for part in range(parts):
        examples = mixer.block(index * parts + part, _TEACHER_BATCH)
        outputs = teacher.run(examples)
        if rows is None:
            rows = np.empty(size, _row(outputs["embedding"].shape[1], outputs["scores"].shape[1]))
        at = slice(part * _TEACHER_BATCH, (part + 1) * _TEACHER_BATCH)
        rows["examples"][at] = examples
        rows["embedding"][at] = outputs["embedding"]
        rows["scores"][at] = outputs["scores"]
    with written_whole(_block_path(work, index)) as temporary, temporary.open("wb") as file:
        np.save(file, rows if rows is not None else np.empty(0), allow_pickle=False)


def _row(embedding_dim: int, num_classes: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("examples", np.float16, (NUM_FRAMES, NUM_MEL_BANDS)),
            ("embedding", np.float16, (embedding_dim,)),
            ("scores", np.float16, (num_classes,)),
        ]
    )


def _fit(work: Path, recipe: Recipe, threads: int, report: Progress) -> Student:
    """Train the student on the blocks, from the last checkpoint if there is one."""
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    first = np.load(_block_path(work, 0), mmap_mode="r", allow_pickle=False)
    embeddings = torch.from_numpy(first["embedding"].astype(np.float32))
    mean, deviation = embeddings.mean(0), embeddings.std(0) + _DEVIATION_FLOOR

    student = Student(mini.SPEC)
    student.expect(torch.from_numpy(first["scores"].astype(np.float32)).mean(0))
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    onto_teacher = nn.Linear(mini.SPEC.embedding_dim, len(mean))
    both = nn.ModuleDict({"student": student, "onto_teacher": onto_teacher})
    optimizer = torch.optim.AdamW(both.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    blocks_done = _restore(work, both, optimizer)
    total_blocks = recipe.epochs * recipe.num_blocks
    steps_per_block = recipe.block_size // recipe.batch_size
    sums = np.zeros(3)
    for visit in range(blocks_done, total_blocks):
        epoch, position = divmod(visit, recipe.num_blocks)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(recipe.num_blocks)
        rows = np.load(_block_path(work, int(order[position])), allow_pickle=False)
        rng = np.random.default_rng([recipe.seed, epoch, position])
        shuffled = rng.permutation(len(rows))
        for i in range(steps_per_block):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(visit * steps_per_block + i, recipe.num_steps)
            batch = rows[np.sort(shuffled[i * recipe.batch_size : (i + 1) * recipe.batch_size])]
            examples, embedding, scores = (
                torch.from_numpy(batch[name].astype(np.float32)) for name in ("examples", "embedding", "scores")
            )
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = student(_masked(examples, recipe, rng))
            cross_entropy, error = _loss(outputs, onto_teacher, scores, (embedding - mean) / deviation)
            loss = _SCORES_WEIGHT * cross_entropy + error
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            sums += (cross_entropy.item(), error.item(), 1)
        if (visit + 1) % _BLOCKS_PER_REPORT == 0 or visit + 1 == total_blocks:
            _append_losses(work, (visit + 1) * steps_per_block, *(sums[:2] / sums[2]))
            sums[:] = 0
            _keep(work, both, optimizer, visit + 1)
        report("steps", (visit + 1) * steps_per_block, recipe.num_steps)
    student.eval()
    return student


def _schedule(step: int, num_steps: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def _masked(examples: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Replace a random run of frames and one of mel bands in each example by the example's mean."""
    hidden = np.zeros(examples.shape, dtype=np.bool_)
    for widest, axis in ((recipe.mask_frames, 1), (recipe.mask_bands, 2)):
        size = examples.shape[axis]
        width = rng.integers(0, widest + 1, (len(examples), 1))
        first = rng.integers(0, size - width + 1)
        place = np.arange(size)
        hidden |= np.expand_dims((place >= first) & (place < first + width), 3 - axis)
    return torch.where(torch.from_numpy(hidden), examples.mean((1, 2), keepdim=True), examples)


def _loss(outputs: Outputs, onto_teacher: nn.Linear, scores: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of the scores, summed over classes, and squared error of the standardized embedding."""
    entropies = functional.binary_cross_entropy_with_logits(
        cast(Tensor, outputs.logits).float(), scores, reduction="none"
    )
    guess = onto_teacher(outputs.embedding.float())
    return entropies.sum(1).mean(), functional.mse_loss(guess, embedding)


def _keep(work: Path, both: nn.Module, optimizer: torch.optim.Optimizer, blocks_done: int) -> None:
    with written_whole(work / "checkpoint.pt") as temporary:
        state = {"both": both.state_dict(), "optimizer": optimizer.state_dict(), "blocks_done": blocks_done}
        torch.save(state, temporary)


def _restore(work: Path, both: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    path = work / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    both.load_state_dict(state["both"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["blocks_done"])


_LOSS_COLUMNS = ("step", "cross_entropy", "embedding_error")


def _losses_path(work: Path) -> Path:
    return work / "losses.csv"


def _append_losses(work: Path, step: int, cross_entropy: float, error: float) -> None:
    path = _losses_path(work)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(_LOSS_COLUMNS)
        writer.writerow([step, f"{cross_entropy:.5f}", f"{error:.5f}"])


def _losses(work: Path) -> list[dict[str, str]]:
    """Lines of the loss curve; of lines that a stopped run wrote twice, the later."""
    path = _losses_path(work)
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        by_step = {int(line["step"]): line for line in csv.DictReader(file)}
    return [by_step[step] for step in sorted(by_step)]


def _draw_losses(work: Path, out: Path) -> None:
    """Write the loss curve beside the output: a table, and a picture where matplotlib is installed."""
    lines = _losses(work)
    with written_whole(out.with_name(out.name + ".losses.csv")) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, _LOSS_COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return
    figure: Any = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, column in zip(axes, _LOSS_COLUMNS[1:], strict=True):
        axis.plot([int(line["step"]) for line in lines], [float(line[column]) for line in lines])
        axis.set(ylabel=column.replace("_", " "), yscale="log")
    axes[-1].set_xlabel("step")
    with written_whole(out.with_name(out.name + ".losses.png")) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
