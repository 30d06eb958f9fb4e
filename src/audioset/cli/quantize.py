"""`audioset quantize`: a network in 8 bits, calibrated on one's own sound or on the package's."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import interrupted_says, is_read_once, report_failures, write_columns
from audioset.cli._place import counting
from audioset.cli.models import downloading
from audioset.inputs import Inputs, expand
from audioset.records.info import reason_of

if TYPE_CHECKING:
    from audioset.int8 import Int8Weights, Recordings
    from audioset.models.spec import ModelSpec
    from audioset.verify import Agreement
    from audioset.weights import Weights

# The default of audioset.int8.quantize_on; a test says so.
MAX_EXAMPLES = 512


def quantize(
    model: Annotated[str, typer.Option("--model", "-m", help="Model; `audioset models list` shows them.")] = "vggish",
    weights: Annotated[
        str | None,
        typer.Option("--weights", "-w", help="Its weights, as for `embed`.", show_default="the published ones"),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            "-c",
            help="Recordings to calibrate on: a file, folder or pattern; may be repeated.",
            show_default="sounds that the package synthesizes",
        ),
    ] = None,
    files_from: Annotated[
        list[str] | None,
        typer.Option(
            "--files-from", help="Also calibrate on the files named in this list, one a line; may be repeated."
        ),
    ] = None,
    max_examples: Annotated[
        int,
        typer.Option("--max-examples", help="Examples (0.96 s) of recordings to take, spread evenly over all of them."),
    ] = MAX_EXAMPLES,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare with float32 on the sounds of the calibration.")
    ] = True,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Make a network in 8 bits, for --precision int8 to use with these weights from now on.

    `embed` and `tag` do so by themselves the first time, calibrated on sounds that the package synthesizes. Calibrate
    on recordings like those that you work with for a closer fit; without --calibrate it is made on the package's sounds
    again. It goes into the cache, in place of what is there. A recording that cannot be read is named and left
    out, and the exit status is 1; when none can be read, the cache stays as it is.

    `audioset verify` measures on other recordings what 8 bits change.

    Examples:

      audioset quantize --calibrate recordings/

      audioset quantize -m yamnet -c 'field/*.wav' -c birds/ --max-examples 1000

      audioset quantize -m yamnet
    """
    from audioset import int8, models
    from audioset import weights as all_weights
    from audioset.embed import check_cores
    from audioset.errors import OptionError

    own = bool(calibrate or files_from)
    inputs = expand(calibrate or [], lists=files_from or [])
    for name in filter(is_read_once, inputs.files):
        raise OptionError(f"--calibrate {name}: can be read only once; expected files, folders or patterns")
    if not own and max_examples != MAX_EXAMPLES:
        raise OptionError("--max-examples: would not be used; expected --calibrate beside it")
    check_cores(threads, None)
    spec = models.get(model)
    with downloading(model) as progress:
        found = all_weights.load(model, weights, progress=progress)
    spec = spec.of_format(found.provenance.get("source_format"))
    before = _before(spec, found)
    began = time.perf_counter()
    with interrupted_says("interrupted; the cache is as it was"):
        recordings = _read(spec, inputs, max_examples, threads) if own else None
        with counting("calibrating") as show:
            made = (
                int8.save_synthesized(spec, found, progress=show)
                if recordings is None
                else int8.save_on(spec, found, recordings, progress=show)
            )
    seconds = time.perf_counter() - began
    with interrupted_says("interrupted while it was checked; the network in 8 bits is in the cache"):
        agreement = _check(spec, found, recordings, threads) if check else None
    failures = [(file, str(error)) for file, error in inputs.missing]
    if recordings is not None:
        failures += [(file, reason_of(file, error)) for file, error in recordings.failures]
    report_failures([reason for _, reason in failures])
    _report(made, before, seconds, agreement, failures, spec=spec, weights=found, as_json=as_json)
    if failures:
        raise typer.Exit(1)


def _before(spec: ModelSpec, weights: Weights) -> Int8Weights | None:
    """What is in the cache now, if it can be used."""
    from audioset import int8
    from audioset.errors import WeightsFormatError

    try:
        return int8.find(spec, weights)
    except WeightsFormatError:
        return None


def _read(spec: ModelSpec, inputs: Inputs, max_examples: int, threads: int | None) -> Recordings:
    from audioset import int8
    from audioset.verify import nothing_read

    if not inputs.files:
        raise nothing_read(dict(inputs.missing))
    with counting("reading") as show:
        return int8.read_recordings(spec, inputs.files, max_examples=max_examples, threads=threads, progress=show)


def _check(spec: ModelSpec, weights: Weights, recordings: Recordings | None, threads: int | None) -> Agreement | None:
    import numpy as np

    from audioset import int8
    from audioset._runtime import resolve
    from audioset.embed import available_cores
    from audioset.errors import OptionError
    from audioset.network import Network
    from audioset.verify import compare_examples

    examples = np.concatenate(list(int8.synthesized_examples(spec))) if recordings is None else recordings.examples
    threads = threads or available_cores()
    reference = Network(spec, weights, threads=threads)
    in_int8 = Network(spec, weights, threads=threads, place=resolve("int8"))
    try:
        with counting("checking") as show:
            return compare_examples(reference, in_int8, examples, progress=show)
    except OptionError as error:  # of silence, or of one example
        typer.echo(
            f"not compared with float32: {error}. The network in 8 bits is in the cache, but cuts off all that is "
            "louder: calibrate on more, or without --calibrate",
            err=True,
        )
        return None


def _report(
    made: Int8Weights,
    before: Int8Weights | None,
    seconds: float,
    agreement: Agreement | None,
    failures: list[tuple[str, str]],
    *,
    spec: ModelSpec,
    weights: Weights,
    as_json: bool,
) -> None:
    path = made.path
    num_bytes = path.stat().st_size if path else 0
    replaced = before.calibration if before is not None and before.sha256 != made.sha256 else None
    if as_json:
        found: dict[str, Any] = {
            "model": spec.name,
            "weights": weights.sha256,
            "path": str(path),
            "bytes": num_bytes,
            "int8_sha256": made.sha256,
            "calibration": made.calibration,
            "replaced": replaced,
            "wall_s": round(seconds, 3),
            "agreement": agreement and agreement.to_dict()["outputs"],
            "failures": [{"file": file, "reason": reason} for file, reason in failures],
        }
        typer.echo(json.dumps(found))
        return
    rows = [
        (f"{spec.name} in 8 bits", f"{num_bytes / 1e6:,.1f} MB, made in {seconds:.1f} s"),
        ("calibrated on", made.calibration),
        *([("in place of", replaced)] if replaced else []),
        ("sha256", made.sha256),
        ("file", str(path)),
    ]
    if agreement is not None:
        rows += [
            (f"{name} against float32", f"mean-centred correlation {output.correlation:.5f} on these sounds")
            for name, output in agreement.outputs.items()
        ]
    write_columns(rows)
