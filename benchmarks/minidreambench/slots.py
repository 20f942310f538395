"""Class images whose prompts lack one slot of the grammar.

The slots are the style, the setting, and the part "against", which describes the references' own
backgrounds. The words of the bundled model have no adjectives, so these are all that it has.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from editing.generate import generate
from editing.generate.phrases import own_seed
from editing.generate.prompts import Sample
from editing.personalize.captions import has_identifier
from editing.personalize.priors import ClassImages, captioned_images
from editing.personalize.regularization import (
    SHARES,
    ClassPrompt,
    Part,
    Pools,
    background_of,
    class_prompts,
)
from editing.personalize.settings import PersonalizeConfig
from editing.personalize.subject import Subject

Slot = Literal["", "style", "setting", "against"]
"""What is left out of the prompts; "" for nothing."""


def prompts_without(slot: Slot, subject: Subject, count: int) -> list[ClassPrompt]:
    """Returns the prompts of a structured set without one slot."""
    pools = Pools.of("miniature")
    shares: Mapping[Part, float] = SHARES
    captions = (background_of(caption, subject.noun) for caption in subject.captions)
    backgrounds = [b for b in captions if b and not has_identifier(b, subject.identifier)]
    if slot == "style":
        shares = MappingProxyType({**SHARES, "photo": SHARES["photo"] + SHARES["styled"],
                                   "styled": 0.0})  # fmt: skip
    if slot == "setting":
        pools = replace(pools, settings=("",))
    if slot in ("setting", "against"):
        backgrounds = []
    rng = np.random.default_rng(own_seed(subject.noun))
    return class_prompts(subject.noun, pools, count, rng, list(dict.fromkeys(backgrounds)), shares)


def images_without(
    slot: Slot, pipe: Any, subject: Subject, config: PersonalizeConfig, folder: Path, count: int
) -> ClassImages:
    """Draws the class images of `prompts_without`, as the prior "structured" draws its own."""
    prompts = prompts_without(slot, subject, count)
    seed = own_seed(subject.noun)
    samples = [Sample(p.text, seed + i, columns=p.columns()) for i, p in enumerate(prompts)]
    where = folder / f"{subject.noun}-without-{slot}"
    images = generate(pipe, samples, where, settings=config.sampling()).images()
    texts = [str(text) for text in images.frame["prompt"]]
    return replace(captioned_images([(images, texts, 1)], subject.noun), crops=True)
