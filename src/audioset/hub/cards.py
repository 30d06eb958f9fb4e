"""Cards: what the Hub shows of a repository, made of what the file says of itself and of figures that were measured."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from audioset.errors import OptionError, RecordError
from audioset.hub._front_matter import front_matter
from audioset.hub._sections import embeddings_sections, model_sections, table
from audioset.hub.contents import Contents, examine
from audioset.hub.download import EMBEDDINGS, FILES
from audioset.hub.repository import Repository
from audioset.models.own import HUB
from audioset.weights.files import user_path

if TYPE_CHECKING:
    from audioset.evaluate import Evaluation

Figures = tuple[str, "Evaluation"]

_PLACEHOLDER: Final = "owner/name"
# Identifiers that the Hub knows; any other licence goes by its name.
_LICENCES: Final = frozenset(
    (
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsl-1.0",
        "isc",
        "wtfpl",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "agpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "mpl-2.0",
        "odbl",
        "odc-by",
        "pddl",
        "unlicense",
        "zlib",
        "openrail",
        "unknown",
    )
)
# Names of metrics where other libraries have one for the same.
_METRIC_TYPES: Final = {"macro_f1": "f1", "auc": "roc_auc", "map": "mean_average_precision"}
_SIZES: Final = ((1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M"))
# Of what `audioset finetune --json` writes, the figure that says most of sound that was not learnt from comes first.
_REPORTED: Final = {
    "test": "clips held out for the test",
    "folds_pooled": "cross-validation, all folds together",
    "valid": "clips held out for validation",
}


def card(
    path: str | os.PathLike[str],
    repo_id: str = _PLACEHOLDER,
    *,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    evaluation: Evaluation | str | os.PathLike[str] | None = None,
) -> str:
    """Return the card of a file that can be pushed: Markdown, with YAML before it.

    It has what the file says of itself and the figures that are given, and nothing else. Parameters and errors are
    those of `push`.
    """
    figures = None if evaluation is None else read_evaluation(evaluation)
    repo_id = Repository.of(repo_id.removeprefix("datasets/")).repo_id
    return card_of(examine(path), repo_id, licence=licence, datasets=datasets, evaluation=figures)


def card_of(
    contents: Contents,
    repo_id: str,
    *,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    evaluation: Figures | None = None,
) -> str:
    """Return the card of a file that has been examined.

    Raises
    ------
    OptionError
        The evaluation is of other classes, or of embeddings; a data set is no name of a repository.
    """
    for name in datasets:
        Repository.of(name)
    if evaluation is not None:
        scored = [of.name for of in evaluation[1].classes]
        if contents.classes is None or list(contents.classes.names) != scored:
            own = (
                "none" if contents.classes is None else f"{len(contents.classes):,}: {_listed(contents.classes.names)}"
            )
            raise OptionError(
                f"evaluation: of {len(scored):,} classes ({_listed(scored)}); expected those of {contents.path} ({own})"
            )
    # What a model of one's own says is of the weights that it started from.
    known = str(contents.about.get("licence") or "") if contents.kind == "weights" else ""
    stated = licence or known or None
    header = _header(contents, repo_id, stated, datasets, evaluation)
    if contents.kind == EMBEDDINGS:
        sections = embeddings_sections(contents, repo_id, stated)
    else:
        sections = model_sections(contents, repo_id, stated, _measured(contents, evaluation))
    return front_matter(header) + "\n" + "\n".join(sections)


def read_evaluation(given: Evaluation | str | os.PathLike[str]) -> Figures:
    """Return figures, and what they are of.

    Raises
    ------
    OptionError
        The file cannot be read.
    RecordError
        It is not what `audioset evaluate --json` or `audioset finetune --json` writes, or holds no figures.
    """
    from audioset.evaluate import Evaluation

    if isinstance(given, Evaluation):
        return "clips that it was measured on", given
    path = user_path(given)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise OptionError(f"evaluation {path}: cannot be read ({error.strerror}); expected a JSON file") from error
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        plain = None
    try:
        if not isinstance(plain, dict) or "base_weights" not in plain:
            return "clips that it was measured on", Evaluation.from_json(text)
        for name, title in _REPORTED.items():
            if plain.get(name) is not None:
                return title, Evaluation.from_json(json.dumps(plain[name]))
    except RecordError as error:
        raise RecordError(
            f"{path}: {error}. Expected what `audioset evaluate --json` or `audioset finetune --json` writes"
        ) from error
    raise RecordError(f"{path}: a report without figures; expected some. Hold clips out, with `--test` or `--folds`")


def _header(
    contents: Contents, repo_id: str, licence: str | None, datasets: Sequence[str], evaluation: Figures | None
) -> dict[str, Any]:
    header: dict[str, Any] = {}
    if licence is not None:
        short = licence.lower()
        header |= {"license": short} if short in _LICENCES else {"license": "other", "license_name": _slug(licence)}
    if contents.kind == EMBEDDINGS:
        return header | _dataset_header(contents)
    header["library_name"] = "audioset"
    header["pipeline_tag"] = "audio-classification" if contents.classes is not None else "feature-extraction"
    header["tags"] = ["audioset", "audio", *dict.fromkeys(_tags(contents))]
    if datasets:
        header["datasets"] = list(datasets)
    source = str(contents.about.get("source", ""))
    if (base := re.search(rf"{HUB}([^@\s]+)", source)) is not None:
        header["base_model"] = base[1]
    found = _figures(contents, evaluation)
    if found is not None:
        of, metrics = found
        header["metrics"] = [metric["type"] for metric in metrics]
        result = {
            "task": {"type": "audio-classification", "name": "Audio Classification"},
            "dataset": {"type": datasets[0] if len(datasets) == 1 else "own", "name": of},
            "metrics": metrics,
        }
        header["model-index"] = [{"name": repo_id.partition("/")[2], "results": [result]}]
    return header


def _tags(contents: Contents) -> Iterator[str]:
    yield contents.base
    if contents.kind == "head":
        yield "classification-head"
    elif contents.classes is not None:
        yield "audio-classification"
    if contents.kind != "head":
        yield "embeddings"


def _figures(contents: Contents, evaluation: Figures | None) -> tuple[str, list[dict[str, Any]]] | None:
    """Return what was measured on, and the metrics as the Hub has them; None where nothing is known."""
    from audioset.evaluate import METRICS

    if evaluation is not None:
        of, measured = evaluation
        values = [(name, measured.metrics[name].value) for name in METRICS if name in measured.metrics]
    else:
        of = "clips held out for validation, by which training was stopped"
        values = [("map", value)] if isinstance(value := contents.notes.get("valid/mAP"), int | float) else []
    metrics = [
        {"type": _METRIC_TYPES.get(name, name), "name": METRICS[name], "value": round(float(value), 4)}
        for name, value in values
        if math.isfinite(value)
    ]
    return (of, metrics) if metrics else None


def _dataset_header(contents: Contents) -> dict[str, Any]:
    job = contents.embedded
    element = "uint8" if job.job.dtype == "uint8" else "float32"
    return {
        "tags": ["audioset", "audio", "embeddings", contents.base],
        "task_categories": ["audio-classification"],
        "size_categories": [_size_category(job.rows)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": FILES[EMBEDDINGS]}]}],
        "dataset_info": {
            "features": [
                {"name": "file", "dtype": "string"},
                {"name": "start_s", "dtype": "float64"},
                {"name": "end_s", "dtype": "float64"},
                {"name": "embedding", "list": element, "length": job.job.embedding_dim},
            ]
        },
    }


def _size_category(rows: int) -> str:
    below = "n"
    for bound, name in _SIZES:
        if rows < bound:
            return f"{below}<{name}" if below == "n" else f"{below}<n<{name}"
        below = name
    return f"n>{below}"


def _slug(licence: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-") or "other"


def _measured(contents: Contents, evaluation: Figures | None) -> list[str]:
    found = _figures(contents, evaluation)
    if found is None:
        return ["None are known."]
    if evaluation is None:
        (metric,) = found[1]
        return [f"{metric['name']} {metric['value']:.4f} on {found[0]}: expect less on other sound."]
    measured = evaluation[1]
    interval = f"{measured.confidence:.0%} interval"
    about = f"{measured.num_clips:,} clips ({found[0]})."
    return [about, "", *table(("metric", "value", interval), measured.to_table())[:-1]]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
