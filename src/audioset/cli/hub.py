"""`audioset hub`: models, heads and embeddings to Hugging Face and back, and their cards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from audioset.cli._common import interrupted_says, write_columns

app = typer.Typer(
    help="""Share models, heads and embeddings on Hugging Face.

    What was pushed is used by its name wherever a model or weights are named: `--model hf://owner/name`.

    Examples:

      audioset hub push birds.safetensors owner/birds --dry-run

      audioset hub push birds.safetensors owner/birds --evaluation birds.json

      audioset tag street.wav --model hf://owner/birds

      audioset hub pull owner/birds -o birds.safetensors
    """,
    epilog="Needs huggingface_hub (`pip install huggingface_hub`). Log in with `hf auth login`, or set HF_TOKEN. "
    "HF_ENDPOINT names another Hub, HF_HOME another cache; AUDIOSET_OFFLINE=1 forbids the network.",
    no_args_is_help=True,
)

_LicenceOption = Annotated[
    str | None,
    typer.Option(
        "--licence", help="Of what is pushed, such as cc-by-4.0.", show_default="not stated, but of weights that say it"
    ),
]
_DatasetsOption = Annotated[
    list[str] | None,
    typer.Option("--dataset", help="Data set on the Hub that it was made from; may be repeated.", show_default=False),
]
_EvaluationOption = Annotated[
    Path | None,
    typer.Option(
        "--evaluation",
        help="Figures for the card: what `audioset evaluate --json` or `audioset finetune --json` wrote.",
    ),
]


@app.command()
def push(
    file: Annotated[
        Path,
        typer.Argument(
            help="A model that `audioset finetune` wrote, a head of `audioset train`, Parquet embeddings, or weights "
            "of `audioset models convert`."
        ),
    ],
    repository: Annotated[str, typer.Argument(help="owner/name; made if it is not there.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make it private; one that is public already is refused.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch to push to; made if it is not there.", show_default="main")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Of the commit.", show_default="generated")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", help="Markdown file to use as the card.", show_default="as `audioset hub card` prints it"
        ),
    ] = None,
    licence: _LicenceOption = None,
    dataset: _DatasetsOption = None,
    evaluation: _EvaluationOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be pushed, and the card; needs no network.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was pushed as JSON.")] = False,
) -> None:
    """Push a file to a repository on Hugging Face, with a card and its hash, in one commit.

    Embeddings go to a repository of data sets. Whoever may read it reads the names in their column `file` too. A card
    that is there already is replaced; give an edited one with --card. The new name, with its commit, goes to standard
    output.

    Examples:

      audioset hub push birds.safetensors owner/birds --licence cc-by-4.0

      audioset hub push birds.parquet owner/bird-embeddings --private

      audioset hub push birds.safetensors owner/birds --card edited.md --revision v2
    """
    from audioset.hub import prepare, send

    upload = prepare(
        file,
        repository,
        revision=revision,
        card=card,
        licence=licence,
        datasets=dataset or (),
        evaluation=evaluation,
    )
    sizes = upload.sizes
    if dry_run:
        if as_json:
            typer.echo(json.dumps({"name": str(upload.repository), "files": sizes, "card": upload.card}))
            return
        visible = "private" if private else "public, unless its owner's rules say otherwise"
        typer.echo(f"{upload.repository} ({upload.repository.repo_type}; if it is new: {visible})")
        write_columns([(name, f"{size:,} bytes") for name, size in sizes.items()])
        typer.echo(f"\n{upload.card}", nl=False)
        return
    with interrupted_says("interrupted before the Hub had confirmed a commit; run it again"):
        pushed = send(upload, private=private, message=message)
    if as_json:
        typer.echo(json.dumps({"name": pushed.name, "url": pushed.url, "files": sizes}))
        return
    typer.echo(f"→ {pushed.url}", err=True)
    typer.echo(pushed.name)


@app.command()
def pull(
    repository: Annotated[
        str,
        typer.Argument(help="owner/name, or datasets/owner/name for embeddings; @revision may stand behind it."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Also copy it to this file.", show_default="only the cache of huggingface_hub"
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.", show_default="main")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was found as JSON.")] = False,
) -> None:
    """Fetch and verify what was pushed to a repository, so that later runs need no network; print where it is.

    Examples:

      audioset hub pull owner/birds

      audioset hub pull datasets/owner/bird-embeddings -o birds.parquet

      AUDIOSET_OFFLINE=1 audioset tag street.wav --model hf://owner/birds
    """
    from audioset._files import written_whole
    from audioset.hub import pull as pull_file
    from audioset.weights.content import check_output

    if out is not None:
        check_output(out, overwrite=overwrite)
    with interrupted_says("interrupted; what has come is kept in the cache"):
        found = pull_file(repository, revision)
    if out is not None:
        with written_whole(out) as temporary:
            shutil.copyfile(found.path, temporary)
    place = str(out or found.path)
    if as_json:
        typer.echo(json.dumps({"name": found.name, "kind": found.kind, "path": place, "sha256": found.sha256}))
        return
    typer.echo(f"{found.name}: {found.kind}, verified", err=True)
    typer.echo(place)


@app.command()
def card(
    file: Annotated[Path, typer.Argument(help="A file that `push` takes.")],
    repository: Annotated[str, typer.Argument(help="Where it will be, for the examples in it.")] = "owner/name",
    licence: _LicenceOption = None,
    dataset: _DatasetsOption = None,
    evaluation: _EvaluationOption = None,
) -> None:
    """Print the card of a file: what it says of itself, how to use it, and figures where they are given.

    Examples:

      audioset hub card birds.safetensors owner/birds > card.md

      audioset finetune birds/ --test 'birds/\\*/2024-\\*' --json -o birds.safetensors > birds.json

      audioset hub card birds.safetensors owner/birds --evaluation birds.json
    """
    from audioset.hub import card as card_for

    typer.echo(card_for(file, repository, licence=licence, datasets=dataset or (), evaluation=evaluation), nl=False)
