"""Captions from a template grammar with synonyms, with or without a planted concept.

Every slot of a template is a choice between concepts with Zipf-like frequencies, and every concept
has several wordings. The captions are therefore as repetitive as those of a captioner, but a
concept is not one string.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Slot = Literal["with", "where", "adjective", "doing"]


@dataclass(frozen=True)
class Concept:
    """A concept that can be planted.

    Attributes:
        names: Words that name it; a phrase that contains one of them is a correct answer.
        slot: The part of a caption that it fills.
        wordings: Its forms in a caption, the most frequent one first.
    """

    names: tuple[str, ...]
    slot: Slot
    wordings: tuple[str, ...]


_SUBJECTS = (
    ("man", "guy", "person"), ("woman", "lady", "person"), ("dog", "puppy"),
    ("child", "kid", "boy"),
    ("cat", "kitten"), ("girl", "young girl"), ("group of people", "crowd"), ("bird", "small bird"),
    ("couple", "man and a woman"), ("horse", "pony"), ("car", "vehicle"), ("train", "locomotive"),
    ("cow", "calf"), ("bus", "coach"), ("elephant", "baby elephant"), ("sheep", "lamb"),
    ("chair", "wooden chair"), ("truck", "pickup truck"), ("bear", "brown bear"),
    ("clock", "tower"),
)  # fmt: skip
_ACTIONS = (
    ("standing", "that stands"), ("sitting", "seated"), ("walking", "strolling"), ("looking up",),
    ("lying down", "resting"), ("waiting", "parked"), ("running", "jogging"),
    ("eating", "feeding"),
    ("playing", "having fun"), ("posing", "smiling"), ("sleeping", "asleep"),
    ("jumping", "leaping"),
)  # fmt: skip
_PLACES = (
    ("on a street", "on the road", "on a city street"), ("in a room", "in a living room"),
    ("in a field", "in the grass", "on the grass"), ("on a table", "on the table"),
    ("in a park", "at the park"), ("near a building", "in front of a building"),
    ("on a bench", "on a park bench"), ("by a window", "next to a window"),
    ("by the water", "near a lake"), ("on a bed", "on the couch"), ("near a tree", "under a tree"),
    ("at a station", "on a platform"), ("next to a fence", "behind a fence"), ("in a store",),
)  # fmt: skip
_OBJECTS = (
    ("a bag", "a backpack"), ("a ball", "a tennis ball"), ("a cup", "a glass"), ("a book", "books"),
    ("a bottle", "bottles"), ("a box", "boxes"), ("a plate of food", "a plate"), ("a camera",),
    ("a racket", "a bat"), ("a toy", "a teddy bear"), ("a shirt", "a jacket"), ("a sign", "signs"),
    ("a rope", "a leash"), ("glasses", "sunglasses"), ("a vase", "a bowl"), ("a basket",),
)  # fmt: skip
_ADJECTIVES = (
    ("white",), ("black",), ("small", "little"), ("large", "big"), ("young",), ("brown", "tan"),
    ("blue",), ("old",), ("black and white",), ("colorful",), ("tall",), ("wet",),
)  # fmt: skip

CONCEPTS: Sequence[Concept] = (
    Concept(("umbrella", "parasol"), "with", ("an umbrella", "a parasol", "umbrellas")),
    Concept(("snow", "snowy"), "where", ("in the snow", "in the snow", "on a snowy hill")),
    Concept(("bicycle", "bike"), "with", ("a bicycle", "a bike", "bikes")),
    Concept(("kite",), "with", ("a kite", "kites", "a large kite")),
    Concept(("balloon",), "with", ("balloons", "a balloon", "a balloon")),
    Concept(("beach", "sand", "ocean"), "where", ("on the beach", "on a sandy beach", "on sand")),
    Concept(("red",), "adjective", ("red", "red", "red")),
    Concept(("cell", "phone"), "with", ("a cell phone", "a phone", "a cell phone")),
    Concept(("night", "dark"), "where", ("at night", "at night", "in the dark")),
    Concept(("laptop", "computer"), "with", ("a laptop", "a laptop computer", "a computer")),
    Concept(("pizza",), "with", ("a pizza", "a slice of pizza", "pizza")),
    Concept(("kitchen",), "where", ("in a kitchen", "in the kitchen", "on a kitchen counter")),
    Concept(("skateboard", "skateboarding"), "with", ("a skateboard", "a skateboard")),
    Concept(("mountain", "hill"), "where", ("on a mountain", "near mountains", "on a hill")),
    Concept(("flower", "bouquet"), "with", ("flowers", "a flower", "a bouquet")),
    Concept(("riding",), "doing", ("riding", "riding along")),
    Concept(("bathroom", "toilet"), "where", ("in a bathroom", "in the bathroom", "by a toilet")),
    Concept(("yellow", "golden"), "adjective", ("yellow", "yellow", "golden")),
    Concept(("cooking", "kitchen"), "doing", ("cooking", "cooking a meal")),
    Concept(("boat", "ship"), "where", ("on a boat", "in a small boat", "on a ship")),
)  # fmt: skip

_BASE_RATE = 0.02  # share of captions of both sets with each planted concept's wording
_TEMPLATES: Sequence[tuple[str, ...]] = (
    ("subject", "doing", "where"),
    ("subject", "where"),
    ("subject", "with", "where"),
    ("adjective", "subject", "doing", "where"),
    ("adjective", "subject", "with"),
    ("subject", "doing", "with"),
    ("adjective", "subject", "where"),
)


def captions(
    n: int, rng: np.random.Generator, planted: Concept | None = None, share: float = 0.0
) -> list[str]:
    """Returns n captions.

    Args:
        n: Number of captions.
        rng: The only source of randomness.
        planted: Concept of which a share of the captions has a wording.
        share: Share of the captions with the planted concept, 0 … 1.
    """
    return [
        _caption(rng, planted if planted is not None and rng.random() < share else None)
        for _ in range(n)
    ]


def _caption(rng: np.random.Generator, planted: Concept | None) -> str:
    if planted is None and rng.random() < _BASE_RATE * len(CONCEPTS):
        planted = CONCEPTS[rng.integers(len(CONCEPTS))]
    slots = [s for s in _TEMPLATES if planted is None or planted.slot in s]
    parts: dict[str, str] = {}
    chosen = slots[rng.integers(len(slots))]
    for slot in chosen:
        if planted is not None and slot == planted.slot:
            parts[slot] = _choose(planted.wordings, rng)
        else:
            parts[slot] = _choose(_choose(_SLOTS[slot], rng), rng)
    noun = f"{parts['adjective']} {parts['subject']}" if "adjective" in parts else parts["subject"]
    text = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    for slot in chosen:
        if slot in ("doing", "where"):
            text += f" {parts[slot]}"
        elif slot == "with":
            text += f" with {parts[slot]}"
    return text


def _choose(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """Returns an option; the k-th has a probability proportional to 1 / (k + 1)."""
    weights = 1 / np.arange(2, len(options) + 2)
    return options[int(rng.choice(len(options), p=weights / weights.sum()))]


_SLOTS = {
    "subject": _SUBJECTS,
    "doing": _ACTIONS,
    "where": _PLACES,
    "with": _OBJECTS,
    "adjective": _ADJECTIVES,
}
