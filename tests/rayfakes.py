"""Models for the tests of the Ray engine; in a module of their own, so that workers find them."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visdiff.engine import Refused
from visdiff.errors import MissingBackendError


class Means:
    """Mean colours; refuses the dark, says who computed what, and can be killed once.

    With `processes`, a call ends only after as many processes have begun one: on a busy machine the
    first process would compute everything before the second one is ready.
    """

    kind = "test-means"
    device = "cpu"

    def __init__(
        self, log: Path, dies: bool = False, weights: bool = True, processes: int = 1
    ) -> None:
        self.identity = {"model": "means"}
        self.log = log
        self.dies = dies
        self.weights = weights
        self.processes = processes

    def prepare(self, image: Image.Image) -> np.ndarray:
        if not self.weights:
            raise MissingBackendError("the weights are not here")
        return np.asarray(image, np.float32).mean(axis=(0, 1))

    def __call__(self, batch: list[np.ndarray]) -> Sequence[Any]:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {len(batch)}\n")
        end = time.monotonic() + 60
        while len({process for process, _ in self.calls()}) < self.processes:
            assert time.monotonic() < end, "the other processes have computed nothing"
            time.sleep(0.01)
        died = self.log.with_suffix(".died")
        if self.dies and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [Refused("too dark") if v.mean() < 40 else v for v in batch]

    def calls(self) -> list[tuple[int, int]]:
        """Process and number of images of each call."""
        if not self.log.exists():
            return []
        return [(int(p), int(n)) for p, n in (r.split() for r in self.log.read_text().splitlines())]


class Names(Means):
    """Texts in place of vectors, and lists."""

    kind = "test-names"

    def __call__(self, batch: list[np.ndarray]) -> Sequence[Any]:
        return [f"naïve “{v.mean():.3f}”" if v.mean() > 128 else [1, "two"] for v in batch]
