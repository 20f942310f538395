"""The history of a debiasing loop as a figure: the distance of each concept from its ratios."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visdiff.errors import InputError
from visdiff.files import explained, write_whole

if TYPE_CHECKING:
    from editing.methods.debias import Debiased


def plot(result: "Debiased", axes: Any = None) -> Any:
    """Plots Δ of every concept over the rounds; a filled dot marks a concept that is done.

    Args:
        result: The result of `editing.methods.debias.debias`.
        axes: Matplotlib axes to draw on; new ones when None.

    Returns:
        The axes.
    """
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(7, 4), layout="constrained").add_subplot()
    for concept in dict.fromkeys(evaluation.concept for evaluation in result.evaluations):
        own = [evaluation for evaluation in result.evaluations if evaluation.concept == concept]
        rounds, values = [k.round for k in own], [k.delta.value for k in own]
        (line,) = axes.plot(rounds, values, "-", label=concept)
        for evaluation in own:
            face = line.get_color() if evaluation.done else "white"
            axes.plot(
                evaluation.round, evaluation.delta.value, "o", color=line.get_color(), mfc=face
            )
    axes.set_xlabel("round (0: unedited)")
    axes.set_ylabel("Δ from the wanted ratios")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small", ncols=2, frameon=False)
    return axes


def save(result: "Debiased", path: str | Path) -> Path:
    """Writes the figure in the format given by the suffix of the path.

    Raises:
        InputError: The file cannot be written, or the format is unknown.
    """
    path = Path(path)
    buffer = BytesIO()
    try:
        plot(result).figure.savefig(buffer, format=path.suffix.lstrip(".") or None)
    except ValueError as error:
        raise InputError(
            f"Expected a file for the figure such as history.svg, got {path} ({error}); name "
            "another file."
        ) from error
    with explained("a writable file for the figure, such as history.svg", path):
        write_whole(path, buffer.getvalue())
    return path
