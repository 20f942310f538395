"""The history of a debiasing loop: its looks, in memory and in a file that it goes on from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from editing.metrics.ratios import Delta
from visdiff.errors import InputError


@dataclass(frozen=True)
class Evaluation:
    """One concept in one round.

    Attributes:
        round: From 0, the unedited model.
        concept: The concept.
        weights: Attribute → weight of its value in this round.
        counts: Attribute → images that showed it.
        scores: Of each image and attribute, by the scorer.
        delta: Distance from the wanted ratios.
        done: Whether the images could not be told from the wanted ratios.
    """

    round: int
    concept: str
    weights: Mapping[str, float]
    counts: Mapping[str, int]
    scores: tuple[tuple[float, ...], ...]
    delta: Delta
    done: bool


class History:
    """Looks in a file, JSON lines, each written as soon as it is made.

    Args:
        path: The file, made if there is none; None to keep nothing.
        about: What the looks depend on; the first line has it.

    Raises:
        InputError: The file cannot be read or written, or is of another loop.
    """

    def __init__(self, path: Path | None, about: str) -> None:
        self._path = path
        self._known: dict[tuple[int, str], Evaluation] = {}
        if path is None:
            return
        try:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._write(path, {"about": about}, "x")
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            # A killed process may have left half a line.
            if lines and not lines[-1].endswith("\n"):
                path.write_text("".join(lines[:-1]), encoding="utf-8")
                lines = lines[:-1]
            first, *rest = [json.loads(line) for line in lines]
            looks = [
                Evaluation(**{**row, "scores": tuple(map(tuple, row["scores"])),
                        "delta": Delta(**row["delta"])})
                for row in rest
            ]  # fmt: skip
        except OSError as error:
            raise InputError(
                f"Expected a file to keep looks in, got {path}: {error.strerror}."
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"Expected looks of a debiasing loop in {path}, got something else; name another "
                "file."
            ) from error
        if first != {"about": about}:
            raise InputError(
                f"Expected the looks of this very loop in {path}, got another's: model, requests, "
                "scorer or settings differ; name another file."
            )
        self._known = {(look.round, look.concept): look for look in looks}

    def find(self, turn: int, concept: str, weights: Mapping[str, float]) -> Evaluation | None:
        """Returns a look that was made with these weights before."""
        look = self._known.get((turn, concept))
        same = look is not None and np.allclose(
            [*look.weights.values()], [*weights.values()], rtol=0, atol=1e-9
        )
        return look if same else None

    def add(self, look: Evaluation) -> None:
        """Keeps a look."""
        if self._path is not None:
            try:
                self._write(self._path, asdict(look), "a")
            except OSError as error:
                raise InputError(
                    f"Expected room for a look in {self._path}, got none: {error.strerror}."
                ) from error

    @staticmethod
    def _write(path: Path, row: Mapping[str, Any], mode: str) -> None:
        with path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
