"""Experiment trackers (TensorBoard, Weights & Biases, trackio, …) as an event callback."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from editing.training.events import OnEvent, Sampled, Stepped, Validated
from visdiff.errors import InputError
from visdiff.files import explained

_PIP_NAMES = {"comet_ml": "comet-ml"}
"""Name of a tracker → name of its package, where they differ."""


@contextmanager
def tracker(
    names: Sequence[str], folder: Path, project: str, config: Mapping[str, Any]
) -> Iterator[OnEvent]:
    """Yields an event callback that forwards a training to trackers of accelerate.

    Losses, their parts, the norm of the gradient, the learning rate and the validation loss are
    logged as numbers, and sample grids as images, or as files or their paths by a tracker without
    images. Other events are ignored. The runs are finished at the end of the block.

    Args:
        names: Trackers, such as "tensorboard", "wandb" and "trackio"; those of `accelerate`.
        folder: Folder of the trackers that write files.
        project: Name of the project.
        config: Settings of the run; values that are no numbers or texts are stored as text.

    Raises:
        InputError: A name is unknown, a package is missing, or the folder cannot be written to.
    """
    settings = {
        name: value if isinstance(value, str | int | float) else str(value)
        for name, value in config.items()
    }
    classes = [_tracker_class(name) for name in dict.fromkeys(names)]
    started: list[Any] = []
    try:
        for kind in classes:
            where = [str(folder)] if kind.requires_logging_directory else []
            with explained("a folder for the trackers that can be written to", folder):
                if where:
                    folder.mkdir(parents=True, exist_ok=True)
                one = kind(project, *where)
                one.start()
                started.append(one)
                one.store_init_configuration(dict(settings))

        def on_event(event: Any) -> None:
            for one in started:
                _forward(one, event)

        yield on_event
    finally:
        for one in started:
            one.finish()


def _tracker_class(name: str) -> Any:
    """Returns the class of a tracker by its name.

    Raises:
        InputError: The name is unknown, or the package is missing.
    """
    from accelerate import tracking

    known = tracking.LOGGER_TYPE_TO_CLASS
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"Expected a tracker among {', '.join(sorted(known))}, got {name!r}{hint}; choose one "
            "of these."
        )
    available = [str(own) for own in tracking.get_available_trackers()]
    # Classes that were registered by others bring their package.
    if known[name].__module__ == tracking.__name__ and name not in available:
        package = _PIP_NAMES.get(name, name)
        raise InputError(
            f"Expected the package of the tracker {name}, got none installed; run `pip install "
            f"{package}`, or leave the tracker out."
        )
    return known[name]


def _forward(one: Any, event: Any) -> None:
    match event:
        case Stepped():
            values = {
                "loss": event.loss,
                "gradient": event.gradient,
                "rate": event.rate,
                "seconds": event.seconds,
            }
            parts = {f"parts/{name}": mean for name, mean in event.parts.items()}
            one.log(values | parts, step=event.done)
        case Validated():
            one.log({"validation": event.loss}, step=event.done)
        case Sampled():
            _log_image(one, event)
        case _:
            pass


def _log_image(one: Any, event: Sampled) -> None:
    """Logs a sample grid in the form that a tracker expects."""
    import numpy as np
    from PIL import Image

    if not hasattr(one, "log_images"):
        if hasattr(one, "log_artifact"):
            one.log_artifact(str(event.path))
        else:
            one.log({"samples": str(event.path)}, step=event.done)
        return
    with explained("an image of samples", event.path), Image.open(event.path) as image:
        pixels = np.asarray(image.convert("RGB"))
    match one.name:
        case "tensorboard":
            one.log_images({"samples": pixels[None]}, step=event.done, dataformats="NHWC")
        case "aim" | "clearml":
            one.log_images({"samples": pixels}, step=event.done)
        case _:
            one.log_images({"samples": [pixels]}, step=event.done)
