"""Options that several commands of `editing` share: one name, one text."""

from pathlib import Path
from typing import Annotated

import typer

_MODEL = "a hub id, a folder, a .safetensors file, or miniature."

Model = Annotated[str, typer.Argument(help=f"Model: {_MODEL}")]
Base = Annotated[str, typer.Option(metavar="MODEL", help=f"Unedited model: {_MODEL}")]
OutEdit = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="Output file of the edit, E.safetensors.")
]
EditOption = Annotated[
    Path | None,
    typer.Option(
        "--edit",
        metavar="EDIT",
        help="Edit file, or weights of another tool (LoRA, …).",
        show_default="none",
    ),
]
Scale = Annotated[float, typer.Option(metavar="X", help="Strength of the edit.")]
Steps = Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Sampling steps.")]
Guidance = Annotated[float, typer.Option(metavar="X", help="Classifier-free guidance scale.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Scheduler of diffusers, such as DDIM.", show_default="the model's"
    ),
]
Batch = Annotated[int, typer.Option(metavar="N", help="Images per batch.")]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="Device: auto, cpu, cuda, cuda:1 or mps.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File from which an interrupted training resumes.",
        show_default="none",
    ),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a setting of the method (`visdiff settings edit` and `visdiff settings "
        "personalize` list them); repeatable.",
        show_default="none",
    ),
]
Noun = Annotated[
    str | None,
    typer.Option(
        metavar="NOUN", help="Class noun, such as dog.", show_default="that of a kohya folder"
    ),
]
Identifier = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", help="Token that stands for the subject.", show_default="olis"),
]
Prior = Annotated[
    str | None,
    typer.Option(
        metavar="PRIOR",
        help="none, prompt, structured, teacher, or a folder or manifest of class images.",
        show_default="the method's own",
    ),
]
EvaluationPrompts = Annotated[
    bool,
    typer.Option(
        "--with-evaluation-prompts",
        help="Keep words that DreamBench's prompts ask for, as the paper did.",
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")]
