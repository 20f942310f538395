"""The history of a debiasing loop: its evaluations, in memory and in a checkpoint file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from editing.metrics.ratios import Delta
from visdiff.errors import InputError
from visdiff.files import append_line, explained, load_json, read_whole, utf8, write_whole


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one concept in one round.

    Attributes:
        round: Number of the round; 0 is the unedited model.
        concept: The concept.
        weights: Attribute → weight of its value in this round.
        counts: Attribute → number of images that show it.
        scores: Score of each image and attribute.
        delta: Distance from the wanted ratios.
        done: Whether the images are consistent with the wanted ratios.
    """

    round: int
    concept: str
    weights: Mapping[str, float]
    counts: Mapping[str, int]
    scores: tuple[tuple[float, ...], ...]
    delta: Delta
    done: bool


class History:
    """Evaluations in a JSON Lines file, each written as soon as it is made.

    Args:
        path: The file, created if missing; None for no file.
        about: Hash of everything that the evaluations depend on, stored in the first line.

    Raises:
        InputError: The file cannot be read or written, or belongs to another loop.
    """

    def __init__(self, path: Path | None, about: str) -> None:
        self._path = path
        self._known: dict[tuple[int, str], Evaluation] = {}
        if path is None:
            return
        with explained("a writable file for evaluations", path, "name another file"):
            if not path.is_file():
                write_whole(path, utf8(json.dumps({"about": about}, ensure_ascii=False) + "\n"))
            data = read_whole(path)
            complete = data[: data.rfind(b"\n") + 1]
            # A killed process may have left half a line.
            if len(complete) < len(data):
                write_whole(path, complete)
        try:
            lines = complete.decode("utf-8").split("\n")[:-1]
            first, *rest = [load_json(line) for line in lines]
            evaluations = [
                Evaluation(**{**row, "scores": tuple(map(tuple, row["scores"])),
                        "delta": Delta(**row["delta"])})
                for row in rest
            ]  # fmt: skip
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"Expected evaluations of a debiasing loop in {path}, got something else; name "
                "another file."
            ) from error
        if first != {"about": about}:
            raise InputError(
                f"Expected the evaluations of the same loop in {path}, got those of another one "
                "(model, requests, scorer or settings differ); name another file."
            )
        self._known = {
            (evaluation.round, evaluation.concept): evaluation for evaluation in evaluations
        }

    def find(
        self, round_number: int, concept: str, weights: Mapping[str, float]
    ) -> Evaluation | None:
        """Returns an earlier evaluation at these weights, in their order, or None."""
        evaluation = self._known.get((round_number, concept))
        if evaluation is None or evaluation.weights.keys() != weights.keys():
            return None
        evaluation = _in_order(evaluation, list(weights))
        same = np.allclose([*evaluation.weights.values()], [*weights.values()], rtol=0, atol=1e-9)
        return evaluation if same else None

    def add(self, evaluation: Evaluation) -> None:
        """Appends an evaluation to the file."""
        if self._path is not None:
            with explained("a file for evaluations that can be appended to", self._path):
                append_line(self._path, utf8(json.dumps(asdict(evaluation), ensure_ascii=False)))


def _in_order(evaluation: Evaluation, attributes: list[str]) -> Evaluation:
    """Returns an evaluation with its attributes in an order, in which equal requests differ."""
    places = [list(evaluation.weights).index(a) for a in attributes]
    return replace(
        evaluation,
        weights={a: evaluation.weights[a] for a in attributes},
        counts={a: evaluation.counts[a] for a in attributes},
        scores=tuple(tuple(row[i] for i in places) for row in evaluation.scores),
    )
