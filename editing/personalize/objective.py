"""The loss of a personalisation on a model: samples in, losses out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from editing.generate.phrases import with_article
from editing.personalize.captions import replace_identifier
from editing.personalize.data import Item, Latents, Mixing, Pictures, Sampler, Texts
from editing.personalize.framing import Framing
from editing.personalize.loss import NoiseLevels, squared_errors
from editing.personalize.settings import PersonalizeConfig
from editing.personalize.subject import Subject
from editing.personalize.trained import Trained
from editing.personalize.unmix import Unmix
from editing.pipelines.denoiser import Denoiser
from editing.training import Losses, Tensor, Weights

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Objective:
    """The loss of samples. Call it inside the contexts of ``trained``.

    Args:
        denoiser: The model.
        trained: What is trained.
        subjects: The subjects.
        pictures: Images of each subject.
        prior: Images of each class; empty for priors without images.
        from_teacher: Whether the frozen model's predictions are the prior.
        config: Settings.
        framing: How images are cut.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        trained: Trained,
        subjects: Sequence[Subject],
        pictures: Sequence[Pictures],
        prior: Sequence[Pictures],
        from_teacher: bool,
        config: PersonalizeConfig,
        framing: Framing,
    ) -> None:
        self._denoiser, self._trained, self._config = denoiser, trained, config
        self._pictures, self._prior, self._from_teacher = pictures, prior, from_teacher
        self._levels = NoiseLevels.of(denoiser.pipe.scheduler, denoiser.prediction)
        mixing = Mixing(config.scaled_images, config.cut_mix, config.empty_captions)
        self._sampler = Sampler(denoiser, self._levels, framing, mixing)
        # As in the code of Custom Diffusion, images of the class keep their scale.
        unscaled = replace(mixing, scaled=False)
        self._class_sampler = Sampler(denoiser, self._levels, framing, unscaled)
        self._latents = Latents(denoiser)
        self._texts = Texts(denoiser, trained.changes_text, trained.tokens)
        self._base_texts = Texts(denoiser, False, ())
        self._class_of = {s.identifier: s for s in subjects}
        self._unmix = Unmix(denoiser.pipe) if config.unmix else None

    def __call__(self, weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        """Returns the losses of one sample a generator; parts "subject", "prior" and "unmix".

        The weights are not read: the pipeline computes with them already.
        """
        del weights
        with self._autocast():
            own = [self._sampler.draw(self._pictures, g) for g in generators]
            more = (
                [self._class_sampler.draw(self._prior, g) for g in generators]
                if self._prior
                else []
            )
            # One forward pass for both halves.
            errors = self._errors([*own, *more], self._unmix)
            parts = {"subject": errors[: len(own)]}
            if more:
                parts["prior"] = errors[len(own) :]
            elif self._from_teacher:
                parts["prior"] = self._drift(own)
            if self._unmix is not None:
                parts["unmix"] = self._unmix.losses(own)
        total = parts["subject"]
        if "prior" in parts:
            total = total + self._config.prior_weight * parts["prior"]
        if "unmix" in parts:
            total = total + self._config.unmix * parts["unmix"]
        return Losses(total, parts)

    def subject(self, weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
        """Returns the losses of the same samples without a prior."""
        del weights
        with self._autocast():
            errors = self._errors([self._sampler.draw(self._pictures, g) for g in generators])
        return Losses(errors, {"subject": errors})

    def _errors(self, items: Sequence[Item], unmix: Unmix | None = None) -> Tensor:
        """Returns the error of each item, shape (n,); items of one size are one forward pass."""
        found: dict[int, Tensor] = {}
        for group in _by_size(items):
            latents, noise, levels = self._tensors(group)
            with nullcontext() if unmix is None else unmix.watching(group):
                predicted = self._predict(group, latents, noise, levels, self._texts)
            target = self._levels.target(latents, noise, levels)
            errors = squared_errors(predicted, target, self._masks(group, latents))
            errors = self._weighted(errors, levels)
            found |= {id(item): errors[j] for j, item in enumerate(group)}
        return torch.stack([found[id(item)] for item in items])

    def _drift(self, items: Sequence[Item]) -> Tensor:
        """Returns the distance from the frozen model for the class prompt, shape (n,)."""
        found: dict[int, Tensor] = {}
        classes = [Item(i.view, self._class_text(i.text), i.level, i.noise, i.posterior, i.source)
                   for i in items]  # fmt: skip
        for group in _by_size(classes):
            latents, noise, levels = self._tensors(group)
            with torch.no_grad(), self._trained.substituted(self._trained.initial):
                target = self._predict(group, latents, noise, levels, self._base_texts)
            predicted = self._predict(group, latents, noise, levels, self._texts)
            errors = self._weighted(squared_errors(predicted, target), levels)
            found |= {id(item): errors[j] for j, item in enumerate(group)}
        return torch.stack([found[id(item)] for item in classes])

    def _class_text(self, text: str) -> str:
        """Returns a caption with the class noun in place of the subject."""
        for identifier, subject in self._class_of.items():
            named = f"{identifier} {subject.noun}"
            text = replace_identifier(text, f"a {named}", with_article(subject.noun))
            text = replace_identifier(text, named, subject.noun)
            text = replace_identifier(text, identifier, subject.noun)
        return text

    def _tensors(self, items: Sequence[Item]) -> tuple[Tensor, Tensor, Tensor]:
        device = self._denoiser.device
        with torch.no_grad():
            latents = self._latents.of(items)
        noise = torch.stack([i.noise for i in items]).to(device)
        return latents, noise, torch.tensor([i.level for i in items], device=device)

    def _predict(
        self, items: Sequence[Item], latents: Tensor, noise: Tensor, levels: Tensor, texts: Texts
    ) -> Tensor:
        return self._denoiser.forward(
            self._levels.noised(latents, noise, levels),
            self._levels.timesteps.to(levels.device)[levels],
            texts.of([i.text for i in items]),
            torch.tensor([i.view.sizes for i in items]),
        )

    def _weighted(self, errors: Tensor, levels: Tensor) -> Tensor:
        gamma = self._config.min_snr
        return errors if gamma is None else errors * self._levels.min_snr(levels, gamma)

    def _masks(self, items: Sequence[Item], latents: Tensor) -> Tensor | None:
        """Returns the weight of each latent position, shape (n, 1, h, w)."""
        outside = self._config.unmasked_weight
        masked = outside < 1 and any(i.view.mask is not None for i in items)
        if not masked and all(i.view.shown is None for i in items):
            return None
        weights = np.ones((len(items), *items[0].view.pixels.shape[1:]), np.float32)
        for own, item in zip(weights, items, strict=True):
            if item.view.mask is not None:
                own *= outside + (1 - outside) * item.view.mask
            if item.view.shown is not None:
                own *= item.view.shown
        pooled = torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(weights)[:, None], (latents.shape[2], latents.shape[3])
        )
        return pooled.to(latents.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._config.precision == "model":
            return nullcontext()
        return torch.autocast(self._denoiser.device.type, _DTYPES[self._config.precision])


def _by_size(items: Sequence[Item]) -> list[list[Item]]:
    groups: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        groups.setdefault(item.view.pixels.shape, []).append(item)
    return list(groups.values())
