"""The parts of a card below its YAML, in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from audioset import models
from audioset.hub.contents import Contents
from audioset.hub.download import EMBEDDINGS, FILES
from audioset.models.own import HUB

_SHOWN_CLASSES: Final = 60
_SHOWN_TEXT: Final = 300
_REGIMES: Final = {
    "raw": "the network's own output, before any non-linearity",
    "pca": "PCA components, whitened",
    "uint8": "as AudioSet's released features: PCA, whitened, clipped to ±2, in 8 bits",
}


def model_sections(contents: Contents, repo_id: str, licence: str | None, figures: Sequence[str]) -> list[str]:
    """Return the lines for a model, a head or weights, with lines of figures."""
    spec = models.REGISTRY.get(contents.base)
    lines = [f"# {_text(contents.title)}", "", _summary(contents), "", "## Use", ""]
    lines += ["```bash", "pip install audioset huggingface_hub", *_shell(contents, repo_id), "```", ""]
    lines += ["```python", *_python(contents, repo_id), "```", ""]
    if contents.classes is not None:
        names = contents.classes.names
        more = f" and {len(names) - _SHOWN_CLASSES:,} more" if len(names) > _SHOWN_CLASSES else ""
        shown = "; ".join(_text(name) for name in names[:_SHOWN_CLASSES])
        lines += [f"## Classes ({len(names):,})", "", f"{shown}{more}.", ""]
    lines += ["## How it was made", "", *table(("what", "as the file says"), list(_history(contents)))]
    lines += ["## Figures", "", *figures, ""]
    lines += ["## Limits", ""]
    if contents.kind == "head":
        lines += ["- It takes embeddings of the model named above, in the same form, and no others."]
    elif spec is not None:
        lines += [
            f"- Sound is taken as 16 kHz mono; a row is of 0.96 s, and by default there is one every {spec.hop_s:g} s."
        ]
    if contents.classes is not None:
        lines += [
            "- It knows its classes alone: anything else is given scores for these too.",
            "- Scores are no probabilities for other recordings than it was taught with: places, microphones and "
            "backgrounds differ. Measure it on yours (`audioset evaluate`) before you rely on it.",
        ]
    lines += ["", "## Licence and citation", "", f"Licence: {_text(licence) if licence else 'not stated'}."]
    if spec is not None:
        of_base = {"licence": spec.licence, "citation": spec.citation, **contents.about}
        licence, citation = _text(of_base["licence"]), _text(of_base["citation"])
        lines += [f"It builds on {spec.name}, whose weights are under {licence}: {citation}."]
    return [*lines, f"Made with audioset{_version(contents)}.", ""]


def _summary(contents: Contents) -> str:
    count = 0 if contents.classes is None else len(contents.classes)
    classes = f"{count:,} class" + ("" if count == 1 else "es")
    if contents.kind == "head":
        embedder = contents.about["embedder"]
        regime = embedder.get("regime")
        return (
            f"A classifier ({_text(contents.about['kind'])}) of {classes} on embeddings of {_text(contents.base)} "
            f"({_text(embedder.get('dim'))} wide, {_text(_REGIMES.get(str(regime), regime))})."
        )
    if contents.kind == "weights":
        return f"Weights of {contents.base}, a network for sound, as one safetensors file."
    activation = contents.about["own_model"]["activation"]
    how = "each clip is of one class" if activation == "softmax" else "several classes may be heard at once"
    return (
        f"A model that names sounds: {contents.base} up to its embedding, and {classes} on top ({activation}: {how}). "
        "It gives embeddings too."
    )


def _shell(contents: Contents, repo_id: str) -> list[str]:
    name = f"{HUB}{repo_id}"
    match contents.kind:
        case "head":
            return [f"audioset evaluate {name} features.parquet --labels labels.csv"]
        case "weights":
            return [f"audioset embed street.wav --model {contents.base} --weights {name}"]
    return [f"audioset tag street.wav --model {name}"]


def _python(contents: Contents, repo_id: str) -> list[str]:
    name = f"{HUB}{repo_id}"
    if contents.kind == "head":
        return [
            "import audioset",
            "from audioset.train.head import Head",
            "",
            f'head = Head.load("{name}")  # needs PyTorch',
            'clip = audioset.read_embeddings("clip.parquet").values',
            "print(head.predict([clip]))  # scores (1, classes)",
        ]
    loaded = f'"{name}"' if contents.kind == "model" else f'"{contents.base}", "{name}"'
    lines = ["import audioset", "", f"model = audioset.load({loaded})"]
    if contents.classes is not None:
        lines.append('print(model.tag("street.wav").top(3))')
    return [*lines, 'print(model.embed("street.wav").values.shape)  # (examples, dimensions)']


def _history(contents: Contents) -> Iterator[tuple[str, str]]:
    """Yield what the file says of how it was made; paths of people's own files are left out."""
    about = contents.about
    if contents.kind == "head":
        notes = contents.notes
        yield "embeddings of", f"{contents.base}, weights {about['embedder'].get('weights') or 'not known'}"
        for what, key in (("clips learnt from", "num_train"), ("clips validated by", "num_valid")):
            if key in notes:
                yield what, f"{notes[key]:,}" if isinstance(notes[key], int) else str(notes[key])
        if isinstance(notes.get("config"), Mapping):
            yield "settings", json.dumps(notes["config"], ensure_ascii=False)
    elif contents.kind == "weights":
        yield from ((name, str(about[name])) for name in ("source", "source_sha256", "url") if name in about)
    else:
        yield from _taught(about)
    yield "file", f"{FILES[contents.kind]}, {contents.num_bytes:,} bytes, SHA-256 {contents.sha256}"


def _taught(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    methods = {
        "frozen": "frozen: the network as it was, a logistic regression on the mean embeddings of clips",
        "full": "full: all weights moved",
    }
    for what, key in (("source", "source"), ("weights that it started from", "trained_from_sha256")):
        if key in about:
            yield what, str(about[key])
    if "method" in about:
        yield "method", methods.get(str(about["method"]), str(about["method"]))
    trained_on = about.get("trained_on")
    if isinstance(trained_on, Mapping) and isinstance(trained_on.get("clips"), Mapping):
        yield "clips", ", ".join(f"{name}: {count}" for name, count in trained_on["clips"].items())
    for key in ("epochs", "seed", "options"):
        if key in about:
            yield key, about[key] if isinstance(about[key], str) else json.dumps(about[key], ensure_ascii=False)


def embeddings_sections(contents: Contents, repo_id: str, licence: str | None) -> list[str]:
    """Return the lines for embeddings."""
    found = contents.embedded
    job = found.job
    window = "" if job.duration_s is None else f", of {job.duration_s:g} s"
    rows = [
        ("model", job.model),
        ("weights", f"{job.weights_name}, SHA-256 {job.weights_sha256}"),
        ("values", f"{job.embedding_dim} × {job.dtype}: {_REGIMES.get(job.regime, job.regime)}"),
        ("examples", f"0.96 s, one every {job.hop_s:g} s; padding: {job.pad}"),
        ("pooling", "none: a row an example" if job.pool == "none" else f"{job.pool}: a row a file"),
        ("read from", f"second {job.start_s:g}{window}"),
        ("arithmetic", f"{job.precision}, {job.engine} on {job.device}"),
        ("made with", f"audioset {job.version}"),
        ("file", f"{FILES[EMBEDDINGS]}, {contents.num_bytes:,} bytes, SHA-256 {contents.sha256}"),
    ]
    failed = f" {found.num_failures:,} more could not be read." if found.num_failures else ""
    spec = models.REGISTRY.get(job.model)
    cite = [] if spec is None else [f"Of {spec.name}: {_text(spec.citation)}."]
    return [
        f"# {_text(contents.title)}",
        "",
        f"Embeddings of {found.files:,} audio files, {found.rows:,} rows.{failed} The sound itself is not in it.",
        "",
        "## Use",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("{repo_id}", split="train")',
        'print(rows[0]["file"], rows[0]["start_s"], len(rows[0]["embedding"]))',
        "```",
        "",
        "```bash",
        "pip install audioset huggingface_hub",
        f"audioset hub pull datasets/{repo_id} -o {FILES[EMBEDDINGS]}  # verified; for audioset.read_embeddings",
        "```",
        "",
        "## Columns",
        "",
        *table(
            ("column", "what"),
            [
                ("file", "name of the file, as it was given"),
                ("start_s, end_s", "seconds in the file"),
                ("embedding", f"{job.embedding_dim} values"),
            ],
        ),
        "## How it was made",
        "",
        *table(("what", "as the file says"), rows),
        "## Limits",
        "",
        "- Embeddings compare with others of the same model, weights and form alone.",
        "- What they say of a sound is what this network heard in it.",
        "",
        "## Licence and citation",
        "",
        f"Licence: {_text(licence) if licence else 'not stated'}.",
        *cite,
        "",
    ]


def _version(contents: Contents) -> str:
    version = contents.about.get("audioset_version")
    return f" {_text(version)}" if version else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines, and an empty one."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows), ""]


def _text(given: object) -> str:
    """Return text that Markdown shows as it is, in one line."""
    line = " ".join(str(given).split())
    shown = line if len(line) <= _SHOWN_TEXT else f"{line[:_SHOWN_TEXT]}…"
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", shown)
