"""What mini is worth beside its teacher, on a fold of ESC-10 that it was not trained on, and how much faster it is.

    python benchmarks/mini.py ESC10_FOLDER YAMNET_TFLITE [--weights mini.safetensors]

Needs scikit-learn. Prints the figures of docs/models/mini.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import audioset
from audioset import audio, features
from audioset.network import Network

TEST_FOLD = "4"
REGULARIZATIONS = [0.001, 0.01, 0.1, 1, 10]
BATCH = 32
OUTPUTS = ("embedding", "scores")


def clip_means(network: Network, clips: list[np.ndarray]) -> dict[str, np.ndarray]:
    rows = [network.run(clip, OUTPUTS) for clip in clips]
    return {name: np.stack([row[name].mean(0) for row in rows]) for name in OUTPUTS}


def log_mel_statistics(clips: list[np.ndarray]) -> np.ndarray:
    frames = [clip.reshape(-1, features.NUM_MEL_BANDS) for clip in clips]
    return np.stack([np.concatenate([f.mean(0), f.std(0), np.abs(np.diff(f, axis=0)).mean(0)]) for f in frames])


def milliseconds(network: Network, examples: np.ndarray, repeats: int = 30) -> float:
    """Least time an example on one core."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        network.run(examples, OUTPUTS)
        times.append(time.perf_counter() - began)
    return 1e3 * min(times) / len(examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("esc10", type=Path)
    parser.add_argument("yamnet", type=Path)
    parser.add_argument("--weights", type=Path, help="default: the built-in ones")
    options = parser.parse_args()

    models = audioset.load("mini", options.weights), audioset.load("yamnet", options.yamnet)
    student, teacher = (Network(model.spec, model.weights) for model in models)
    spec = teacher.spec

    files = sorted(options.esc10.glob("*/*.ogg"))
    labels = np.array([file.parent.name for file in files])
    folds = np.array([file.name[0] for file in files])
    test = folds == TEST_FOLD
    waveforms = [audio.read(file) for file in files]
    regime = {"hop_s": spec.hop_s, "pad": spec.pad, "log_offset": spec.log_offset}
    clips = [features.examples(waveform, **regime) for waveform in waveforms]
    apart = [features.examples(waveform, pad="none", log_offset=spec.log_offset) for waveform in waveforms]
    of_student, of_teacher = clip_means(student, clips), clip_means(teacher, clips)
    for name, inputs in (
        ("log-mel statistics", log_mel_statistics(clips)),
        ("the same, side by side, no tail", log_mel_statistics(apart)),
        ("mini's embeddings", of_student["embedding"]),
        ("mini's scores", of_student["scores"]),
        ("YAMNet's scores", of_teacher["scores"]),
    ):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        classifier.fit(inputs[~test], labels[~test])
        chosen = GridSearchCV(classifier, {"logisticregression__C": REGULARIZATIONS}, cv=LeaveOneGroupOut())
        chosen.fit(inputs[~test], labels[~test], groups=folds[~test])
        print(
            f"{name:32} C = 1: {classifier.score(inputs[test], labels[test]):.2%}",
            f"C = {chosen.best_params_['logisticregression__C']}, chosen among folds 1-3: "
            f"{chosen.score(inputs[test], labels[test]):.2%}",
        )
        if name == "mini's embeddings":
            guesses = classifier.predict(inputs[test])
            wrong = guesses != labels[test]
            print(
                "   wrong:", ", ".join(f"{a} for {b}" for a, b in zip(guesses[wrong], labels[test][wrong], strict=True))
            )

    got, expected = of_student["scores"][test], of_teacher["scores"][test]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(got, expected, strict=True)]
    best = expected.argmax(1)
    top5 = np.argsort(-got, axis=1)[:, :5]
    print(f"correlation with the teacher, mean over clips {np.mean(correlations):.4f}, least {min(correlations):.3f}")
    print(
        f"same highest class {np.mean(got.argmax(1) == best):.2%},",
        f"among the five highest {np.mean((top5 == best[:, None]).any(1)):.2%}",
    )
    batch = np.concatenate(clips)[:BATCH]
    times = {"mini": milliseconds(student, batch), "YAMNet": milliseconds(teacher, batch)}
    print(
        ", ".join(f"{name} {ms:.3f} ms an example" for name, ms in times.items()),
        f"ratio {times['YAMNet'] / times['mini']:.1f}",
    )


if __name__ == "__main__":
    main()
