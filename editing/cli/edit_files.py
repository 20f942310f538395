"""The commands of ``visdiff edit`` for files: show, apply, export and import.

Data goes to stdout, progress to stderr. Exit status: 0 success, 2 invalid input.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editing.cli.checks import check_edit, check_source
from editing.cli.options import Base, Model, OutEdit, Scale
from visdiff.cli.options import Json
from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.edit import Edit

EditFile = Annotated[
    Path,
    typer.Argument(
        metavar="EDIT", help="Edit file written by visdiff edit, or weights of another tool."
    ),
]
Foreign = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Weights that another tool saved: a LoRA of diffusers or kohya, learned embeddings, "
        "Custom Diffusion, spectral shifts, a partial or whole checkpoint, or a folder.",
    ),
]
Target = Literal[
    "diffusers",
    "kohya",
    "learned-embeds",
    "custom-diffusion",
    "spectral-shifts",
    "weights",
    "folder",
]


def show(edit: EditFile, as_json: Json = False) -> None:
    """Print what an edit contains, or what a file of another tool is."""
    check_edit(edit)
    from editing.edit import Edit
    from editing.edit.formats import describe, is_edit

    if not is_edit(edit):
        _print_foreign(describe(edit), as_json)
        return
    loaded = Edit.load(edit)
    if as_json:
        typer.echo(json.dumps(loaded.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print_edit(loaded)


def apply(
    model: Model,
    edit: EditFile,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE|DIR", help="Output folder of a pipeline, or file of a LoRA."),
    ],
    form: Annotated[
        Literal["pipeline", "lora"],
        typer.Option(
            "--as", help="A complete pipeline, or a LoRA for load_lora_weights of diffusers."
        ),
    ] = "pipeline",
    scale: Scale = 1.0,
    force: Annotated[
        bool, typer.Option("--force", help="Apply to another base model too.")
    ] = False,
) -> None:
    """Write the edited model to disk."""
    check_edit(edit)
    check_source(model)
    from editing.edit.formats import export_edit
    from editing.edit.formats.folder import write_folder

    pipe = load(model)
    loaded = open_any(edit, pipe).scaled(scale)
    if form == "pipeline":
        write_folder(loaded, pipe, out, force)
    elif force:
        raise InputError(
            "Expected the base model of the edit for a LoRA, got --force; leave it out "
            "and give that base."
        )
    else:
        export_edit(loaded, pipe, "diffusers", out)
    typer.echo(f"{out}")


def export(
    edit: EditFile,
    form: Annotated[Target, typer.Option("--as", help="Format to write.")],
    base: Base,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE|DIR", help="Output folder, or a .safetensors file where one is enough."
        ),
    ],
    scale: Scale = 1.0,
) -> None:
    """Write an edit for other tools: a LoRA, embeddings, or a whole pipeline."""
    check_edit(edit)
    check_source(base)
    from editing.edit.formats import export_edit

    pipe = load(base)
    for path in export_edit(open_any(edit, pipe).scaled(scale), pipe, form, out):
        typer.echo(str(path))


def import_(file: Foreign, base: Base, out: OutEdit, as_json: Json = False) -> None:
    """Make an edit of weights that another tool saved."""
    check_source(base)
    from editing.edit.formats import import_edit

    save_and_print(import_edit(file, load(base)), out, as_json)


def load(model: str) -> Any:
    """Loads a pipeline, as `editing.pipelines.loading.load_pipeline`, and prints its note."""
    check_source(model)
    from editing.pipelines.loading import load_pipeline

    return load_pipeline(model, lambda note: typer.echo(f"note: {note}", err=True))


def open_any(path: Path, pipe: Any) -> "Edit":
    """Returns the edit of a file, whichever tool wrote it, and warns of what was not used."""
    from editing.edit.formats import is_edit, open_edit

    edit = open_edit(path, pipe)
    if not is_edit(path):
        _print_warnings(edit)
    return edit


def _print_warnings(edit: "Edit") -> None:
    for warning in edit.diagnostics.get("warnings", []):
        typer.echo(f"warning: {warning}", err=True)


def save_and_print(edit: "Edit", out: Path, as_json: bool) -> None:
    """Saves an edit and prints its description, as JSON or for people."""
    save_or_keep(edit, out)
    if as_json:
        typer.echo(json.dumps(edit.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print_edit(edit)
        typer.echo(f"edit: {out}")


def save_or_keep(edit: "Edit", out: Path) -> None:
    """Saves an edit; if that fails, in the folder for temporary files, so that it is not lost.

    Raises:
        InputError: The file cannot be written; the message names the other one.
    """
    try:
        edit.save(out)
    except InputError as error:
        kept = None
        # The folder for temporary files may be on the same disk.
        with suppress(InputError, OSError):
            kept = edit.save(Path(mkdtemp(prefix="visdiff-")) / out.name)
        if kept is None:
            raise
        raise InputError(f"{str(error).rstrip('.')} (the edit is in {kept}).") from error


def _print_foreign(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for file in found["files"]:
        if "tensors" not in file:
            typer.echo(f"{found['path']}: {file['title']}")
            continue
        first = ", ".join(file["first"])
        typer.echo(f"{file['name']}: {file['title']}, {file['tensors']} tensors ({first}, …)")
        for key, value in file["metadata"].items():
            typer.echo(f"  {shorten(f'{key}: {value}', 200, placeholder=' …')}")
    typer.echo(
        "not an edit of visdiff; visdiff edit import FILE --base MODEL --out E.safetensors makes "
        "one of it, and audit and generate take it directly"
    )


def _print_edit(edit: "Edit") -> None:
    diagnostics = edit.diagnostics
    new = dict.fromkeys(token for change in edit.changes for token in change.tokens())
    added = f", new tokens {', '.join(new)}" if new else ""
    typer.echo(f"{edit.method} edit of {edit.base_model}, {len(edit.tensors)} tensors{added}")
    for request in edit.requests:
        typer.echo(f"  {shorten(request.describe(), 200, placeholder=' …')}")
    for concept, tokens in diagnostics.get("tokens", {}).items():
        listed = ", ".join(f"{t['index']} {t['token']}" for t in tokens)
        typer.echo(f"tokens of {concept!r}: {listed}")
    for target in diagnostics.get("targets", []):
        line = f"{target['concept']!r} reaches {1 - target['residual']:.0%} of its target"
        if "revival" in target:
            line += f"; the vectors that revive it best miss it by {target['revival']:.0%}"
        typer.echo(line)
    for name, subject in (
        ("preserved", "preserved concepts move"),
        ("null", "the empty prompt moves"),
    ):
        if diagnostics.get(name):
            typer.echo(f"{subject} {diagnostics[name]['spill']:.1%} as far as the edited concepts")
    if diagnostics.get("neighbours"):
        nearest = diagnostics["neighbours"][:8]
        near = ", ".join(f"{n['concept']} {n['spill']:.0%}" for n in nearest)
        typer.echo(f"neighbours move: {near}")
    for space, solve in diagnostics.get("solves", {}).items():
        typer.echo(
            f"solve for {space}: rank {solve['rank']} (effective {solve['effective_rank']:.1f}), "
            f"condition {solve['condition']:.1e}, λ {solve['lambda']:.3g}"
        )
    _print_warnings(edit)
    typer.echo(f"digest: {edit.digest}")
    sys.stdout.flush()
