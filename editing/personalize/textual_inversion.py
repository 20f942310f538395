"""Textual inversion: only the embedding of a new token learns the subject.

Gal et al. (ICLR 2023), arXiv:2208.01618: rate 5e-3 for a batch of 4 on two GPUs; diffusers' README
arrives at 2e-3 for 3,000 steps. The model itself does not change, so no prior is needed.
"""

from collections.abc import Sequence
from typing import Any

from editing.personalize.personalizer import Personalizer, no_groups
from editing.personalize.settings import MINIATURE, PersonalizeConfig
from editing.personalize.subject import Subject
from editing.personalize.trained import TokenRows, Trained

TEMPLATES = (
    "a photo of {}", "a rendering of {}", "a cropped photo of {}", "a close-up photo of {}",
    "a bright photo of {}", "a dark photo of {}", "a good photo of {}", "a depiction of {}",
)  # fmt: skip
"""Captions of images that have none; the paper's are these and their like."""


def _trained(pipe: Any, subjects: Sequence[Subject], config: PersonalizeConfig) -> Trained:
    starts = {s.identifier: config.initializer or s.noun for s in subjects}
    return TokenRows(pipe, starts, config.vectors)


TEXTUAL_INVERSION = Personalizer(
    "textual-inversion",
    PersonalizeConfig(
        steps=3000, lr=2e-3, weight_decay=0.0, clip=None, new_token=True, templates=TEMPLATES
    ),
    frozenset({"vectors", "initializer"}),
    _trained,
    no_groups,
    prior="none",
    variants={
        "miniature": {**MINIATURE, "lr": 2e-2, "templates": ("{}", "a picture of {}")},
    },
)  # fmt: skip
