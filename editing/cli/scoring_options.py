"""The options that choose what scores are computed with, and the printing of scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editing.cli.options import Device
from visdiff.errors import InputError, MissingBackendError

if TYPE_CHECKING:
    from editing.metrics.subject import Estimate
    from editing.personalize.scoring import Tools

MEASURES = ("dino", "clip_i", "clip_t_vague", "clip_t_specific", "pres", "div", "copies")
"""Measures that need neither masks nor a base model."""

_LPIPS_PIXELS = 256
_CLIPSEG = "CIDAS/clipseg-rd64-refined"

Segment = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Find missing masks by the class noun: clipseg, or a hub id or folder of CLIPSeg.",
        show_default="none",
    ),
]


def clipseg(name: str) -> str:
    """Returns the hub id or folder that ``--segment`` names."""
    return _CLIPSEG if name == "clipseg" else name


@dataclass(frozen=True)
class ScoringOptions:
    """Options of every command that scores images of a subject."""

    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Encoder: clip, dino, dinov2 or miniature; repeatable. miniature is the bundled "
            "CLIP and classifier, the latter in place of DINO.",
            show_default="clip and dino",
        ),
    ] = None
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Measure to compute, such as dino or clip_i; repeatable.",
            show_default="all that the models allow",
        ),
    ] = None
    segment: Segment = None
    fill: Annotated[
        Literal["black", "mean", "crop"],
        typer.Option(help="What masked pixels become; crop also cuts the image to the rest."),
    ] = "black"
    diversity: Annotated[
        Literal["lpips", "features"] | None,
        typer.Option(
            help="Distance of DIV: LPIPS, or 1 − cosine of the features.",
            show_default="lpips; features with the encoder miniature",
        ),
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the bootstrap.")] = 0
    device: Device = "auto"

    def tools(self, default: Sequence[str]) -> "Tools":
        """Loads the models; those that cannot be loaded are named in the scores.

        Args:
            default: Measures to compute without ``--measure``, besides those of chosen models.

        Raises:
            InputError: An option is invalid.
        """
        from editing.cli.generate import choose_device
        from editing.metrics.masks import ClipSegmenter
        from editing.metrics.perceptual import Lpips
        from editing.personalize.encoders import Encoders
        from editing.personalize.scoring import Tools, checked_measures

        device = choose_device(self.device)
        names = self.encoder or ["clip", "dino"]
        chosen = [*default, *(["dinov2"] if "dinov2" in names else [])]
        if self.segment is not None:
            chosen += ["sa", "nsd", "sa_masked", "nsd_masked"]
        wanted = checked_measures(self.measure or chosen)
        lpips, missing = None, {}
        use_lpips = self.diversity == "lpips" or (
            self.diversity is None and "miniature" not in names
        )
        if use_lpips and "div" in wanted:
            try:
                lpips = Lpips(_LPIPS_PIXELS, device=device)
            except MissingBackendError as error:
                missing["div"] = str(error)
        segmenter = None
        if self.segment is not None:
            segmenter = ClipSegmenter(clipseg(self.segment), device=device)
        return Tools(Encoders.load(names, device), segmenter, lpips, self.fill, missing, wanted)


def measure_rows(measures: "Mapping[str, Estimate]") -> list[dict[str, Any]]:
    """Returns one row a measure, as JSON values."""
    from editing.personalize.scoring import TITLES

    rows = [{"measure": name, "title": TITLES[name], **asdict(e)} for name, e in measures.items()]
    return [{n: None if v != v else v for n, v in row.items()} for row in rows]


def print_measures(measures: "Mapping[str, Estimate]", real: Mapping[str, float]) -> None:
    """Prints a table of measures for people."""
    typer.echo(f"{'measure':28}{'value':>8}  {'95 % interval':17}{'real':>7}{'n':>7}")
    for row in measure_rows(measures):
        ends = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        own = real.get(row["measure"])
        between = "" if own is None else f"{own:.3f}"
        typer.echo(f"{row['title']:28}{row['value']:8.3f}  {ends:17}{between:>7}{row['n']:>7}")


def echo_json(values: Any) -> None:
    """Prints JSON."""
    typer.echo(json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False))


def echo_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as CSV."""
    import pandas as pd

    typer.echo(pd.DataFrame(list(rows)).to_csv(index=False, lineterminator="\n"), nl=False)


def one_format(as_json: bool, as_csv: bool) -> None:
    """Checks that at most one output format is chosen.

    Raises:
        InputError: Both are.
    """
    if as_json and as_csv:
        raise InputError("Expected --json or --csv, got both; leave one out.")
