"""What every recipe does with the sets that it has formed: compare together, check on the rest.

A recipe has two parts. Its ``form`` turns data into a `Formed`: pairs of sets, and what was left
out of them. `run` compares them; `planned` says what that would take, and computes nothing.
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
from visdiff.imageset import ImageSet
from visdiff.recipes.heldout import HeldOut, check, hold_out
from visdiff.report.markdown import escape
from visdiff.results import DifferenceReport
from visdiff.results.many import ManyReport, Pair, write


@dataclass(frozen=True)
class RecipeReport:
    """The result of a recipe.

    Attributes:
        recipe: Its name, such as "imagenet-v2".
        many: The comparisons: the whole sets first, then the slices; one correction over all. Its
            warnings are ``notes`` and the checks in words.
        heldout: The check of each comparison on images that were put aside; empty when none were.
        notes: How the sets were formed: what was left out, matched or merged.
    """

    recipe: str
    many: ManyReport
    heldout: Mapping[Pair, HeldOut] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def overall(self) -> DifferenceReport | None:
        """The report on the whole sets; None when they could not be compared."""
        a, b = self.many.names[:2]
        return self.many.reports.get((a, b))

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "recipe": self.recipe,
            "notes": list(self.notes),
            "heldout": [{"a": a, "b": b, **asdict(h)} for (a, b), h in self.heldout.items()],
            "many": self.many.to_dict(),
        }

    def to_json(self, indent: int | None = None) -> str:
        """The result as JSON.

        Args:
            indent: Spaces per level, or None for one line.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_markdown(self) -> str:
        """The comparisons as Markdown, the notes and the checks at the head."""
        return f"Recipe: {escape(self.recipe)}\n\n{self.many.to_markdown()}"

    def save(self, directory: str | Path) -> Path:
        """Writes what `ManyReport.save` writes, and recipe.json.

        Raises:
            InputError: The folder cannot be written to.
        """
        folder = self.many.save(directory)
        write(folder, {"recipe.json": self.to_json(indent=2) + "\n"})
        return folder


@dataclass(frozen=True)
class Formed:
    """The sets of a recipe, before anything is compared.

    Attributes:
        recipe: The recipe's name.
        pairs: The whole sets first, then the slices; a pair's names occur once.
        config: The configuration of every comparison.
        notes: Sentences on how the sets were formed.
        held_out: Share of every set that neither proposes nor tests; 0 for no check.
        held_out_by: Columns whose values are put aside as a whole; the image's content, or the
            pair's key, when empty.
    """

    recipe: str
    pairs: Sequence[tuple[ImageSet, ImageSet]]
    config: Config
    notes: Sequence[str] = ()
    held_out: float = 0.2
    held_out_by: Sequence[str] = ()


def run(formed: Formed, cache: Cache | None = None, progress: bool = True) -> RecipeReport:
    """Compares the pairs with one correction over all, and checks what they confirm.

    Args:
        formed: The sets, and how to compare them.
        cache: Where captions and embeddings are kept; the user's cache by default.
        progress: Show progress bars on stderr.

    Raises:
        InputError: No pair could be compared, or a setting does not fit.
        MissingBackendError: A library or a model's weights are not available.
    """
    kept, aside, config = _cut(formed)
    with Backends.using(config, cache, progress) as backends:
        many = compare_pairs(kept, title=formed.recipe, config=config, backends=backends)
        checks: dict[Pair, HeldOut] = {}
        for a, b in aside:
            if (report := many.reports.get((a.name, b.name))) is not None:
                checks[a.name, b.name] = check(report, a, b, backends)
    told = [f"{a} and {b}: {h.sentence()}" for (a, b), h in checks.items() if h.sentences]
    notes = tuple(formed.notes)
    return RecipeReport(formed.recipe, replace(many, warnings=(*notes, *told)), checks, notes)


def planned(formed: Formed) -> ManyPlan:
    """Says what `run` would take at most; decodes no image and loads no model.

    Raises:
        InputError: A setting does not fit, or a backend cannot be had as it is configured.
    """
    kept, aside, config = _cut(formed)
    return plan_many(kept, config, aside)


def _cut(
    formed: Formed,
) -> tuple[list[tuple[ImageSet, ImageSet]], list[tuple[ImageSet, ImageSet]], Config]:
    """The pairs to compare, what is put aside of each (none without a check), the configuration."""
    config = formed.config
    key = tuple(formed.held_out_by) or config.paired_by
    kept, aside = [], []
    for a, b in formed.pairs:
        to_compare, put_aside, config = hold_out(a, b, formed.held_out, formed.config, key)
        kept.append(to_compare)
        aside.append(put_aside)
    return kept, aside if formed.held_out else [], config
