"""What is published of DreamBench: its subjects with their nouns, and values of other systems."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal


@dataclass(frozen=True)
class Nouns:
    """The class nouns of a subject.

    Attributes:
        vague: That of the released data, "stuffed animal".
        specific: That of He et al. (arXiv:2311.04315, table 3), "bear plushie"; the same noun where
            they do not rename it.
        kind: What the noun names.
    """

    vague: str
    specific: str
    kind: Literal["thing", "living"]


@dataclass(frozen=True)
class Published:
    """The published means of one system over all subjects.

    Attributes:
        system: The method and its base model.
        dino: DINO.
        clip_i: CLIP-I.
        clip_t_vague: CLIP-T with the nouns of the released data.
        clip_t_specific: CLIP-T with the specific nouns.
    """

    system: str
    dino: float
    clip_i: float
    clip_t_vague: float
    clip_t_specific: float


def subjects() -> dict[str, Nouns]:
    """Returns name → nouns of the 30 subjects, in the order of the released file."""
    return {
        row["name"]: Nouns(row["vague"], row["specific"] or row["vague"], row["kind"])
        for row in _data()["subjects"]
    }


def published() -> tuple[Published, ...]:
    """Returns the published table; its first row is real images against real images."""
    return tuple(Published(**row) for row in _data()["published"])


@cache
def _data() -> dict[str, Any]:
    text = (resources.files("editing.metrics") / "dreambench.toml").read_text("utf-8")
    return tomllib.loads(text)
