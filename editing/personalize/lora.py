"""LoRA: low-rank changes of the attention layers learn the subject.

Hu et al. (ICLR 2022), arXiv:2106.09685. Stable Diffusion: as diffusers' script. SDXL: rank 32 on
the UNet and both text encoders, with a trained token of its own (He et al., arXiv:2311.04315).
"""

from collections.abc import Sequence
from typing import Any

from editing.personalize.layers import (
    ATTENTION,
    JOINT_ATTENTION,
    TEXT_ATTENTION,
    denoiser_name,
    linear_layers,
    text_encoders,
)
from editing.personalize.personalizer import Personalizer
from editing.personalize.settings import MINIATURE, PersonalizeConfig
from editing.personalize.subject import Subject
from editing.personalize.trained import Adapters, DoraAdapters, Together, TokenRows, Trained
from editing.training import Group


def _trained(pipe: Any, subjects: Sequence[Subject], config: PersonalizeConfig) -> Trained:
    name = denoiser_name(pipe)
    usual = ATTENTION if name == "unet" else JOINT_ATTENTION
    layers = list(linear_layers(pipe, name, config.targets or usual))
    if config.text_encoder:
        layers += [n for c in text_encoders(pipe) for n in linear_layers(pipe, c, TEXT_ATTENTION)]
    kind = DoraAdapters if config.dora else Adapters
    adapters = kind(pipe, layers, config.rank, config.alpha or config.rank, config.seed)
    if not config.new_token:
        return adapters
    starts = {s.identifier: config.initializer or s.noun for s in subjects}
    return Together([adapters, TokenRows(pipe, starts, config.vectors)])


def _groups(config: PersonalizeConfig) -> tuple[Group, ...]:
    groups = []
    if config.text_encoder:
        groups.append(Group("text_encoder", config.text_lr or config.lr))
    if config.new_token:
        groups.append(Group("tokens", config.token_lr or config.lr, weight_decay=0.0))
    return tuple(groups)


LORA = Personalizer(
    "lora",
    PersonalizeConfig(steps=1000, lr=1e-4),
    frozenset({
        "rank", "alpha", "targets", "dora", "text_encoder", "text_lr", "new_token", "token_lr",
        "vectors", "initializer",
    }),
    _trained,
    _groups,
    variants={
        "sdxl": {"rank": 32, "text_encoder": True, "new_token": True, "steps": 8000},
        "miniature": {**MINIATURE, "lr": 2e-3, "rank": 8},
    },
    families=frozenset({"sd", "sdxl", "flux", "sd3"}),
)  # fmt: skip
