"""Audits of erasures against revival by textual inversion: is the concept erased, or hidden?

A method may change what a name means and leave the concept in the weights. Pham et al.,
"Circumventing Concept Erasure Methods for Text-to-Image Generative Models" (ICLR 2024),
arXiv:2308.01508, learn a new word for an erased concept from a few pictures of it. Here the number
of steps and pictures that the edited model needs is compared with two other numbers: that of the
original model, which knows the concept, and that of a concept which it does not know.
"""

from editing.audits.revival.attack import erased_concepts, revive
from editing.audits.revival.config import Point, RevivalConfig
from editing.audits.revival.curves import Comparison, Curve, Duration, Revival, compare

__all__ = [
    "Comparison",
    "Curve",
    "Duration",
    "Point",
    "Revival",
    "RevivalConfig",
    "compare",
    "erased_concepts",
    "revive",
]
