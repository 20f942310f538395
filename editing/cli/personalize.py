"""``visdiff personalize``: teaches subjects, and checks and writes their data and their scores.

Data goes to stdout, notes to stderr. Exit status: 0 done, 2 the user's mistake, 3 finished in part
(captions that describe the subject).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editing.cli import attention, captioning, score, teach, word_pools
from editing.cli.identifier import identifier
from editing.cli.options import EvaluationPrompts, Identifier, Noun
from visdiff.cli.groups import App
from visdiff.cli.options import Json
from visdiff.errors import InputError
from visdiff.files import check_present

if TYPE_CHECKING:
    from editing.personalize.subject import Subject

app = App("Teach a subject to a text-to-image model, and prepare its images and captions.")

teach.add_methods(app)
app.command("merge")(teach.merge)
app.command("identifier")(identifier)
app.command("caption", epilog=captioning.EPILOG)(captioning.caption)
app.command("attention", epilog=attention.EPILOG)(attention.attention)
app.command("score", epilog=score.EPILOG)(score.score)
app.command("pools", epilog=word_pools.EPILOG)(word_pools.pools)

Source = Annotated[
    str, typer.Argument(help="Folder (captions in .txt files, metadata.jsonl, kohya), or manifest.")
]


@app.command("check")
def check(
    source: Source,
    noun: Noun = None,
    identifier: Identifier = None,
    as_json: Json = False,
) -> None:
    """Print what a subject's captions state, by the cases of SID's table 1.

    Case 3 (everything but the subject is described) is what the paper recommends. A caption of case
    4 describes the subject: the identifier does not learn what words already say.
    """
    check_present(source)
    from editing.personalize.captions import Case
    from editing.personalize.subject import Subject

    subject = Subject.open(source, identifier, noun)
    rows = caption_rows(subject)
    if as_json:
        typer.echo(json.dumps({"notes": list(subject.notes), "captions": rows}, indent=2))
    else:
        typer.echo(f"{len(subject)} images of {subject.phrase}")
        for row in rows:
            details = f" (details: {', '.join(row['details'])})" if row["details"] else ""
            typer.echo(f"case {row['case'] or '?'}  {row['id']}  {row['caption']}{details}")
    for note in subject.notes:
        typer.echo(f"note: {note}", err=True)
    described = sum(row["case"] == Case.SUBJECT_DETAILS for row in rows)
    if described:
        typer.echo(
            f"warning: {described} captions describe the subject: remove the details", err=True
        )
    unclear = [row["id"] for row in rows if row["case"] is None]
    if unclear:
        typer.echo(
            f"warning: {len(unclear)} captions do not name {subject.noun!r} once (first: "
            f"{unclear[0]}): edit them",
            err=True,
        )
    if described or unclear:
        raise typer.Exit(3)


@app.command("class-prompts")
def class_prompts_command(
    noun: Annotated[str, typer.Argument(help="Class noun, such as dog.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Output file: a prompt file, .csv.")],
    kind: Annotated[
        Literal["thing", "living", "person"] | None,
        typer.Option(help="What the noun names.", show_default="thing, or that of --pools"),
    ] = None,
    pools: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Words in a file by `visdiff personalize pools`.",
            show_default="the bundled ones",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(metavar="N", help="Number of prompts; the paper uses 2000.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of the words and of the images.")
    ] = 0,
    subject_images: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The subject's images: their captions' backgrounds are used as well.",
            show_default="none",
        ),
    ] = None,
    with_evaluation_prompts: EvaluationPrompts = False,
) -> None:
    """Write the structured prompts of a regularisation set, for `visdiff generate --prompts`."""
    import numpy as np
    import pandas as pd

    from editing.personalize.regularization import Pools, background_of, class_prompts
    from editing.personalize.subject import Subject
    from visdiff.files import explained, write_whole

    backgrounds: list[str] = []
    if subject_images is not None:
        captions = Subject.open(subject_images, None, noun).captions
        backgrounds = [b for c in captions if (b := background_of(c, noun))]
    evaluation = () if with_evaluation_prompts else None
    words = Pools.read(pools, evaluation) if pools else Pools.of(kind or "thing", evaluation)
    if kind not in (None, words.kind):
        raise InputError(
            f"Expected --kind {words.kind} with {pools}, got {kind!r}; leave --kind out."
        )
    prompts = class_prompts(noun, words, count, np.random.default_rng(seed), backgrounds)
    rows = [
        {"prompt": p.text, "evaluation_seed": seed + i, **p.columns()}
        for i, p in enumerate(prompts)
    ]
    table = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    with explained("a file that can be written", out):
        write_whole(out, table.encode())
    parts = pd.Series([p.part for p in prompts]).value_counts()
    typer.echo(f"{len(rows)} prompts ({', '.join(f'{n} {k}' for k, n in parts.items())}): {out}")
    if words.excluded:
        typer.echo(
            f"{len(words.excluded)} words of the pools were left out, since evaluation prompts ask "
            "for them (--with-evaluation-prompts keeps them)",
            err=True,
        )


def caption_rows(subject: "Subject") -> list[dict[str, Any]]:
    """Returns id, caption, case, details of the subject and other things, one row an image.

    The case is None for a caption that does not name the class noun once.
    """
    from editing.personalize.captions import case_of

    rows = []
    for name, text in zip(subject.images.ids, subject.captions, strict=True):
        try:
            checked = case_of(text, subject.noun, subject.identifier)
        except InputError:
            checked = None
        rows.append(
            {
                "id": name,
                "caption": text,
                "case": None if checked is None else int(checked.case),
                "details": [] if checked is None else list(checked.subject_details),
                "others": [] if checked is None else list(checked.others),
            }
        )
    return rows
