"""`audioset verify`: what another precision or engine changes, on one's own recordings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import interrupted_says, is_read_once, report_failures, write_columns
from audioset.cli._place import (
    CPU,
    DeviceOption,
    EngineOption,
    PrecisionChoice,
    counting,
    place_of,
    prepare,
)
from audioset.cli.models import downloading
from audioset.inputs import expand
from audioset.records.info import reason_of

if TYPE_CHECKING:
    from audioset._runtime import Place
    from audioset.models.spec import ModelSpec
    from audioset.postprocess import Pca
    from audioset.verify import Agreement

# The default of audioset.verify.compare; a test says so.
MAX_EXAMPLES = 10_000
AT_LEAST = 0.995


def verify(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Audio or video files, folders (searched recursively) or patterns."),
    ] = None,
    precision: Annotated[
        PrecisionChoice, typer.Option("--precision", help="Of the network's arithmetic, to compare with float32.")
    ] = PrecisionChoice.int8,
    engine: EngineOption = None,
    device: DeviceOption = CPU,
    model: Annotated[str, typer.Option("--model", "-m", help="Model; `audioset models list` shows them.")] = "vggish",
    weights: Annotated[
        str | None,
        typer.Option("--weights", "-w", help="Its weights, as for `embed`.", show_default="the published ones"),
    ] = None,
    pca: Annotated[
        Path | None,
        typer.Option("--pca", help="PCA parameters (.npz), for vggish's bytes.", show_default="those in the cache"),
    ] = None,
    at_least: Annotated[float, typer.Option("--at-least", help="Mean-centred correlation that is enough.")] = AT_LEAST,
    max_examples: Annotated[
        int,
        typer.Option("--max-examples", help="Examples to compare at most, spread evenly over all recordings."),
    ] = MAX_EXAMPLES,
    files_from: Annotated[
        list[str] | None,
        typer.Option("--files-from", help="Also take the files named in this list, one a line; may be repeated."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure on your recordings what int8, bf16 or another engine changes, against float32.

    Each output is compared by its mean-centred correlation (what two networks' values have in common once the mean of
    each dimension is taken away), by cosines and differences; embeddings by whether nearest neighbours stay the
    same, and in vggish's released 8-bit form; scores by whether the highest classes stay the same. The exit status is
    1 if a correlation is below --at-least, or a recording could not be read: it is named and left out.

    This is about arithmetic. `audioset models verify` is another command: it checks that files of weights are whole.

    Examples:

      audioset verify --precision int8 recordings/

      audioset verify --precision bf16 --engine openvino -m yamnet 'field/*.wav' --json

      audioset verify birds/ --at-least 0.999 --max-examples 2000
    """
    from audioset import models
    from audioset.embed import available_cores, check_cores
    from audioset.errors import OptionError
    from audioset.network import Network
    from audioset.verify import compare, nothing_read
    from audioset.weights import load

    inputs = expand(paths or [], lists=files_from or [])
    if not inputs.files and not inputs.missing:
        raise OptionError("no input: expected files, folders or patterns. `audioset verify --help` has examples")
    for name in filter(is_read_once, inputs.files):
        raise OptionError(f"{name}: can be read only once; expected files, folders or patterns")
    if not (math.isfinite(at_least) and -1 <= at_least <= 1):
        raise OptionError(f"--at-least: {at_least} is out of range; expected a correlation, -1 to 1")
    if max_examples < 2:
        raise OptionError(f"--max-examples: {max_examples} is out of range; expected 2 or more")
    check_cores(threads, None)
    place = place_of(precision, engine, device)
    if (place.precision, place.engines[0], place.kind) == ("fp32", "onnxruntime", CPU):
        raise OptionError(
            "--precision fp32: by onnxruntime on cpu this is the reference itself; expected another precision, "
            "--engine or --device"
        )
    spec = models.get(model)
    if pca is not None and not spec.has_pca:
        raise OptionError(f"--pca: would not be used; PCA parameters are of vggish, not of {spec.name}")
    if not inputs.files:
        raise nothing_read(dict(inputs.missing))
    with downloading(model) as progress:
        found = load(model, weights, progress=progress)
    spec = spec.of_format(found.provenance.get("source_format"))
    parameters = _pca(spec, pca)
    threads = threads or available_cores()
    with interrupted_says("interrupted"):
        prepared = prepare(spec, found, place)
        reference = Network(spec, found, calls=threads)
        other = Network(spec, found, place=place, calls=threads)
        with counting("comparing") as show:
            agreement = compare(
                reference,
                other,
                inputs.files,
                max_examples=max_examples,
                pca=parameters,
                threads=threads,
                progress=show,
            )
    failures = [(name, str(error)) for name, error in inputs.missing]
    failures += [(name, reason_of(name, error)) for name, error in agreement.failures]
    report_failures([reason for _, reason in failures])
    passed = agreement.correlation >= at_least
    if as_json:
        about: dict[str, Any] = {
            "model": spec.name,
            "weights": found.sha256,
            "precision": place.precision,
            "engine": prepared.engine,
            "device": place.device,
            "int8_sha256": prepared.int8_sha256,
            "at_least": at_least,
            "passed": passed,
            **agreement.to_dict(),
            "failures": [{"file": name, "reason": reason} for name, reason in failures],
        }
        typer.echo(json.dumps(about))
    else:
        _report(agreement, spec, place, prepared.engine)
        verdict = "at least" if passed else "BELOW"
        typer.echo(f"mean-centred correlation {agreement.correlation:.5f}: {verdict} {at_least:g}")
    if failures or not passed:
        raise typer.Exit(1)


def _pca(spec: ModelSpec, path: Path | None) -> Pca | None:
    """PCA parameters where they can be had without a network."""
    from audioset.postprocess import Pca
    from audioset.weights import load_pca, ready

    if not spec.has_pca:
        return None
    if path is None and not ready("vggish-pca"):
        typer.echo(
            "the released 8-bit form is left out: PCA parameters are not in the cache. Fetch them with "
            "`audioset models fetch vggish-pca`, or name the file (--pca)",
            err=True,
        )
        return None
    return Pca(*load_pca(path))


def _report(agreement: Agreement, spec: ModelSpec, place: Place, engine: str) -> None:
    files = len(agreement.files)
    typer.echo(
        f"{spec.name} in {place.precision} ({engine}, {place.device}) against float32: "
        f"{agreement.examples:,} examples of {files:,} {'file' if files == 1 else 'files'}"
    )
    rows: list[tuple[str, str]] = []
    for name, output in agreement.outputs.items():
        rows += [
            (name, ""),
            (
                "  mean-centred correlation",
                f"{output.correlation:.5f}; lowest {output.lowest_file_correlation:.5f} "
                f"({agreement.files[output.lowest_file]})",
            ),
            (
                "  cosine",
                f"mean {output.cosine_mean:.5f}; 1st percentile {output.cosine_percentile_1:.5f}; "
                f"lowest {output.cosine_lowest:.5f}",
            ),
            ("  difference", f"mean {output.mean_difference:.4g}; largest {output.max_difference:.4g}"),
        ]
        if name == "embedding":
            for what, nearest in (("row", agreement.neighbours), ("file", agreement.file_neighbours)):
                if nearest is not None:
                    same = f"{nearest.same_nearest:.1%} the same; {nearest.overlap:.1%} of the ten nearest"
                    rows.append((f"  nearest {what}", same))
            if agreement.released is not None:
                equal, within = agreement.released.equal, agreement.released.within_one
                rows.append(("  released bytes", f"{equal:.1%} equal; {within:.1%} within 1"))
        elif agreement.classes is not None:
            same = f"{agreement.classes.same_top:.1%} the same; {agreement.classes.overlap:.1%} of the five highest"
            rows.append(("  highest class", same))
    write_columns(rows)
