"""The result of a debiasing loop: the edit and the history of its rounds."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from editing.edit import Edit
from editing.methods.debias.history import Evaluation
from visdiff.results.views import summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Debiased:
    """The result of the loop.

    Attributes:
        edit: The edit with the best weights of each concept.
        evaluations: The history, in order of rounds.
        images: Total number of images drawn.
        original_recipe: Least number of images that the published loop draws: ten of every concept
            in every round that this loop took.
    """

    edit: Edit
    evaluations: tuple[Evaluation, ...]
    images: int
    original_recipe: int = field(default=0)

    def __repr__(self) -> str:
        last = {e.concept: e for e in self.evaluations}
        rows = [
            f"{e.concept}: {', '.join(f'{a} {n}' for a, n in e.counts.items())} of {e.delta.n}, "
            f"Δ {e.delta.value:.2f}{'' if e.done else ', not done'}"
            for e in last.values()
        ]
        done = f"{len(last) - len(self.unfinished)} of {len(last)} concepts have their ratios"
        return summary(done, [f"{self.images} images drawn"], rows, self.edit.warnings)

    def plot(self, ax: "Axes | None" = None, style: str = "light") -> "Figure":
        """Returns the distance of each concept from its ratios over the rounds as a figure.

        Args:
            ax: Axes to draw on; new ones when None.
            style: "light" or "dark".
        """
        from editing.methods.debias.plot import plot

        return plot(self, ax, style)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Concepts that were not done in any round."""
        done = {evaluation.concept for evaluation in self.evaluations if evaluation.done}
        return tuple(dict.fromkeys(x.concept for x in self.evaluations if x.concept not in done))

    def to_frame(self) -> "pd.DataFrame":
        """Returns the history, one row per round, concept and attribute."""
        import pandas as pd

        rows = [
            {
                "round": evaluation.round,
                "concept": evaluation.concept,
                "attribute": attribute,
                "weight": evaluation.weights[attribute],
                "count": count,
                "n": evaluation.delta.n,
                "share": count / evaluation.delta.n,
                "delta": evaluation.delta.value,
                "done": evaluation.done,
            }
            for evaluation in self.evaluations
            for attribute, count in evaluation.counts.items()
        ]
        return pd.DataFrame(rows)
