"""`audioset jobs`: how jobs that write folders of parts stand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import typer

from audioset.cli._common import clock, interrupted_says, report_failures
from audioset.records.info import storable

app = typer.Typer(help="Look at jobs that write a folder of parts.", no_args_is_help=True)


@app.callback()
def _jobs() -> None:
    pass


@app.command()
def status(
    out: Annotated[str, typer.Argument(help="The folder or URL that `audioset embed -o` was given.")],
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the files that failed, with reasons, to this CSV.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show how far a job is, over all shards and workers, also while they run.

    Exit status 1 where files have failed.

    Examples:

      audioset jobs status embeddings/

      audioset jobs status s3://bucket/embeddings/ --report failed.csv
    """
    from audioset import jobs
    from audioset._files import written_whole

    output = jobs.read_output(out)
    state = output.state(repair=False)
    done = len(state.attempts)
    items = max(done, output.num_items)  # fewer where some were taken from the inputs meanwhile
    complete = output.is_complete()
    failures = [failure for listed in state.failures.values() for failure in listed]
    if report is not None:
        with written_whole(report) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["file", "item", "reason", "attempts"])
            writer.writerows([one.file, one.item, one.reason, state.attempts[one.item] + 1] for one in failures)
    if as_json:
        about = {"out": out, "complete": complete, "items": items, "items_done": done, **state.totals()}
        about["failed"] = [{"file": one.file, "reason": one.reason} for one in failures]
        typer.echo(json.dumps(about))
    else:
        totals = state.totals()
        typer.echo(f"items    {done:,} of {items:,} done" + (", complete" if complete else ""))
        typer.echo(f"files    {totals['files']:,}, {clock(totals['audio_s'])} of audio")
        typer.echo(f"rows     {totals['rows']:,} in {len(state.parts):,} parts, {totals['bytes'] / 1e6:,.1f} MB")
        typer.echo(f"failed   {len(failures):,}")
        report_failures([storable(one.reason) for one in failures], all_with="--report or --json")
    if failures:
        raise typer.Exit(1)


@app.command()
def merge(
    folder: Annotated[str, typer.Argument(help="The folder of a job that is complete.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output; its ending sets the format.")],
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="parquet, npz, npy, csv, jsonl or tfrecord.", show_default="by the ending of --out"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Write the rows of a finished folder to one file, as `audioset embed` does.

    In the order of the inputs, but for those added or tried again later; in bounded memory. Ids are left out.

    Examples:

      audioset jobs merge embeddings/ -o embeddings.parquet

      audioset jobs merge embeddings/ -o embeddings.npz
    """
    from audioset import jobs

    with interrupted_says(f"interrupted; {out} was not written"):
        summary = jobs.merge(folder, out, format=output_format, overwrite=overwrite)
    typer.echo(
        f"{summary.rows:,} embeddings of {summary.files:,} files → {out} ({summary.num_bytes / 1e6:,.1f} MB)", err=True
    )
