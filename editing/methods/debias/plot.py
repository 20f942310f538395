"""The history of a debiasing loop as a figure: each concept's distance from its ratios."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from visdiff.errors import InputError

if TYPE_CHECKING:
    from editing.methods.debias import Debiased


def plot(found: "Debiased", axes: Any = None) -> Any:
    """Draws Δ of every concept over the rounds; a filled dot is a concept that is done.

    Args:
        found: What `editing.methods.debias.debias` returned.
        axes: Matplotlib axes to draw on; new ones when None.

    Returns:
        The axes.
    """
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(7, 4), layout="constrained").add_subplot()
    for concept in dict.fromkeys(look.concept for look in found.looks):
        mine = [look for look in found.looks if look.concept == concept]
        rounds, values = [k.round for k in mine], [k.delta.value for k in mine]
        (line,) = axes.plot(rounds, values, "-", label=concept)
        for look in mine:
            face = line.get_color() if look.done else "white"
            axes.plot(look.round, look.delta.value, "o", color=line.get_color(), mfc=face)
    axes.set_xlabel("round (0: unedited)")
    axes.set_ylabel("Δ from the wanted ratios")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small", ncols=2, frameon=False)
    return axes


def save(found: "Debiased", path: str | Path) -> Path:
    """Writes the figure; the name's ending says in which format.

    Raises:
        InputError: The file cannot be written, or no such format is known.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plot(found).figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected a file for the figure, such as history.svg, got {path}: {error}."
        ) from error
    return path
