"""The result of a comparison: frozen dataclasses, and a report with several output formats.

Everything here is plain data. The dataclasses hold no model, no open file and no array, so a report
can be compared with ``==``, written as JSON and read back years later. Three large fields that the
renderers need are not serialised: ``scores``, ``thumbnails`` and ``captions``.

Set A and set B are the first and the second argument of the comparison. ``direction`` always names
the set that a sentence is *more true of*. AUROC, interval and tests are oriented by it: an AUROC
above 0.5 supports the sentence, whichever set it describes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from visdiff.errors import InputError
from visdiff.files import load_json
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

Direction = Literal["A", "B"]

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float whose NaN is null in JSON."""


def to_plain(value: Any, exclude: frozenset[str] = frozenset()) -> Any:
    """Returns the value as JSON values: dicts, lists, strings, finite numbers, booleans and None.

    Dataclasses become dicts, tuples and arrays lists, NaN and infinities None, and what JSON has no
    form for (a path, a date) its string.

    Args:
        value: Anything.
        exclude: Fields or keys of the value itself to leave out.
    """
    return to_jsonable_python(
        value, exclude=set(exclude), inf_nan_mode="null", fallback=_without_pydantic
    )


def _without_pydantic(value: Any) -> Any:
    to_list = getattr(value, "tolist", None)  # numpy arrays and scalars, without importing numpy
    return to_list() if callable(to_list) else str(value)


@dataclass(frozen=True)
class Hypothesis:
    """A sentence that may be more true of one set than of the other.

    Attributes:
        text: The sentence or phrase, as the proposer wrote it.
        direction: The set, "A" or "B", that it should be more true of.
        proposer: Name of the proposer it came from.
        round: 1 for the first round of proposals, 2 for the second, …
    """

    text: str
    direction: Direction
    proposer: str
    round: int = 1

    def __post_init__(self) -> None:
        _check_direction(self.direction)


@dataclass(frozen=True)
class Difference:
    """A scored difference: the representative of a group of redundant sentences.

    Attributes:
        text: The sentence.
        direction: The set it is more true of, "A" or "B".
        auroc: Probability, in [0, 1], that a random image of ``direction``'s set scores higher than
            a random image of the other set; ties count half.
        ci_low: Lower bound of the AUROC's confidence interval, oriented like ``auroc``.
        ci_high: Upper bound.
        p_value: One-sided p-value, with the alternative "more true of ``direction``'s set".
        q_value: The p-value after Benjamini–Hochberg over all candidates scored in the run.
        confirmed: Whether it passed the thresholds on images that it was not proposed from.
        mean_a: Mean score over the images of A.
        mean_b: Mean score over the images of B.
        n_a: Number of scored images of A.
        n_b: Number of scored images of B.
        n_unscored: Number of images of both sets without a score (a failed call is never a score).
        synonyms: The other sentences of the group.
        evidence_a: Ids of the images of A that show the difference most clearly, best first.
        evidence_b: Ids of the images of B that show the difference most clearly, best first.
        proposer: Name of the proposer it came from.
        round: Round of proposals it came from, from 1.
        verify_auroc: The second ranker's AUROC on the same images, oriented like ``auroc``; None
            without a second ranker, for an unconfirmed difference, or without any score.
        verify_ci_low: Lower bound of its interval, or None.
        verify_ci_high: Upper bound, or None.
        verify_n_unscored: Number of images that the second ranker could not score.
        disputed: Whether the second ranker disagrees: its interval does not lie above 0.5. None
            without a result. It does not change ``confirmed``.
    """

    text: str
    direction: Direction
    auroc: Number
    ci_low: Number
    ci_high: Number
    p_value: Number
    q_value: Number
    confirmed: bool
    mean_a: Number
    mean_b: Number
    n_a: int
    n_b: int
    n_unscored: int = 0
    synonyms: tuple[str, ...] = ()
    evidence_a: tuple[str, ...] = ()
    evidence_b: tuple[str, ...] = ()
    proposer: str = ""
    round: int = 1
    verify_auroc: float | None = None
    verify_ci_low: float | None = None
    verify_ci_high: float | None = None
    verify_n_unscored: int = 0
    disputed: bool | None = None

    def __post_init__(self) -> None:
        _check_direction(self.direction)


@dataclass(frozen=True)
class Rejected:
    """A candidate that is not reported as a difference, and why.

    Attributes:
        text: The sentence.
        direction: The set that it should have been more true of.
        reason: Why it was rejected, in words.
        auroc: Oriented AUROC, or None when it was never scored.
        p_value: One-sided p-value, or None.
        q_value: After Benjamini–Hochberg, or None.
    """

    text: str
    direction: Direction
    reason: str
    auroc: float | None = None
    p_value: float | None = None
    q_value: float | None = None

    def __post_init__(self) -> None:
        _check_direction(self.direction)


@dataclass(frozen=True)
class SetCard:
    """A description of one of the two sets.

    Attributes:
        name: The set's name, as shown in the report.
        source: Where it came from (a folder, a manifest, "list of images").
        n: Number of images in the set.
        n_discovery: Number of images that hypotheses were proposed from.
        n_scored: Number of images that statistics were computed on.
        n_unreadable: Number of images that could not be decoded.
        where: The filter on manifest columns that selected the set.
        left_out: Suffix → number of files of the folder that are no readable images.
        n_effective: Number of independent observations among the scored images: copies, near copies
            and images of one group count once. None in reports of earlier versions.
    """

    name: str
    source: str
    n: int
    n_discovery: int
    n_scored: int
    n_unreadable: int = 0
    where: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    n_effective: int | None = None


@dataclass(frozen=True)
class Separability:
    """How different the sets are, and how much of that the sentences explain.

    Attributes:
        images: Cross-validated AUROC of a linear probe on image features, or None.
        sentences: Cross-validated AUROC of a probe on the confirmed sentences' scores, or None.
    """

    images: float | None = None
    sentences: float | None = None

    @property
    def gap(self) -> float | None:
        """AUROC of the image features minus that of the sentences; None when one is missing."""
        if self.images is None or self.sentences is None:
            return None
        gap = self.images - self.sentences
        return gap if math.isfinite(gap) else None


@dataclass(frozen=True)
class NullRun:
    """The same run with set membership shuffled, ``repeats`` times.

    Attributes:
        repeats: Number of shuffled runs.
        with_any_confirmed: Number of shuffled runs that confirmed at least one "difference".
        confirmed_per_repeat: Number of confirmed "differences" in each.
    """

    repeats: int
    with_any_confirmed: int
    confirmed_per_repeat: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stage:
    """How much of what a stage of a run asked for was obtained.

    Attributes:
        name: What was asked for, in the plural: "captions", "answers of the proposer", "scores".
        asked: Number of values that were asked for.
        got: Number of values that were obtained.
        reason: The most frequent reason of a missing value; "" if none is known.
    """

    name: str
    asked: int
    got: int
    reason: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.got >= self.asked

    @property
    def failed(self) -> bool:
        """Whether nothing, or less than half, was obtained: no conclusion rests on that."""
        return self.asked > 0 and (self.got == 0 or 2 * self.got < self.asked)

    @property
    def sentence(self) -> str:
        """The numbers and the reason, as one clause."""
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.got} of {self.asked} {self.name} were obtained{reason}"


@dataclass(frozen=True)
class Provenance:
    """How a report was produced, in enough detail to reproduce it.

    Attributes:
        versions: Package name → version.
        models: Role → description of the model (id, revision, weight hash, parameters).
        prompts: Prompt id → hash.
        seed: Seed of the run.
        device: Device that the models ran on; "none" when every result came from the cache.
        seconds: Stage → wall-clock seconds.
        tokens: Kind ("prompt", "completion", …) → tokens spent.
        cache_hits: Number of values taken from the cache.
        cache_misses: Number of values that had to be computed.
        created: Time of the run, ISO 8601.
        cost: Cost of chat models in US dollars; None when their price is unknown.
        command: The command that made the report; "" if it was made by a call.
    """

    versions: dict[str, str] = field(default_factory=dict)
    models: dict[str, dict] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    seconds: dict[str, Number] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    cache_hits: int = 0
    cache_misses: int = 0
    created: str = ""
    cost: float | None = None
    command: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", to_plain(self.models))


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
            text, NaN where an image was not in its test. Not serialised.
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


def _check_direction(direction: str) -> None:
    if direction not in ("A", "B"):
        raise InputError(
            f'Expected direction "A" or "B", got {direction!r}; '
            "name the set that the sentence is more true of."
        )
