"""`audioset dataset stats` and `subset`: what segments hold, and a part of them as a file of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from audioset.dataset.stats import SegmentStats

DEFAULT_TOP = 20
DEFAULT_SEED = 0

SEGMENTS_HELP = "A csv of segments, plain or gzip; or balanced_train, eval or unbalanced_train, fetched if need be."


class MatchChoice(str, Enum):
    """Which of the named classes a segment must have."""

    any = "any"
    all = "all"


def stats(
    segments: Annotated[str, typer.Argument(metavar="SEGMENTS", help=SEGMENTS_HELP)],
    top: Annotated[int, typer.Option(min=0, help="Classes, and pairs of classes, to list.")] = DEFAULT_TOP,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON: all classes that occur, and the top pairs.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a picture: a .png, .pdf or .svg file. Needs matplotlib.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture if it exists.")] = False,
) -> None:
    """Count what segments hold: clips, labels, lengths, the clips of each class, and which classes occur together.

    Labels a clip are given as they are in the file, and with the ancestors among the 527 classes that follow from them.

    Examples:

      audioset dataset stats balanced_train

      audioset dataset stats mine.csv --top 50 --plot mine.png

      audioset dataset stats eval --json | jq '.classes[-1]'
    """
    from audioset.dataset.segments import read_segments
    from audioset.dataset.stats import plot_stats, segment_stats
    from audioset.plot import check_format, check_installed

    if plot is not None:
        check_installed()
        check_format(plot)
        _check_new(plot, segments, "--plot", overwrite)
    found = segment_stats(read_segments(segments, unknown_mids="keep"))
    if as_json:
        typer.echo(json.dumps(found.to_json(top), ensure_ascii=False, indent=1))
    else:
        typer.echo("\n".join(_report(found, top)))
    if plot is not None:
        plot_stats(found, plot, title=Path(segments).name)
        typer.echo(f"picture → {plot}", err=True)


def subset(
    segments: Annotated[str, typer.Argument(metavar="SEGMENTS", help=SEGMENTS_HELP)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .csv or .csv.gz to write, as published; - is standard output.")
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", "-c", help="Keep segments with this class, by display name or mid. Repeat for more."),
    ] = None,
    match: Annotated[
        MatchChoice, typer.Option(help="With several --class: any of them will do, or all are needed.")
    ] = MatchChoice.any,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", "-x", help="Leave out segments with this class. Repeat for more.")
    ] = None,
    descendants: Annotated[
        bool,
        typer.Option(help="Whether what is below a class in the ontology counts as the class: Bark as Dog."),
    ] = True,
    min_quality: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Keep segments whose labels are all of classes with at least this share of true labels.",
        ),
    ] = None,
    quality: Annotated[
        str | None, typer.Option(metavar="FILE", help="For --min-quality: qa_true_counts.csv.", show_default="fetched")
    ] = None,
    rerated: Annotated[bool, typer.Option("--rerated", help="Keep segments whose labels were rated again.")] = False,
    rerated_ids: Annotated[
        str | None, typer.Option(metavar="FILE", help="For --rerated: rerated_video_ids.txt.", show_default="fetched")
    ] = None,
    min_duration: Annotated[float, typer.Option(min=0, help="Keep segments that are no shorter, in seconds.")] = 0.0,
    max_duration: Annotated[
        float | None, typer.Option(min=0, help="Keep segments that are no longer, in seconds.", show_default="any")
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, help="Then draw a balanced sample: this many segments of each class, or all there are."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample; the same seed gives the same one.")] = DEFAULT_SEED,
    limit: Annotated[int | None, typer.Option(min=1, help="Then keep the first so many.", show_default="all")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Write a part of the segments to a csv that every AudioSet tool reads.

    The conditions are combined: a segment must meet all of them. Balanced samples are drawn from what is left, the
    limit counts after that. Labels stay as they are, rows keep their order. A balanced sample has more of frequent
    classes, which come along with rarer ones.

    Examples:

      audioset dataset subset unbalanced_train -o dogs.csv --class Dog --exclude Music --min-duration 10

      audioset dataset subset eval -o both.csv -c Speech -c Music --match all --no-descendants

      audioset dataset subset balanced_train -o small.csv --per-class 10 --seed 1

      audioset dataset subset eval -o - --class Dog | head
    """
    import math
    import sys

    from audioset.dataset import quality as ratings
    from audioset.dataset import subset as parts
    from audioset.dataset.segments import check_suffix, read_segments, segment_lines, write_segments
    from audioset.errors import OptionError

    if quality is not None and min_quality is None:
        raise OptionError("--quality: nothing is chosen by it; expected --min-quality too, such as --min-quality 0.9")
    if rerated_ids is not None and not rerated:
        raise OptionError("--rerated-ids: nothing is chosen by it; expected --rerated too")
    to_stdout = str(out) == "-"
    if not to_stdout:
        check_suffix(out)
        _check_new(out, segments, "--out", overwrite)
    table = read_segments(segments)
    num_before = table.num_rows
    if classes:
        table = parts.select_classes(table, classes, match=match.value, descendants=descendants)
    if exclude:
        table = parts.exclude_classes(table, exclude, descendants=descendants)
    if min_quality is not None:
        table = parts.select_quality(table, ratings.read_quality(quality or ratings.QUALITY_FILE), min_quality)
    if rerated:
        table = parts.select_ids(table, ratings.read_rerated(rerated_ids or ratings.RERATED_FILE))
    table = parts.select_duration(table, min_s=min_duration, max_s=math.inf if max_duration is None else max_duration)
    if per_class is not None:
        table = parts.sample_balanced(table, per_class, seed)
    table = table if limit is None else table.slice(0, limit)
    if to_stdout:
        sys.stdout.writelines(segment_lines(table, "standard output"))
    else:
        write_segments(table, out)
    typer.echo(_summary(table, num_before, "standard output" if to_stdout else out), err=True)
    if not table.num_rows:
        typer.echo("audioset: warning: no segment meets all conditions", err=True)


def _check_new(out: Path, segments: str, option: str, overwrite: bool) -> None:
    from audioset.errors import OptionError
    from audioset.weights.content import check_output

    if os.path.exists(segments) and os.path.exists(out) and out.samefile(segments):
        raise OptionError(f"{option} {out}: the input itself; expected another name")
    check_output(out, overwrite=overwrite)


def _summary(table: pa.Table, num_before: int, out: object) -> str:
    import pyarrow.compute as pc

    mids = pc.list_flatten(table["mids"])
    return (
        f"{table.num_rows:,} of {num_before:,} segments → {out} ({len(mids):,} labels, "
        f"{pc.count_distinct(mids).as_py()} classes)"
    )


def _report(found: SegmentStats, top: int) -> list[str]:
    facts = [("clips", f"{found.num_clips:,}, of {found.num_videos:,} videos")]
    if found.num_clips:
        lengths = found.durations_s
        facts += [
            (
                "length",
                f"{lengths.min():g} to {lengths.max():g} s, mean {lengths.mean():.2f} s; "
                f"{found.num_short:,} shorter than 10 s; {lengths.sum() / 3600:,.1f} h in all",
            ),
            ("labels", f"{found.num_labels:,}, of {found.num_classes} classes"),
            ("labels a clip", f"{found.labels_a_clip.mean():.2f}; {found.propagated_a_clip.mean():.2f} with ancestors"),
        ]
    lines = [f"{what:<13}  {text}" for what, text in facts]
    if ranked := found.top_classes(top):
        shares = [(f"{count:,}", f"{count / found.num_clips:.1%}", name) for name, count in ranked]
        lines += ["", *_aligned(("CLIPS", "SHARE", "CLASS"), shares)]
        if (left := found.num_classes - len(ranked)) > 0:
            rest = found.class_counts[found.class_counts > 0]
            lines.append(f"… {left} more, down to {rest.min():,} {'clip' if rest.min() == 1 else 'clips'} each")
    if pairs := found.top_pairs(top):
        lines += ["", *_aligned(("CLIPS", "CLASSES TOGETHER"), [(f"{num:,}", f"{a} + {b}") for a, b, num in pairs])]
    return lines


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart: numbers to the right, the last column, of names, to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)][:-1]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]])
        for row in (header, *rows)
    ]
