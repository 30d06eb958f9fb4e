"""`audioset dataset download-audio` and `download-status`: the sound of segments, and what has become of each."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import INTERRUPTED, clock, one_interrupt, progress_on, report_failures
from audioset.dataset.download.options import YOUTUBE_URL, DownloadOptions

if TYPE_CHECKING:
    from rich.progress import Progress

    from audioset.dataset.download import DownloadProgress, DownloadStatus, DownloadSummary, Entry

_DEFAULT = DownloadOptions()
_NAMED_FAILURES = 20


class FormatChoice(str, Enum):
    """Of `audioset.dataset.download.FORMATS`."""

    flac = "flac"
    wav = "wav"
    opus = "opus"


def download_audio(
    segments: Annotated[
        str,
        typer.Argument(
            help="balanced_train, eval or unbalanced_train; a segment csv; or a csv, csv.gz or Parquet file "
            "with columns start_s, end_s, and ytid or url."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the clips and the ledger.")],
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            "--class",
            "-c",
            help="Only segments with this label, or one below it in the ontology; may be repeated.",
        ),
    ] = None,
    output_format: Annotated[
        FormatChoice, typer.Option("--format", help="`flac` and `wav` keep every sample; `opus` compresses again.")
    ] = FormatChoice.flac,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate",
            help="Resample to this many Hz. Opus knows 8000, 12000, 16000, 24000 and 48000 only.",
            show_default="as the source; for Opus 48000 if it does not know that",
        ),
    ] = _DEFAULT.rate_hz,
    mono: Annotated[bool, typer.Option("--mono", help="Average the channels.")] = _DEFAULT.mono,
    video: Annotated[bool, typer.Option("--video", help="Write the picture too: YTID_START.mp4.")] = _DEFAULT.video,
    max_height: Annotated[
        int, typer.Option("--max-height", help="With --video: lines of the picture, at most where there is a choice.")
    ] = _DEFAULT.max_height,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Clips at once.")] = _DEFAULT.jobs,
    shard: Annotated[
        str, typer.Option("--shard", help="I/N: only the I-th of N shares, counted from 1, for several machines.")
    ] = "1/1",
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first so many segments, of all shards together.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what was given up for good: private, removed, too short.")
    ] = False,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="Keep clips of videos that end before the segment does.")
    ] = _DEFAULT.allow_short,
    tries: Annotated[
        int, typer.Option("--tries", help="Attempts at a clip in one run, where trying again may help.")
    ] = _DEFAULT.tries,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for a server to say something.")
    ] = _DEFAULT.timeout_s,
    pause: Annotated[
        float, typer.Option("--pause", help="Seconds at least from the beginning of one clip to that of the next.")
    ] = _DEFAULT.pause_s,
    cookies: Annotated[
        Path | None, typer.Option("--cookies", help="Netscape cookie file of a signed-in session; is only read.")
    ] = None,
    cookies_from_browser: Annotated[
        str | None,
        typer.Option("--cookies-from-browser", help="Take cookies from a browser: its name, or NAME+KEYRING:PROFILE."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write all that failed, and why, to this .csv or .json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
    url_template: Annotated[str, typer.Option("--url-template", hidden=True)] = YOUTUBE_URL,
) -> None:
    """Fetch the sound of segments: only the wanted seconds, one file `YTID_START.flac` each, START in milliseconds.

    A ledger in the folder notes every clip. The same command again makes what is missing and nothing else: it tries
    again what failed for reasons that pass, such as the network. When the site asks for fewer requests or the network
    is down, all wait, longer each time. Needs yt-dlp: pip install 'audioset\\[download]'.

    Examples:

      audioset dataset download-audio eval -o eval/ --jobs 8

      audioset dataset download-audio balanced_train -o dogs/ --classes Dog --format opus --rate 16000 --mono

      audioset dataset download-audio mine.csv -o clips/ --cookies cookies.txt --pause 5

      audioset dataset download-audio unbalanced_train -o /data/audioset --shard 3/100
    """
    from audioset.dataset import download

    options = DownloadOptions(
        format=output_format.value,
        rate_hz=rate,
        mono=mono,
        video=video,
        max_height=max_height,
        allow_short=allow_short,
        jobs=jobs,
        tries=tries,
        timeout_s=timeout,
        pause_s=pause,
        cookies=cookies,
        cookies_from_browser=cookies_from_browser,
        url_template=url_template,
    )
    share = download.parse_shard(shard)
    if report is not None:
        download.check_report(report)
    progress = progress_on(sys.stderr)
    bar = None if progress is None else _Bar(progress)
    try:
        with one_interrupt(), progress or nullcontext():
            summary = download.download_audio(
                segments,
                out,
                options,
                classes=classes or (),
                limit=limit,
                shard=share,
                retry_failed=retry_failed,
                progress=bar,
            )
    except KeyboardInterrupt:
        typer.echo(_interrupted(out), err=True)
        raise typer.Exit(INTERRUPTED) from None
    if report is not None:
        download.write_report(summary.failures, report)
    _say(summary, report, as_json=as_json)
    if summary.failures:
        raise typer.Exit(1)


def download_status(
    folder: Annotated[Path, typer.Argument(help="A folder that download-audio writes to.")],
    report: Annotated[
        Path | None, typer.Option("--report", help="Write all that failed, and why, to this .csv or .json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print counts and all failures as JSON.")] = False,
) -> None:
    """Show what has become of the clips of a folder, over all shards, also while they run.

    Examples:

      audioset dataset download-status eval/

      audioset dataset download-status /data/audioset --report missing.csv
    """
    from audioset.dataset import download

    status = download.read_status(folder)
    if report is not None:
        download.write_report(status.failures, report)
    if as_json:
        about = {
            "folder": str(status.folder),
            "ledgers": [str(path) for path in status.ledgers],
            **status.counts,
            "reasons": status.reasons,
            "audio_s": round(status.audio_s, 3),
        }
        typer.echo(f'{json.dumps(about)[:-1]}, "failures": [', nl=False)  # piece by piece: there may be millions
        for number, entry in enumerate(status.failures):
            typer.echo(", " * (number > 0) + json.dumps(download.as_row(entry)), nl=False)
        typer.echo("]}")
        return
    _show(status, download.REASONS)


class _Bar:
    """Progress in clips, with how many failed and how fast it goes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("downloading", total=None, talk="")
        self._began = time.perf_counter()

    def __call__(self, at: DownloadProgress) -> None:
        a_minute = 60 * at.clips / max(time.perf_counter() - self._began, 1e-3)
        talk = f"{at.clips:,} clips of {at.total:,}, {a_minute:.0f} a minute"
        talk += f", {at.failed:,} failed" if at.failed else ""
        talk += f"; waiting {at.paused_s:.0f} s for the site or the network" if at.paused_s else ""
        self._progress.update(self._task, total=at.total, completed=at.clips + at.failed, talk=talk)


def _interrupted(out: Path) -> str:
    from audioset.dataset.download import read_status
    from audioset.errors import AudioSetError

    try:
        counts = read_status(out).counts
    except AudioSetError:  # it had not begun
        return "interrupted"
    total = sum(counts.values())
    return f"interrupted; {counts['done']:,} of {total:,} clips are done: the same command goes on with the rest"


def _say(summary: DownloadSummary, report: Path | None, *, as_json: bool) -> None:
    from audioset.dataset.download import as_row

    report_failures(
        list(map(_line, summary.failures)), all_with="--report FILE, or `audioset dataset download-status`,"
    )
    if as_json:
        about: dict[str, Any] = {
            "folder": str(summary.folder),
            "ledger": str(summary.ledger),
            "clips": summary.clips,
            "skipped": summary.skipped,
            "failed": len(summary.failures),
            "reasons": summary.reasons,
            "audio_s": round(summary.audio_s, 3),
            "wall_s": round(summary.wall_s, 3),
            "failures": [as_row(entry) for entry in summary.failures],
        }
        typer.echo(json.dumps(about))
        return
    talk = f"{summary.clips:,} {'clip' if summary.clips == 1 else 'clips'} → {summary.folder}"
    if summary.clips:
        talk += f" ({clock(summary.audio_s)} of sound in {summary.wall_s:.1f} s)"
    if summary.skipped:
        talk += f"; {summary.skipped:,} there already"
    if summary.failures:
        talk += f"; {len(summary.failures):,} failed: {_counted(summary.reasons)}"
    typer.echo(f"{talk}; ledger {summary.ledger}" + (f", report {report}" if report else ""), err=True)


def _show(status: DownloadStatus, meanings: Any) -> None:
    counts, shards = status.counts, len(status.ledgers)
    done = f"{counts['done']:,} clips done ({clock(status.audio_s)}), {counts['failed']:,} failed, "
    typer.echo(
        f"{status.folder}: {done}{counts['pending']:,} pending; {shards} {'ledger' if shards == 1 else 'ledgers'}"
    )
    for reason, count in status.reasons.items():
        typer.echo(f"{count:>9,}  {reason:<15} {meanings.get(reason, '')}")
    for entry in islice(status.failures, _NAMED_FAILURES):
        typer.echo(f"failed: {_line(entry)}", err=True)
    if counts["failed"] > _NAMED_FAILURES:
        typer.echo(f"failed: {counts['failed'] - _NAMED_FAILURES:,} more; --report FILE lists them all", err=True)


def _line(entry: Entry) -> str:
    return f"{entry.key}: {entry.reason}: {entry.message}"


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
