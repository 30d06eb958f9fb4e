"""`audioset index`: similar sounds, found among embeddings that are stored."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import check_not_an_input, interrupted_says, progress_on, source_of, write_columns
from audioset.cli.models import downloading

if TYPE_CHECKING:
    from audioset.index import Hit, Query, SoundIndex
    from audioset.index.build import BuildProgress

DEFAULT_OUT = Path("sounds.index")
TOP = 10

app = typer.Typer(
    help="""Find similar sounds: build an index of embeddings once, ask it with any recording or a part of one.

    Examples:

      audioset embed recordings/ -o recordings.parquet

      audioset index build recordings.parquet -o recordings.index

      audioset index search recordings.index owl.wav

      audioset index search recordings.index --file night.flac --start 63 --duration 4
    """,
    no_args_is_help=True,
)


class PoolChoice(str, Enum):
    """Of `audioset.index.build`."""

    none = "none"
    mean = "mean"


class MetricChoice(str, Enum):
    """Of `audioset.index.build`."""

    centred = "centred"
    cosine = "cosine"


class ByChoice(str, Enum):
    """Of `audioset.index.SoundIndex.search`."""

    range = "range"
    row = "row"
    file = "file"


@app.command()
def build(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Parquet or NPZ files that `audioset embed` wrote, or folders, all by the same model."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The index to write.")] = DEFAULT_OUT,
    pool: Annotated[
        PoolChoice | None,
        typer.Option("--pool", help="`mean`: one vector a file, the mean of its rows.", show_default="none"),
    ] = None,
    metric: Annotated[
        MetricChoice | None,
        typer.Option(
            "--metric",
            help="`cosine` compares embeddings as they are, `centred` without what all have in common.",
            show_default="centred",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Add to an index that exists; files that are in it are left out.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing index.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Put embeddings into an index: one file, with names and times.

    It takes 2 bytes a dimension and about 170 more for each row: 0.43 kB for vggish, 2.2 kB for yamnet. It is written
    whole or not at all. A file that was in one embeddings file before is left out of those behind it.

    Examples:

      audioset index build recordings.parquet -o recordings.index

      audioset index build 2023.parquet 2024.parquet -o all.index

      audioset index build 2025.parquet -o all.index --add

      audioset index build parts/ -o parts.index

      audioset index build songs.parquet -o songs.index --pool mean
    """
    from audioset import index

    with interrupted_says(f"interrupted: {out} was not written"), _progress("indexing") as show:
        done = index.build(
            list(paths),
            out,
            pool=None if pool is None else pool.value,
            metric=None if metric is None else metric.value,
            threads=threads,
            add=add,
            overwrite=overwrite,
            progress=show,
        )
    if as_json:
        typer.echo(json.dumps({**asdict(done), "path": str(done.path)}))
        return
    if done.files_already_there:
        files = f"{done.files_already_there:,} {'file' if done.files_already_there == 1 else 'files'}"
        typer.echo(f"left out: {files} of a name that was there before", err=True)
    if done.rows_not_finite:
        rows = "row" if done.rows_not_finite == 1 else "rows"
        typer.echo(f"left out: {done.rows_not_finite:,} {rows} with NaN, infinity or numbers too large", err=True)
    added = f"{done.added_rows:,} added: " if add else ""
    typer.echo(
        f"{out}: {added}{done.rows:,} {'row' if done.rows == 1 else 'rows'} of {done.files:,} "
        f"{'file' if done.files == 1 else 'files'}, {done.num_bytes / 1e6:,.1f} MB",
        err=True,
    )


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="An index that `audioset index build` wrote.")],
    query: Annotated[
        str | None,
        typer.Argument(
            help="A recording (- for standard input), embedded by the index's model; or an embeddings file of one."
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            help="Instead: a recording that is in the index, by its name or the last part of it. Of an embeddings "
            "file of several, the one to take.",
        ),
    ] = None,
    start: Annotated[float, typer.Option("--start", help="Second at which what is searched for begins.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option("--duration", help="Seconds that it lasts.", show_default="to the end")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Lines of the answer.")] = TOP,
    by: Annotated[
        ByChoice,
        typer.Option(
            "--by",
            help="`range` joins rows that follow one another, `row` gives each, `file` the best of each file.",
        ),
    ] = ByChoice.range,
    each: Annotated[
        bool, typer.Option("--each", help="An answer for each row of what is searched for, not for their mean.")
    ] = False,
    exclude_same_file: Annotated[
        bool, typer.Option("--exclude-same-file", help="Leave out the recording that is searched for.")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row; slower.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Weights that the index's embeddings were made with.",
            show_default="as the index names them",
        ),
    ] = None,
    pca: Annotated[
        Path | None,
        typer.Option(
            "--pca", help="PCA parameters (.npz), for indexes of --postprocess.", show_default="the published ones"
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to embed with.", show_default="all")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write the answer as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the answer as JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write it to this file, as CSV or JSON by its ending.", show_default="standard output"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Find what sounds most like a recording or a part of one: which files, and from when to when.

    The rows of what is searched for are averaged; --each asks for every one. Similarities are cosines, 1 for the same;
    those of a time are of its most similar row, whose middle is the peak.

    Examples:

      audioset index search recordings.index owl.wav

      audioset index search recordings.index owl.wav --start 2 --duration 3 --by file -k 20

      audioset index search recordings.index --file night.flac --start 63 --duration 4 --exclude-same-file

      audioset index search recordings.index owl.wav --each --csv -o owls.csv
    """
    from audioset._files import written_whole
    from audioset.errors import OptionError
    from audioset.index import load
    from audioset.weights.content import check_output

    if as_csv and as_json:
        raise OptionError("--csv and --json: expected one of them")
    if out is not None:
        if not (as_csv or as_json):
            as_csv, as_json = out.suffix.lower() == ".csv", out.suffix.lower() == ".json"
        if not (as_csv or as_json):
            raise OptionError(f"--out {out}: its ending names no format; expected .csv or .json, --csv or --json")
        check_output(out, overwrite=overwrite)
        check_not_an_input(str(out), [str(index), *filter(None, [query])])
    with interrupted_says("interrupted"):
        opened = load(index)
        asked = _query(opened, query, file, start, duration, weights, pca, threads)
        excluded = _same_files(opened, asked.file) if exclude_same_file else []
        options: dict[str, Any] = {"k": top, "by": by.value, "exclude": excluded, "exact": exact}
        if each:
            spans = zip(asked.start_s.tolist(), asked.end_s.tolist(), strict=True)
            answers = list(zip(spans, opened.search_each(asked, **options), strict=True))
        else:
            span = (float(asked.start_s.min()), float(asked.end_s.max()))
            answers = [(span, opened.search(asked, **options))]
    if as_json:
        text = _json(opened, asked, answers)
    elif as_csv:
        text = _csv(answers)
    else:
        _print(answers, each=each)
        return
    if out is None:
        typer.echo(text, nl=False)
        return
    with written_whole(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    typer.echo(f"→ {out}", err=True)


@app.command()
def info(
    index: Annotated[Path, typer.Argument(help="An index that `audioset index build` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, with the names of all files.")] = False,
) -> None:
    """Say what is in an index, after every byte of it has been checked.

    Examples:

      audioset index info recordings.index

      audioset index info recordings.index --json | jq -r '.names[]'
    """
    from audioset.index import load

    opened = load(index)
    job = opened.job
    found: dict[str, Any] = {
        "rows": len(opened),
        "files": opened.num_files,
        "metric": opened.metric,
        "pool": opened.pool,
        "bytes": opened.num_bytes,
    }
    if as_json:
        typer.echo(json.dumps({**found, "job": asdict(job), "names": opened.files}))
        return
    rows = [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in found.items()]
    rows += [
        ("model", f"{job.model}, {job.weights_name} (sha256 {job.weights_sha256[:16]}…)"),
        ("embeddings", f"{job.embedding_dim} {job.regime}, hop {job.hop_s:g} s, pad {job.pad}, pool {job.pool}"),
    ]
    write_columns(rows)


Answers = list[tuple[tuple[float, float], "list[Hit]"]]


def _query(
    index: SoundIndex,
    query: str | None,
    file: str | None,
    start_s: float,
    duration_s: float | None,
    weights: str | None,
    pca: Path | None,
    threads: int | None,
) -> Query:
    """What is searched for: in the index, in an embeddings file, or a recording to embed."""
    from audioset.errors import OptionError
    from audioset.index import embed_query, model_of, query_in
    from audioset.index._rows import is_embeddings

    embeds = query is not None and not is_embeddings(Path(query))
    if query is None and file is None:
        raise OptionError("nothing to search for; expected a recording behind the index, or --file NAME of one in it")
    for option, value in (("--weights", weights), ("--pca", pca), ("--threads", threads)):
        if value is not None and not embeds:
            raise OptionError(f"{option}: would not be used; expected a recording to embed beside it")
    if query is None:
        return index.query_of(str(file), start_s, duration_s)
    if not embeds:
        return query_in(index, query, file, start_s, duration_s)
    if file is not None:
        raise OptionError(
            f"--file: {query} is searched for, a recording; expected --file alone, or an embeddings file before it"
        )
    with downloading(index.job.model) as progress:
        model = model_of(index, weights, pca=pca, threads=threads, progress=progress)
    return embed_query(index, model, source_of(query, None), start_s, duration_s)


def _same_files(index: SoundIndex, file: str) -> list[str]:
    """Names in the index that are a file's, however they are written."""
    path = os.path.abspath(file)  # noqa: PTH100 - of names that may be none of this system's
    return [name for name in index.files if name == file or os.path.abspath(name) == path]  # noqa: PTH100


def _print(answers: Answers, *, each: bool) -> None:
    for place, ((start_s, end_s), hits) in enumerate(answers):
        if each:
            typer.echo(f"{'' if place == 0 else chr(10)}{_time(start_s)}–{_time(end_s)} s:")
        if not hits:
            typer.echo("nothing to find: all is left out")
            continue
        header = ("RANK", "SIMILARITY", "START", "END", "PEAK", "FILE")
        rows = [
            (str(rank), f"{hit.similarity:.3f}", _time(hit.start_s), _time(hit.end_s), _time(hit.peak_s), hit.file)
            for rank, hit in enumerate(hits, 1)
        ]
        write_columns([header, *rows])


def _json(index: SoundIndex, asked: Query, answers: Answers) -> str:
    found = {
        "index": str(index.path),
        "metric": index.metric,
        "query": asked.file,
        "answers": [
            {
                "start_s": round(start_s, 6),
                "end_s": round(end_s, 6),
                "hits": [{"rank": rank, **_rounded(hit)} for rank, hit in enumerate(hits, 1)],
            }
            for (start_s, end_s), hits in answers
        ],
    }
    return json.dumps(found) + "\n"


def _csv(answers: Answers) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query_start_s", "query_end_s", "rank", "file", "start_s", "end_s", "similarity", "peak_s"))
    for (start_s, end_s), hits in answers:
        for rank, hit in enumerate(hits, 1):
            writer.writerow((round(start_s, 6), round(end_s, 6), rank, *_rounded(hit).values()))
    return text.getvalue()


def _rounded(hit: Hit) -> dict[str, Any]:
    return {name: value if isinstance(value, str) else round(value, 6) for name, value in asdict(hit).items()}


def _time(seconds: float) -> str:
    return f"{seconds:.2f}"


@contextmanager
def _progress(doing: str) -> Iterator[BuildProgress | None]:
    """Give a function to report rows to: a bar on a terminal, nothing in a pipe."""
    progress = progress_on(sys.stderr)
    if progress is None:
        yield None
        return
    with progress:
        task = progress.add_task(doing, total=None, talk="")
        yield lambda done, total: progress.update(task, completed=done, total=total)
