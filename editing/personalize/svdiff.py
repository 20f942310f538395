"""SVDiff: shifts of the singular values of all layers learn the subject.

Han et al. (ICCV 2023), arXiv:2303.11305: a rate 1,000 times that of full fine-tuning, 1e-6 for the
weights of norms. Two subjects that are trained together are pasted into one image in 60 % of the
samples (Cut-Mix-Unmix, section 3.3); the optional regulariser of their attention is
`editing.personalize.unmix`.
"""

from collections.abc import Sequence
from typing import Any

from editing.personalize.layers import shifted_weights, text_encoders
from editing.personalize.personalizer import Personalizer
from editing.personalize.settings import MINIATURE, PersonalizeConfig
from editing.personalize.subject import Subject
from editing.personalize.trained import SpectralShifts, Trained
from editing.training import Group


def _trained(pipe: Any, subjects: Sequence[Subject], config: PersonalizeConfig) -> Trained:
    del subjects
    components = ["unet", *(text_encoders(pipe) if config.text_encoder else ())]
    names = [name for c in components for name in shifted_weights(pipe, c)]
    return SpectralShifts(pipe, names, config.norm_mode)


def _groups(config: PersonalizeConfig) -> tuple[Group, ...]:
    groups = []
    if config.norm_mode != "off":
        groups.append(Group("norms", config.norm_lr or config.lr))
    if config.text_encoder:
        groups.append(Group("text_encoder", config.text_lr or config.lr))
    return tuple(groups)


SVDIFF = Personalizer(
    "svdiff",
    PersonalizeConfig(steps=500, lr=1e-3, norm_lr=1e-6, cut_mix=0.6),
    frozenset({"text_encoder", "text_lr", "norm_mode", "norm_lr", "cut_mix", "unmix"}),
    _trained,
    _groups,
    variants={
        "miniature": {**MINIATURE, "lr": 2e-2},
    },
)  # fmt: skip
