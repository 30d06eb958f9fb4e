"""Write a folder of sounds that a classifier learns in seconds: sines, constants and white noise, a subfolder each.

They are the three classes of the demonstration of training that came with the original VGGish.

    python examples/make_toy_sounds.py toy/
    audioset finetune toy/ -o toy.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

SAMPLE_RATE = 16_000


def sine(rng: np.random.Generator, num_samples: int) -> npt.NDArray[np.float64]:
    """A tone of 150 Hz to 5 kHz: mel bands begin at 125 Hz."""
    time_s = np.arange(num_samples) / SAMPLE_RATE
    return rng.uniform(0.1, 0.9) * np.sin(2 * np.pi * rng.uniform(150, 5000) * time_s)


def constant(rng: np.random.Generator, num_samples: int) -> npt.NDArray[np.float64]:
    """The same value all along, which sounds like nothing."""
    return np.full(num_samples, rng.uniform(-0.9, 0.9))


def noise(rng: np.random.Generator, num_samples: int) -> npt.NDArray[np.float64]:
    """White noise, faint to loud."""
    return rng.uniform(0.01, 0.3) * rng.standard_normal(num_samples)


SOUNDS = {"sine": sine, "constant": constant, "noise": noise}


def write(folder: Path, num_clips: int, seconds: float, seed: int) -> None:
    """Write `num_clips` WAV files of each class below `folder`."""
    rng = np.random.default_rng(seed)
    for name, make in SOUNDS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in range(num_clips):
            samples = make(rng, round(seconds * SAMPLE_RATE)).clip(-1, 1)
            soundfile.write(folder / name / f"{place:02d}.wav", samples, SAMPLE_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=20, help="clips a class (default 20)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.folder, given.clips, given.seconds, given.seed)


if __name__ == "__main__":
    main()
