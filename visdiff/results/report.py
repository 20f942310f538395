"""The report of a comparison: its parts, the JSON form, and the folder that it is saved to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter, ValidationError

from visdiff.errors import InputError
from visdiff.files import load_json
from visdiff.results.plain import to_plain
from visdiff.results.records import (
    Difference,
    NullRun,
    Provenance,
    Rejected,
    Separability,
    SetCard,
    Stage,
)
from visdiff.results.views import ReportViews

if TYPE_CHECKING:
    import pandas as pd

    Frame = pd.DataFrame
else:
    Frame = Any  # pydantic reads the annotations, and this module loads no pandas

#: Version of the JSON layout that is written. Version 2 added the second ranker's results.
SCHEMA_VERSION = 2
_READABLE = (1, 2)

_NOT_SERIALISED = frozenset({"scores", "thumbnails", "captions"})


@dataclass(frozen=True, repr=False)
class DifferenceReport(ReportViews):
    """The result of comparing two sets of images.

    Attributes:
        verdict: The result in one sentence.
        differences: One per group of synonyms, confirmed ones first, then by AUROC.
        rejected: Candidates that were rejected, with reasons.
        separability: How different the sets are, and how much the sentences explain.
        set_a: The first set.
        set_b: The second set.
        minimum_detectable_auroc: Smallest AUROC that the test of a proposed sentence detects with
            power 0.8, or None. The sentence has to be proposed first, so the power of the whole
            comparison is lower; and nothing is confirmed below ``statistics.min_auroc``.
        paired_by: Columns that pair an image of A with one of B; empty when unpaired.
        double_dipped: True when there were too few images for a split, so that sentences were
            proposed from and tested on the same images; nothing is confirmed then.
        cross_fitted: True when sentences were proposed from each half of the images and tested on
            the other.
        preflight: The dict of `visdiff.comparison.preflight.Preflight.to_dict`.
        null: The shuffled runs, if any were requested.
        unanswered: One reason per failed request of the proposer; the candidates of these requests
            are missing from the report.
        config: The run's configuration.
        provenance: How the report was produced.
        warnings: Warnings that the reader must see, one sentence each.
        stages: How much of the captions, answers and scores was obtained, one per stage that ran.
        schema_version: Version of the JSON layout that it was written in.
        scores: One row per image: ``set`` ("A" or "B"), ``id``, ``half`` ("discovery", "scoring",
            or "both" when double-dipped or cross-fitted), then one float column per hypothesis
            text (`visdiff.results.score_column`), NaN where an image was not in its test. Not
            serialised.
        thumbnails: PNG or JPEG bytes by "A/<id>" or "B/<id>". Not serialised.
        captions: Captions by the same keys. Not serialised.
    """

    verdict: str
    differences: tuple[Difference, ...]
    rejected: tuple[Rejected, ...]
    separability: Separability
    set_a: SetCard
    set_b: SetCard
    minimum_detectable_auroc: float | None = None
    paired_by: tuple[str, ...] = ()
    double_dipped: bool = False
    cross_fitted: bool = False
    preflight: dict = field(default_factory=dict)
    null: NullRun | None = None
    unanswered: tuple[str, ...] = ()
    config: dict = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    warnings: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    schema_version: int = SCHEMA_VERSION
    scores: Frame | None = field(default=None, compare=False, repr=False)
    thumbnails: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    captions: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Tuples, numpy scalars and paths become JSON values, so that a report read from JSON equals
        # the one that was written.
        object.__setattr__(self, "preflight", to_plain(self.preflight))
        object.__setattr__(self, "config", to_plain(self.config))

    @property
    def confirmed(self) -> tuple[Difference, ...]:
        """The confirmed differences, in the report's order."""
        return tuple(d for d in self.differences if d.confirmed)

    @property
    def failed_stages(self) -> tuple[Stage, ...]:
        """The stages that got less than half of what they asked for."""
        return tuple(stage for stage in self.stages if stage.failed)

    @property
    def is_complete(self) -> bool:
        """Whether every image was read and scored, and every request succeeded."""
        unreadable = self.set_a.n_unreadable + self.set_b.n_unreadable
        unscored = any(d.n_unscored or d.verify_n_unscored for d in self.differences)
        missing = any(not stage.is_complete for stage in self.stages)
        return not (unreadable or unscored or missing or self.unanswered)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as dicts, lists, strings, finite numbers, booleans and None."""
        return to_plain(self, _NOT_SERIALISED)

    def to_json(self, indent: int | None = None) -> str:
        """Returns the report as JSON; NaN and infinities are written as null.

        Args:
            indent: Spaces per level, or None for a single line.
        """
        data = self.to_dict()
        text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8 needs JSON escapes
            text = json.dumps(data, indent=indent, allow_nan=False)
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Loads a report from the output of `to_json`; null becomes NaN where a number is required.

        Unknown fields are ignored, so that reports of a newer minor version can be read. Reports of
        schema version 1, which had no second ranker, can be read too. Scores, thumbnails and
        captions are not in the JSON and are empty afterwards.

        Raises:
            InputError: The text is not JSON, not a report, or of an unsupported schema version.
        """
        try:
            data = load_json(text)
        except ValueError as error:
            raise InputError(
                f"Expected a report in JSON, got text that is not JSON: {error}."
            ) from error
        if not isinstance(data, dict) or "schema_version" not in data:
            raise InputError(
                "Expected a visdiff report (a JSON object with schema_version), got something "
                "else; pass the contents of report.json."
            )
        if data["schema_version"] not in _READABLE:
            raise InputError(
                f"Expected a report of schema_version {' or '.join(map(str, _READABLE))}, got "
                f"{data['schema_version']!r}; read it with the version of visdiff that wrote it "
                "(provenance.versions says which)."
            )
        held = {name: value for name, value in data.items() if name not in _NOT_SERIALISED}
        try:
            return _reader(cls).validate_python(held)
        except ValidationError as error:
            # A wrong value says more than the fields that are missing.
            first = min(error.errors(), key=lambda e: e["type"] == "missing")
            where = ".".join(map(str, ("report", *first["loc"])))
            wanted = {"tuple_type": "a list", "dataclass_type": "an object"}.get(first["type"])
            raise InputError(
                f"Expected {wanted or 'a complete record'} at {where}, got: {first['msg']}; is the "
                "report damaged?"
            ) from error

    def save(self, directory: str | Path, figures: Sequence[str] = ("svg", "pdf")) -> Path:
        """Writes report.html, report.json, report.md, differences.csv, scores.parquet and figures.

        Args:
            directory: Output folder, created if missing. Files of these names are replaced.
            figures: Formats of the forest plot, such as "svg", "pdf" and "png"; it takes about a
                second. Empty for no figure.

        Returns:
            The folder.

        Raises:
            InputError: The folder cannot be written to, or a format is unknown.
        """
        from visdiff.report.folder import write_folder

        return write_folder(self, directory, figures)


@cache
def _reader(report: type[DifferenceReport]) -> TypeAdapter[Any]:
    return TypeAdapter(report)
