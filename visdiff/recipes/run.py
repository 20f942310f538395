"""Running a recipe: the comparisons of its sets and the check on held-out images.

A recipe has two parts. Its function ``form`` converts data to `RecipeSets`: pairs of sets, and
notes on excluded images. `run` compares them; `plan_recipe` estimates the cost without computing
anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.many import compare_pairs
from visdiff.comparison.plan import ManyPlan, plan_many
from visdiff.config import Config
from visdiff.files import write_texts
from visdiff.imageset import ImageSet
from visdiff.recipes.heldout import HeldOut, check, hold_out
from visdiff.report.markdown import escape
from visdiff.results import DifferenceReport
from visdiff.results.many import ManyReport, Pair


@dataclass(frozen=True)
class RecipeReport:
    """The result of a recipe.

    Attributes:
        recipe: Its name, such as "imagenet-v2".
        many: The comparisons: the full sets first, then the slices, with one correction over all.
            Its warnings are ``notes`` and the results of the held-out checks in words.
        heldout: The check of each comparison on held-out images; empty without held-out images.
        notes: How the sets were formed: which images were left out, matched or merged.
    """

    recipe: str
    many: ManyReport
    heldout: Mapping[Pair, HeldOut] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def overall(self) -> DifferenceReport | None:
        """The report on the full sets; None when they could not be compared."""
        a, b = self.many.names[:2]
        return self.many.reports.get((a, b))

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        return {
            "recipe": self.recipe,
            "notes": list(self.notes),
            "heldout": [{"a": a, "b": b, **asdict(h)} for (a, b), h in self.heldout.items()],
            "many": self.many.to_dict(),
        }

    def to_json(self, indent: int | None = None) -> str:
        """Returns the result as JSON.

        Args:
            indent: Spaces per level, or None for a single line.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_markdown(self) -> str:
        """Returns the comparisons as Markdown, preceded by the notes and the held-out checks."""
        return f"Recipe: {escape(self.recipe)}\n\n{self.many.to_markdown()}"

    def save(self, directory: str | Path) -> Path:
        """Writes the files of `ManyReport.save` and recipe.json.

        Raises:
            InputError: The folder cannot be written to.
        """
        folder = self.many.save(directory)
        write_texts(folder, {"recipe.json": self.to_json(indent=2) + "\n"})
        return folder


@dataclass(frozen=True)
class RecipeSets:
    """The sets of a recipe, before the comparison.

    Attributes:
        recipe: The recipe's name.
        pairs: The full sets first, then the slices; names are unique.
        config: The configuration of every comparison.
        notes: How the sets were formed, one sentence each.
        held_out: Fraction of every set that is held out for the check; 0 for no check.
        held_out_by: Columns that group images for the held-out split; when empty, the image's
            content or the pair's key.
    """

    recipe: str
    pairs: Sequence[tuple[ImageSet, ImageSet]]
    config: Config
    notes: Sequence[str] = ()
    held_out: float = 0.2
    held_out_by: Sequence[str] = ()


def run(formed: RecipeSets, cache: Cache | None = None, progress: bool = True) -> RecipeReport:
    """Compares the pairs with one correction over all, and checks the confirmed sentences.

    Args:
        formed: The sets and the configuration.
        cache: Cache of captions and embeddings; the user's cache by default.
        progress: Whether to show progress bars on stderr.

    Raises:
        InputError: No pair could be compared, or a setting is invalid.
        MissingBackendError: A library or a model's weights are not available.
    """
    pairs, held_out = _hold_out(formed)
    config = formed.config
    with Backends.using(config, cache, progress) as backends:
        many = compare_pairs(pairs, title=formed.recipe, config=config, backends=backends)
        checks: dict[Pair, HeldOut] = {}
        for a, b in held_out:
            if (report := many.reports.get((a.name, b.name))) is not None:
                checks[a.name, b.name] = check(report, a, b, backends)
    results = [f"{a} and {b}: {h.sentence()}" for (a, b), h in checks.items() if h.sentences]
    notes = tuple(formed.notes)
    return RecipeReport(formed.recipe, replace(many, warnings=(*notes, *results)), checks, notes)


def plan_recipe(formed: RecipeSets) -> ManyPlan:
    """Estimates the maximum cost of `run`, without decoding images or loading models.

    Raises:
        InputError: A setting is invalid, or a backend is not available as configured.
    """
    pairs, held_out = _hold_out(formed)
    config = formed.config
    return plan_many(pairs, config, held_out)


def _hold_out(
    formed: RecipeSets,
) -> tuple[list[tuple[ImageSet, ImageSet]], list[tuple[ImageSet, ImageSet]]]:
    """Returns the pairs to compare, and the held-out pairs (if any)."""
    config = formed.config
    key = tuple(formed.held_out_by) or config.paired_by
    if not key and config.group_by is not None:
        key = (config.group_by,)
    pairs, held_out = [], []
    for a, b in formed.pairs:
        compared, rest = hold_out(a, b, formed.held_out, key)
        pairs.append(compared)
        held_out.append(rest)
    return pairs, held_out if formed.held_out else []
