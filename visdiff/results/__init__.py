"""What a comparison returns: frozen records, and one report with several doors.

Everything here is plain data. The records hold no model, no open file and no array, so that a
report can be compared with ``==``, written as JSON and read back years later. Three things ride
along without being serialised (``scores``, ``thumbnails`` and ``captions``), because they are bulky
and the renderers want them.

Set A and set B are the first and the second argument of the comparison. ``direction`` always names
the set a sentence is *more true of*, and AUROC, interval and tests are oriented by it: an AUROC
above 0.5 speaks for the sentence whichever set it is about.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from visdiff.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    Frame = pd.DataFrame
else:
    Frame = Any  # pydantic reads the annotations, and this module loads no pandas

#: Of the JSON that is written. Version 2 added what a second ranker says of a difference.
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
    """A sentence that is claimed to be more true of one set than of the other.

    Attributes:
        text: The sentence or phrase, as the proposer wrote it.
        direction: The set, "A" or "B", that it is claimed to be more true of.
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
    """A scored difference: the representative of a group of sentences that say the same thing.

    Attributes:
        text: The sentence.
        direction: The set it is more true of, "A" or "B".
        auroc: Chance, in [0, 1], that a random image of ``direction``'s set scores higher than a
            random image of the other set, ties counting half.
        ci_low: Lower end of the AUROC's interval, oriented like ``auroc``.
        ci_high: Upper end.
        p_value: One-sided p-value, alternative "truer of ``direction``'s set".
        q_value: The same after Benjamini–Hochberg over every candidate scored in the run.
        confirmed: Whether it passed the thresholds on images that did not propose it.
        mean_a: Mean score over the images of A.
        mean_b: Mean score over the images of B.
        n_a: Images of A that were scored.
        n_b: Images of B that were scored.
        n_unscored: Images of both sets that have no score (a failure is never data).
        synonyms: The other sentences of the group.
        evidence_a: Ids of the most telling images of A, best first.
        evidence_b: Ids of the most telling images of B, best first.
        proposer: Name of the proposer it came from.
        round: Round of proposals it came from, from 1.
        verify_auroc: The second ranker's AUROC on the same images, oriented like ``auroc``; None
            where there is no second ranker, nothing confirmed to check, or nothing it could score.
        verify_ci_low: Lower end of its interval, or None.
        verify_ci_high: Upper end, or None.
        verify_n_unscored: Images that the second ranker has no score of.
        disputed: Whether the second ranker disagrees: its interval does not lie above 0.5. None
            where it says nothing. It does not change ``confirmed``.
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
        direction: The set it was claimed to be more true of.
        reason: Why it was left out, in words.
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
    """What one of the two sets was.

    Attributes:
        name: The set's name, as shown to the reader.
        source: Where it came from (a folder, a manifest, "list of images").
        n: Images in the set.
        n_discovery: Images that hypotheses were proposed from.
        n_scored: Images that numbers were computed on.
        n_unreadable: Images that could not be decoded.
        where: The filter on manifest columns that selected the set.
    """

    name: str
    source: str
    n: int
    n_discovery: int
    n_scored: int
    n_unreadable: int = 0
    where: dict[str, Any] = field(default_factory=dict)


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
        """AUROC that the image features have and the sentences lack; None when one is missing."""
        if self.images is None or self.sentences is None:
            return None
        gap = self.images - self.sentences
        return gap if math.isfinite(gap) else None


@dataclass(frozen=True)
class NullRun:
    """The same run with set membership shuffled, ``repeats`` times.

    Attributes:
        repeats: How many shuffled runs there were.
        with_any_confirmed: How many of them confirmed at least one "difference".
        confirmed_per_repeat: Number confirmed in each.
    """

    repeats: int
    with_any_confirmed: int
    confirmed_per_repeat: tuple[int, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """What produced a report, in enough detail to produce it again.

    Attributes:
        versions: Package name → version.
        models: Role → what is known of the model (id, revision, weight hash, parameters).
        prompts: Prompt id → hash.
        seed: Seed of the run.
        device: Device the models ran on; "none" when the cache had every answer.
        seconds: Stage → wall-clock seconds.
        tokens: Kind ("prompt", "completion", …) → tokens spent.
        cache_hits: Values taken from the cache.
        cache_misses: Values that had to be computed.
        created: Time of the run, ISO 8601.
        cost: US dollars that a chat model took, as far as its price is known; None when it is not.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", to_plain(self.models))


@dataclass(frozen=True)
class DifferenceReport:
    """The result of comparing two sets of images.

    Attributes:
        verdict: The result in one sentence.
        differences: One a group of synonyms, confirmed first, then by AUROC.
        rejected: Candidates that were left out, with reasons.
        separability: How different the sets are, and how much the sentences explain.
        set_a: The first set.
        set_b: The second set.
        minimum_detectable_auroc: Smallest AUROC that this many images could have detected with
            power 0.8, or None.
        paired_by: Columns that pair an image of A with one of B; empty when unpaired.
        double_dipped: True when there were too few images for two halves, so that the same images
            proposed and tested; nothing is confirmed then.
        preflight: `visdiff.comparison.preflight.Preflight.to_dict()`.
        null: The shuffled runs, when asked for.
        unanswered: Why questions of the proposer had no answer, one each: the report may lack what
            they would have brought.
        config: The run's configuration.
        provenance: What produced the report.
        warnings: Sentences the reader must see.
        schema_version: Version of the JSON layout that it was written in.
        scores: One row an image: ``set`` ("A" or "B"), ``id``, ``half`` ("discovery", "scoring", or
            "both" when double-dipped), then one float column per hypothesis text. Not serialised.
        thumbnails: PNG bytes by "A/<id>" or "B/<id>". Not serialised.
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
    preflight: dict = field(default_factory=dict)
    null: NullRun | None = None
    unanswered: tuple[str, ...] = ()
    config: dict = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    warnings: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
    scores: Frame | None = field(default=None, compare=False, repr=False)
    thumbnails: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    captions: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Tuples, numpy scalars and paths become JSON values here, so that a report read back from
        # its JSON equals the one that was written.
        object.__setattr__(self, "preflight", to_plain(self.preflight))
        object.__setattr__(self, "config", to_plain(self.config))

    @property
    def confirmed(self) -> tuple[Difference, ...]:
        """The confirmed differences, in the report's order."""
        return tuple(d for d in self.differences if d.confirmed)

    def to_frame(self) -> "pd.DataFrame":
        """The differences as a table, one row each, in the report's order.

        Returns:
            A frame with the fields of `Difference` as columns; tuples are lists of strings.
        """
        import pandas as pd

        columns = [f.name for f in dataclasses.fields(Difference)]
        rows = [[getattr(d, c) for c in columns] for d in self.differences]
        frame = pd.DataFrame(rows, columns=pd.Index(columns))
        for column in ("synonyms", "evidence_a", "evidence_b"):
            frame[column] = frame[column].map(list)
        return frame

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values: dicts, lists, strings, finite numbers, booleans and None."""
        return to_plain(self, _NOT_SERIALISED)

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON; NaN and infinities are written as null.

        Args:
            indent: Spaces per level, or None for one line.
        """
        data = self.to_dict()
        text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
        try:
            text.encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8: only an escape can hold it
            text = json.dumps(data, indent=indent, allow_nan=False)
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what `to_json` wrote; null becomes NaN where a number is required.

        Fields that this version does not know are ignored, so that a newer minor version's report
        still opens. A report of schema version 1 opens too: no second ranker has checked it.
        Scores, thumbnails and captions are not in the JSON and come back empty.

        Raises:
            InputError: It is not JSON, not a report, or of a schema version this one cannot read.
        """
        try:
            data = json.loads(text)
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

    def to_markdown(self) -> str:
        """The report as Markdown, for a pull request, a chat or a language model."""
        from visdiff.report.markdown import render_markdown

        return render_markdown(self)

    def to_html(self) -> str:
        """The report as one self-contained HTML page that opens offline."""
        from visdiff.report.html import render_html

        return render_html(self)

    def save(self, directory: str | Path) -> Path:
        """Writes report.html, report.json, report.md, differences.csv and scores.parquet.

        Args:
            directory: Folder to write into, made when missing. Files of these names are replaced.

        Returns:
            The folder.

        Raises:
            InputError: The folder cannot be written to.
        """
        from visdiff.report.folder import write_folder

        return write_folder(self, directory)

    def _repr_html_(self) -> str:
        # A notebook calls this whenever a cell shows the report: a small table, no images.
        from visdiff.report.html import render_fragment

        return render_fragment(self)


@cache
def _reader(report: type[DifferenceReport]) -> TypeAdapter[Any]:
    return TypeAdapter(report)


def _check_direction(direction: str) -> None:
    if direction not in ("A", "B"):
        raise InputError(
            f'Expected direction "A" or "B", got {direction!r}; '
            "name the set that the sentence is truer of."
        )
