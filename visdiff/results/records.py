"""The parts of a comparison's result, as frozen dataclasses."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from visdiff.errors import InputError
from visdiff.results.plain import Number, to_plain

Direction = Literal["A", "B"]


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


#: Columns of `visdiff.results.DifferenceReport.scores` that are no hypotheses.
IMAGE_COLUMNS = ("set", "id", "half")


def score_column(text: str) -> str:
    """Returns the name of the column of a hypothesis' scores: its text, unless that is taken."""
    return f"{text} (score)" if text in IMAGE_COLUMNS else text


def _check_direction(direction: str) -> None:
    if direction not in ("A", "B"):
        raise InputError(
            f'Expected direction "A" or "B", got {direction!r}; '
            "name the set that the sentence is more true of."
        )
