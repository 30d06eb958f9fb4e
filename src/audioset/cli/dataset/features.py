"""`audioset dataset convert` and `show`: files of features, to one another and in plain sight."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import interrupted_says, report_failures
from audioset.cli.models import downloading

if TYPE_CHECKING:
    from audioset.dataset.convert import FeaturesInfo
    from audioset.records.tfrecord import Damage

LIMIT = 10

_FIRST_VALUES = 12
_SHOWN_RATINGS = 4


def convert(
    source: Annotated[
        list[str],
        typer.Argument(
            help="TFRecords of AudioSet or YouTube-8M: shards, folders, quoted patterns, or features.tar.gz as it is. "
            "Or one Parquet or Arrow file written here or by `audioset embed`."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help=".arrow (to map into memory), .parquet, .tfrecord; or a new folder for numbered TFRecords.",
        ),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Of folders and archives, take shards that match, as eval/*; may be repeated."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was done to standard output, as JSON.")] = False,
) -> None:
    """Put features into one Arrow or Parquet file that is fast to train on, or back into TFRecords.

    Archives are read as they are, nothing is unpacked, and memory stays flat. Every checksum is verified: a damaged
    record or shard is named with its byte, the rest goes on, and the exit status is 1.

    Examples:

      audioset dataset convert features.tar.gz -o audioset.arrow

      audioset dataset convert features.tar.gz --only 'eval/*' -o eval.arrow

      audioset dataset convert audioset_v1_embeddings/bal_train -o balanced.parquet

      audioset dataset convert 'yt8m/frame/validate*.tfrecord' -o validate.arrow

      audioset dataset convert balanced.parquet -o balanced_shards/
    """
    from audioset.dataset.convert import convert_features

    damages: list[Damage] = []
    began = time.perf_counter()
    try:
        with interrupted_says(f"interrupted: {out} was not written"), downloading(out.name) as progress:
            done = convert_features(
                source[0] if len(source) == 1 else source,
                out,
                only=only or (),
                overwrite=overwrite,
                on_damage=damages.append,
                progress=progress,
            )
    finally:
        report_failures([str(damage) for damage in damages])
    seconds = time.perf_counter() - began
    rate = done.num_bytes / 1e6 / max(seconds, 1e-9)
    if as_json:
        found = {
            "out": str(out),
            "num_records": done.num_records,
            "num_bytes": done.num_bytes,
            "seconds": round(seconds, 3),
            "mb_per_s": round(rate, 1),
            "damages": [asdict(damage) for damage in damages],
        }
        typer.echo(json.dumps(found, indent=2))
    places = f", {len(damages):,} damaged place{'s' * (len(damages) != 1)}" if damages else ""
    typer.echo(
        f"{out}: {done.num_records:,} record{'s' * (done.num_records != 1)} from {done.num_bytes / 1e6:,.1f} MB "
        f"in {seconds:.1f} s, {rate:,.0f} MB/s{places}",
        err=True,
    )
    if damages:
        raise typer.Exit(1)


def show(
    file: Annotated[str, typer.Argument(help="A shard, folder or archive of TFRecords, or a Parquet or Arrow file.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Records to show.")] = LIMIT,
    as_json: Annotated[bool, typer.Option("--json", help="Write them as JSON, a line each.")] = False,
) -> None:
    """Print the first records of a file of features: id, times, classes by name, frames, first values.

    Values are those of the first frame, as stored. Names are AudioSet's; classes of YouTube-8M are numbers, as its
    vocabulary is not part of this package.

    Examples:

      audioset dataset show rm.tfrecord

      audioset dataset show audioset.arrow --limit 3

      audioset dataset show features.tar.gz --json | jq .video_id
    """
    from audioset.dataset.convert import FeaturesInfo, open_rows

    damages: list[Damage] = []
    try:
        rows = open_rows(file, on_damage=damages.append)
        info = FeaturesInfo.of(rows.schema, file)
        if not as_json:
            typer.echo(
                f"{file}: {info.model}, {info.embedding_dim} {info.dtype} values a frame ({info.regime})", err=True
            )
        for record in islice(_records(rows.batches, info), limit):
            typer.echo(json.dumps(record, ensure_ascii=False) if as_json else _text(record))
    finally:
        report_failures([str(damage) for damage in damages])
    if damages:
        raise typer.Exit(1)


def _records(batches: Iterator[Any], info: FeaturesInfo) -> Iterator[dict[str, Any]]:
    """Rows as they are shown, one by one."""
    import numpy as np

    from audioset.classes import class_names

    names = () if info.model == "youtube8m" else class_names("audioset527")
    for batch in batches:
        for row in (batch.slice(index, 1).to_pylist()[0] for index in range(len(batch))):
            frames = np.frombuffer(row.pop("embedding"), info.dtype)
            row["end_s"] = None if math.isnan(row["end_s"]) else row["end_s"]
            labels = row.pop("labels")
            row["labels"] = [
                {"index": label, "name": names[label] if 0 <= label < len(names) else None} for label in labels
            ]
            row["first_values"] = frames[: min(_FIRST_VALUES, info.embedding_dim)].tolist()
            yield row


def _text(record: dict[str, Any]) -> str:
    end = "?" if record["end_s"] is None else f"{record['end_s']:g}"
    frames = f"{record['num_frames']} frame{'s' * (record['num_frames'] != 1)}"
    labels = "; ".join(label["name"] or f"class {label['index']}" for label in record["labels"]) or "no labels"
    lines = [f"{record['video_id']}  {record['start_s']:g}–{end} s  {frames}  {labels}"]
    if "segment_labels" in record:
        columns = ("segment_labels", "segment_start_s", "segment_end_s", "segment_scores")
        ratings = list(zip(*(record[key] for key in columns), strict=True))
        shown = [f"{start}–{end} s class {label}: {score:g}" for label, start, end, score in ratings[:_SHOWN_RATINGS]]
        more = [f"{len(ratings) - _SHOWN_RATINGS} more"] if len(ratings) > _SHOWN_RATINGS else []
        lines.append(f"    rated: {', '.join(shown + more) or 'nothing'}")
    if record["first_values"]:
        lines.append(f"    {' '.join(f'{value:g}' for value in record['first_values'])} …")
    return "\n".join(lines)
