"""`audioset tag`: which sounds are in audio files, and when."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from audioset import storage
from audioset.cli._common import (
    Bar,
    PcmFormatOption,
    PcmOption,
    RawInput,
    check_not_an_input,
    clock,
    interrupted_says,
    is_read_once,
    progress_on,
    raw_input,
    report_failures,
    say_if_small,
    source_of,
)
from audioset.cli._place import (
    CPU,
    BatchOption,
    DeviceOption,
    EngineOption,
    PrecisionChoice,
    PrecisionOption,
    place_of,
    prepare,
)
from audioset.cli._reports import CsvReport, JsonReport, PlainReport, Report, RichReport, Selection
from audioset.cli.models import downloading
from audioset.errors import AudioSetError, OptionError, OutputError
from audioset.inputs import STDIN, Inputs, expand
from audioset.records.info import reason_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from audioset.audio import AudioSource
    from audioset.embed import Model
    from audioset.scores import Scores


class FormatChoice(str, Enum):
    """What results can be written as."""

    table = "table"
    json = "json"
    csv = "csv"
    audacity = "audacity"
    textgrid = "textgrid"


# Formats that hold one recording a file, with the ending of such files.
_LABELS: Mapping[FormatChoice, str] = {FormatChoice.audacity: ".txt", FormatChoice.textgrid: ".TextGrid"}
_BY_ENDING = {".json": FormatChoice.json, ".csv": FormatChoice.csv, ".textgrid": FormatChoice.textgrid}


def tag(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Audio or video files, folders (searched recursively), patterns, tar or zip archives of recordings, "
            "URLs (s3://, gs://, hf://, https://) of any of them, or - for standard input."
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Model; `audioset models list` shows them.")] = "yamnet",
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Weights: a file in any format that can be read, or untrained:SEED for a dry run of the machinery.",
            show_default="the published ones, downloaded once",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            help="Classes a file: those with the highest mean score; with --timeline those with the highest peak.",
            show_default="5; with --timeline all",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Lowest score to show; with --timeline the score that makes an event, which lasts down to half of it.",
            show_default="0; with --timeline 0.3",
        ),
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show when each sound happens, not what the whole file is about.")
    ] = False,
    output_format: Annotated[
        FormatChoice | None,
        typer.Option(
            "--format",
            help="`audacity` (a label track) and `textgrid` (Praat) hold the timeline of one recording.",
            show_default="by the ending of --out: .csv, .json or .TextGrid; else table",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Output; for audacity and textgrid of several inputs a folder.",
            show_default="standard output",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot",
            help="Also draw the spectrogram above the timeline: .png, .pdf or .svg; for several inputs a folder. Needs "
            "matplotlib.",
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Tag while it is heard, until Ctrl-C: the microphone, or standard input with --pcm."
        ),
    ] = False,
    microphone: Annotated[
        str | None,
        typer.Option(
            "--microphone",
            help="With --live: another input device, by its number or a part of its name.",
            show_default="the system's",
        ),
    ] = None,
    pcm: PcmOption = None,
    pcm_format: PcmFormatOption = None,
    channels: Annotated[
        int | None, typer.Option("--channels", help="Of raw samples or the microphone; averaged.", show_default="1")
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option("--hop", help="Seconds from one example to the next.", show_default="0.48 for yamnet"),
    ] = None,
    files_from: Annotated[
        list[str] | None,
        typer.Option("--files-from", help="Also tag the files named in this list, one a line; may be repeated."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    batch: BatchOption = None,
    precision: PrecisionOption = PrecisionChoice.fp32,
    engine: EngineOption = None,
    device: DeviceOption = CPU,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
) -> None:
    """Name the sounds in audio files.

    By default the classes that score highest on average over each file; with --timeline when each sound happens. A
    file that cannot be read is named at the end and does not stop the others. An existing output is kept unless
    --overwrite; in a folder of outputs, inputs whose outputs are there are not tagged again.

    With --live results come while the sound does: on a terminal as a table of the moment, in a pipe as JSON lines, one
    for each example; with --timeline a line for each event that has ended.

    Examples:

      audioset tag street.wav

      audioset tag recordings/ --top 3 -o tags.csv

      audioset tag talk.mp4 --timeline --plot talk.png

      audioset tag recordings/ --format textgrid -o grids/

      audioset tag --live

      ffmpeg -i https://… -f s16le -ac 1 -ar 16000 - | audioset tag - --pcm 16000 --live --timeline
    """
    from audioset import models
    from audioset.classes import class_list
    from audioset.cli._live import listen, open_sound
    from audioset.embed import EmbedOptions, Model, check_cores
    from audioset.weights import load

    inputs = expand(paths or [], lists=files_from or [])
    if not inputs.files and not inputs.missing and not live:
        raise OptionError("no input: expected files, folders or patterns. `audioset tag --help` has examples")
    form = output_format or _BY_ENDING.get(Path(out or "").suffix.lower(), FormatChoice.table)
    selection = Selection(timeline or form in _LABELS, top, threshold)
    spec = models.get(model)
    class_list(model)  # raises for a model that has none, before anything is fetched
    EmbedOptions(hop).resolve(spec)
    check_cores(threads, batch)
    place = place_of(precision, engine, device)

    def load_model() -> Model:
        say_if_small(model)
        with downloading(model) as progress:
            found = load(model, weights, progress=progress)
        prepare(spec, found, place)
        return Model(spec, found, threads=threads, batch_size=batch, place=place)

    if live:
        whole = {"--out": out, "--plot": plot, "--overwrite": overwrite, "--top with --timeline": timeline and top}
        _check_live(whole, form)
        sound = open_sound(inputs, microphone, pcm, pcm_format, channels)
        with interrupted_says("interrupted"):
            listen(load_model(), sound, selection, output_format and output_format.value, hop)
        return
    if microphone is not None:
        raise OptionError("--microphone: would not be used; expected --live beside it")
    raw = raw_input(pcm, pcm_format, channels, inputs)
    for option, name in (("--out", out), ("--plot", plot)):
        check_not_an_input(name or "", inputs.files, option)
    outputs = _Outputs.plan(inputs.files, form, None if out == STDIN else out, plot, overwrite=overwrite)
    job = _Job(load_model(), selection, outputs, hop, raw)
    began = time.perf_counter()
    kept = "outputs that are finished are kept" if outputs.labels or outputs.plots else "no file was written"
    with interrupted_says(f"interrupted; {kept}"), outputs.stream() as stream:
        job.run(inputs, stream)
        if outputs.whole is not None and not job.num_tagged:
            job.talk(time.perf_counter() - began)
            raise typer.Exit(1)  # nothing could be read: leaves no output
    job.talk(time.perf_counter() - began)
    if job.failures:
        raise typer.Exit(1)


def _check_live(whole: Mapping[str, object], form: FormatChoice) -> None:
    """Raise OptionError for options that need the whole recording."""
    if form in _LABELS:
        raise OptionError(f"--format {form.value}: holds a whole recording; with --live expected table, json or csv")
    for option, given in whole.items():
        if given:
            raise OptionError(
                f"{option}: needs the whole recording; expected it without --live, which writes results to standard "
                "output as they come. Send them to a file with `> FILE`"
            )


@dataclass(frozen=True)
class _Outputs:
    """Where results go: all to one stream or file, or each input's to files of its own.

    Attributes
    ----------
    form : FormatChoice
        Of the results.
    name : str or None
        File or folder of the results; None for standard output.
    whole : Path or None
        The one file for all results; None where they go to standard output or to files of their own.
    labels, plots : mapping of str to Path
        By input, the files that are to be written for it alone.
    todo : tuple of str
        Inputs of which something is to be written.
    num_kept : int
        How many files of `labels` and `plots` are there already and stay as they are.
    """

    form: FormatChoice
    name: str | None
    whole: Path | None
    labels: Mapping[str, Path]
    plots: Mapping[str, Path]
    todo: tuple[str, ...]
    num_kept: int

    @classmethod
    def plan(
        cls, files: Sequence[str], form: FormatChoice, out: str | None, plot: str | None, *, overwrite: bool
    ) -> _Outputs:
        """Decide, and refuse before any work what cannot be done."""
        whole = None
        labels: dict[str, Path] = {}
        archive = next(filter(storage.is_archive, files), None)
        if archive is not None and (plot or form in _LABELS):
            option = "--plot" if plot else f"--format {form.value}"
            raise OptionError(
                f"{option}: {archive} is an archive; expected recordings, for an output of each. Name those in it, "
                f"{archive}::NAME"
            )
        if out is None:
            if form in _LABELS and len(files) > 1:
                raise OptionError(
                    f"--format {form.value}: {len(files)} inputs and standard output; expected one input, as it holds "
                    "one recording. Name a folder with --out"
                )
        elif form in _LABELS:
            labels = _one_each(files, out, _LABELS[form], "--out")
        else:
            whole = Path(out)
            if whole.is_dir():
                raise OptionError(f"--out {out}: a folder; expected a file for all inputs. Try {whole / 'tags.csv'}")
        plots = {} if plot is None else _plan_plots(files, plot)
        # What is named itself must be new and in a folder that is there; outputs in a folder may be there from before.
        for path in (whole, *labels.values(), *plots.values()):
            if path is None or path not in [Path(name) for name in (out, plot) if name]:
                continue
            if not path.absolute().parent.is_dir():
                raise OutputError(f"{path}: its folder does not exist; make it, or choose another name")
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: exists; --overwrite to replace it, or choose another name")
        num_kept = 0
        if not overwrite:
            num_kept = sum(path.exists() for path in (*labels.values(), *plots.values()))
            labels, plots = (
                {file: path for file, path in paths.items() if not path.exists()} for paths in (labels, plots)
            )
        separate = form in _LABELS and out is not None
        todo = tuple(file for file in files if not separate or file in labels or file in plots)
        return cls(form, out, whole, labels, plots, todo, num_kept)

    @contextmanager
    def stream(self) -> Iterator[TextIO]:
        """Give the stream for results that share one; a file appears whole at the end, or not at all."""
        from audioset._files import written_whole

        if self.whole is None:
            yield sys.stdout
            return
        with written_whole(self.whole) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            yield stream


def _one_each(files: Sequence[str], out: str, suffix: str, option: str) -> dict[str, Path]:
    """Name an output for each input: `out` itself for one input, else a file in the folder `out`.

    Folders below the one that all inputs share are kept, so equal names do not meet. The input's ending gives way to
    `suffix`, but stays before it where two inputs differ in nothing else.
    """
    folder = Path(out)
    if not files:
        return {}
    if len(files) == 1 and not folder.is_dir() and not out.endswith(("/", os.sep)):
        return {files[0]: folder}
    if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in (suffix.lower(), ".png", ".pdf", ".svg")):
        raise OptionError(f"{option} {out}: one file; expected a folder, for an output of each of {len(files)} inputs")
    places = {file: Path("stdin" if file == STDIN else os.path.abspath(file)) for file in files}  # noqa: PTH100
    shared = _shared({place.parent for file, place in places.items() if file != STDIN})
    below = {}
    for file, place in places.items():
        below[file] = place if shared is None or file == STDIN else place.relative_to(shared)
        if below[file].is_absolute():
            below[file] = Path(place.drive.strip(":\\"), *place.parts[1:])
    stems = Counter(place.with_suffix("") for place in below.values())
    named = {
        file: folder / (place.with_suffix(suffix) if stems[place.with_suffix("")] == 1 else f"{place}{suffix}")
        for file, place in below.items()
    }
    (output, times), *_ = Counter(named.values()).most_common(1)
    if times > 1:
        raise OptionError(f"{option} {out}: {times} inputs would be written to {output}; tag them one by one")
    return named


def _plan_plots(files: Sequence[str], plot: str) -> dict[str, Path]:
    from audioset import plot as picture

    picture.check_installed()
    once = next(filter(is_read_once, files), None)
    if once is not None:
        what = "standard input" if once == STDIN else f"{once}, a pipe,"
        raise OptionError(f"--plot: {what} cannot be read twice; expected files. Save it to one first")
    plots = _one_each(files, plot, ".png", "--plot")
    for path in plots.values():
        picture.check_format(path)
    return plots


def _shared(parents: set[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath(parents)) if parents else None
    except ValueError:  # on different drives
        return None


@dataclass
class _Job:
    """A job while it runs: what has been done so far."""

    model: Model
    selection: Selection
    outputs: _Outputs
    hop_s: float | None
    raw: RawInput | None
    num_tagged: int = 0
    audio_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def run(self, inputs: Inputs, stream: TextIO) -> None:
        files = self.outputs.todo
        # A bar on the terminal that also takes the results would be broken by them: it draws both.
        progress = progress_on(sys.stdout if stream is sys.stdout and sys.stdout.isatty() else sys.stderr)
        with progress or nullcontext():
            report = self._report(stream, progress)
            for name, error in inputs.missing:
                self._fail(report, name, error)
            bar = Bar(progress, "tagging", files)
            names: deque[str] = deque()

            def show(audio_s: float) -> None:
                bar.update(self.num_tagged + len(self.failures), audio_s, len(self.failures))

            for scores in self.model.tag_files(self._sources(names), hop_s=self.hop_s, progress=show):
                name = names.popleft()
                if scores.error is not None:
                    self._fail(report, name, scores.error)
                    continue
                try:
                    self._write(replace(scores, file=name), report, stream)
                except OutputError:
                    raise
                except AudioSetError as error:
                    self._fail(report, name, error)
                    continue
                self.num_tagged += 1
                self.audio_s += scores.duration_s
            report.end()
            stream.flush()

    def _sources(self, names: deque[str]) -> Iterator[AudioSource]:
        """Yield what to read, noting the name of each; an archive is as many as it holds."""
        for name, source in storage.sources(self.outputs.todo):
            names.append(name)
            yield source_of(name, self.raw) if name == STDIN else source

    def talk(self, wall_s: float) -> None:
        """Say on stderr what has been done, where results did not go to the screen."""
        report_failures(self.failures, all_with="--format json")
        if self.outputs.num_kept:
            typer.echo(f"outputs already there, kept: {self.outputs.num_kept:,}; --overwrite to replace them", err=True)
        if not self.num_tagged or self.outputs.name is None:
            return
        talk = f"{self.num_tagged:,} {'file' if self.num_tagged == 1 else 'files'} tagged → {self.outputs.name}"
        talk += f" ({clock(self.audio_s)} of audio in {wall_s:.1f} s, {self.audio_s / wall_s:.0f}× real time)"
        typer.echo(talk + (f"; {len(self.failures):,} failed" if self.failures else ""), err=True)

    def _report(self, stream: TextIO, progress: Progress | None) -> Report:
        if self.outputs.form is FormatChoice.json:
            return JsonReport(stream, self.selection)
        if self.outputs.form is FormatChoice.csv:
            return CsvReport(stream, self.selection)
        if self.outputs.form in _LABELS:
            return Report()
        if progress is not None and stream is sys.stdout and sys.stdout.isatty():
            return RichReport(progress.console, self.selection)
        return PlainReport(stream, self.selection, self.outputs.todo)

    def _write(self, scores: Scores, report: Report, stream: TextIO) -> None:
        from audioset import labels
        from audioset._files import written_whole
        from audioset.plot import DEFAULT_TOP, save_timeline

        form = self.outputs.form
        path = self.outputs.labels.get(scores.file)
        if form in _LABELS and (path or self.outputs.name is None):
            events = self.selection.events(scores)
            grid = form is FormatChoice.textgrid
            text = labels.textgrid(events, scores.duration_s) if grid else labels.audacity(events)
            if path is None:
                stream.write(text)
            else:
                with written_whole(path) as temporary:
                    temporary.write_text(text, encoding="utf-8")
        if scores.file in self.outputs.plots:
            save_timeline(
                scores,
                scores.file,
                self.outputs.plots[scores.file],
                top=self.selection.top or DEFAULT_TOP,
                log_offset=self.model.spec.log_offset,
            )
        report.add(scores)
        stream.flush()  # a reader that has seen enough is noticed here

    def _fail(self, report: Report, name: str, error: Exception) -> None:
        reason = reason_of(name, error)
        self.failures.append(reason)
        report.fail(name, reason)
