"""Class images whose prompts lack one slot of the grammar.

The slots are the style, the setting, and the part "against", which describes the references' own
backgrounds. The words of the bundled model have no adjectives, so these are all that it has.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from editing.generate.phrases import own_seed
from editing.personalize.priors import backgrounds_of
from editing.personalize.regularization import SHARES, ClassPrompt, Part, Pools, class_prompts
from editing.personalize.subject import Subject

Slot = Literal["", "style", "setting", "against"]
"""What is left out of the prompts; "" for nothing."""


def prompts_without(slot: Slot, subject: Subject, count: int) -> list[ClassPrompt]:
    """Returns the prompts of a structured set without one slot."""
    pools = Pools.of("miniature")
    shares: Mapping[Part, float] = SHARES
    backgrounds = backgrounds_of(subject)
    if slot == "style":
        shares = MappingProxyType({**SHARES, "photo": SHARES["photo"] + SHARES["styled"],
                                   "styled": 0.0})  # fmt: skip
    if slot == "setting":
        pools = replace(pools, settings=("",))
    if slot in ("setting", "against"):
        backgrounds = []
    rng = np.random.default_rng(own_seed(subject.noun))
    return class_prompts(subject.noun, pools, count, rng, backgrounds, shares)
