"""Small random subjects for the tests of personalisation."""

from typing import Any

import numpy as np
from PIL import Image

from editing.personalize.personalizer import Personalizer
from editing.personalize.subject import Subject


def images(count: int = 3, size: tuple[int, int] = (24, 20), seed: int = 0) -> list[Image.Image]:
    """Returns random RGB images of a width and height."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [Image.fromarray(b).resize(size, Image.Resampling.BICUBIC) for b in blocks]


def subject(identifier: str = "olis", noun: str = "dog", seed: int = 0, **more: Any) -> Subject:
    """Returns a subject of three images."""
    return Subject.open(images(seed=seed, **more), identifier, noun)


def stop_at(step: int) -> Any:
    """Returns a callback that interrupts a training once the state of a step is saved."""
    from editing.training import Saved

    def on_event(event: Any) -> None:
        if isinstance(event, Saved) and event.done == step:
            raise InterruptedError

    return on_event


def fit(method: str, pipe: Any, taught: Any = None, **settings: Any) -> Any:
    """Returns the edit of a short training without class images, on a tiny pipeline."""
    from editing.personalize import find

    own = {"rank": 2} if method == "lora" else {}
    found: Personalizer = find(method)
    given = {"prior": "none", "steps": 2, "lr": 1e-2, **own, **settings}
    return found.fit(pipe, subject() if taught is None else taught, **given)
