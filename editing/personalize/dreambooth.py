"""DreamBooth: all weights of the denoiser learn the subject, under an identifier.

Ruiz et al., "DreamBooth" (CVPR 2023), arXiv:2208.12242. Rates: 5e-6 for Stable Diffusion, as in
diffusers' script; He et al. (arXiv:2311.04315) train 4,000 steps at 2e-6 with structured priors.
"""

from collections.abc import Sequence
from typing import Any

from editing.personalize.layers import denoiser_name, text_encoders, weights_of
from editing.personalize.personalizer import Personalizer
from editing.personalize.settings import MINIATURE, PersonalizeConfig
from editing.personalize.subject import Subject
from editing.personalize.trained import Trained, Whole
from editing.training import Group


def _trained(pipe: Any, subjects: Sequence[Subject], config: PersonalizeConfig) -> Trained:
    del subjects
    components = [denoiser_name(pipe), *(text_encoders(pipe) if config.text_encoder else ())]
    return Whole(pipe, [name for c in components for name in weights_of(pipe, c)])


def _groups(config: PersonalizeConfig) -> tuple[Group, ...]:
    return (Group("text_encoder", config.text_lr or config.lr),) if config.text_encoder else ()


DREAMBOOTH = Personalizer(
    "dreambooth",
    PersonalizeConfig(steps=1000, lr=5e-6),
    frozenset({"text_encoder", "text_lr"}),
    _trained,
    _groups,
    variants={
        "sdxl": {"lr": 2e-6},
        "miniature": {**MINIATURE, "lr": 2e-4},
    },
)  # fmt: skip
