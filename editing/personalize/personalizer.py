"""The procedure that all personalisation methods share: subject in, edit out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from editing.edit import Edit
from editing.edit.fits import on_plain_modules
from editing.generate.phrases import with_article
from editing.personalize.framing import Framing
from editing.personalize.kept import Keeping, keeper
from editing.personalize.loss import NoiseLevels, check_min_snr
from editing.personalize.objective import Objective
from editing.personalize.priors import ClassImages, class_images
from editing.personalize.samples import Samples, grids
from editing.personalize.settings import COMMON, PersonalizeConfig
from editing.personalize.subject import Subject
from editing.personalize.trained import Trained, Weights
from editing.personalize.training_subjects import (
    by_identifier,
    named_by_token,
    pictures_of,
    token_notes,
)
from editing.personalize.unmix import check_unmix
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.loading import load_pipeline
from editing.pipelines.substitute import without_gradients
from editing.pipelines.weights import base_name
from editing.pipelines.wrappers import unwrapped
from editing.requests import Learn
from editing.training import (
    Group,
    Observer,
    OnEvent,
    Validated,
    estimate,
    mean_losses,
    train,
)
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes

_HELD_OUT = 8
"""Samples of the validation loss."""

_DEFAULT_FOLDER = Path("class-images")


@dataclass(frozen=True)
class Noted:
    """The event of a note: something that was assumed or left out.

    Attributes:
        text: A sentence.
    """

    text: str


@dataclass(frozen=True)
class Personalizer:
    """A personalisation method.

    Attributes:
        name: Name of the method.
        config: Its published settings, for Stable Diffusion 1 and 2.
        own: Settings that this method uses besides the common ones.
        trained: (Pipeline, subjects, settings) → what is trained.
        groups: Settings → groups of tensors with a rate of their own.
        prior: Its usual prior.
        variants: Settings that differ for SDXL ("sdxl"), Flux ("flux"), SD 3 ("sd3") and the
            bundled model ("miniature").
        families: Families of pipelines that it supports, "sd", "sdxl", "flux", "sd3".
        kinds: Kinds of requests in its edits.
    """

    name: str
    config: PersonalizeConfig
    own: frozenset[str]
    trained: Callable[[Any, Sequence[Subject], PersonalizeConfig], Trained]
    groups: Callable[[PersonalizeConfig], tuple[Group, ...]]
    prior: str = "structured"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    families: frozenset[str] = frozenset({"sd", "sdxl"})
    kinds: ClassVar[frozenset[str]] = frozenset({Learn.kind})

    def configure(self, pipe: Any, settings: Mapping[str, Any]) -> PersonalizeConfig:
        """Returns the settings for a pipeline, with some values replaced.

        Raises:
            InputError: The family is not supported, or a setting is unknown, out of range, or not
                used by this method.
        """
        family = family_name(pipe)
        if family not in self.families:
            raise InputError(
                f"Expected a pipeline of {', '.join(sorted(self.families))} for {self.name}, got "
                f"{type(pipe).__name__}; use lora, which supports all families."
            )
        own = self.config.changed(**self.variants.get(family, {}))
        if base_name(pipe) == "miniature":
            own = own.changed(**self.variants.get("miniature", {}))
        self.check_settings(settings)
        return own.changed(**settings)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Checks settings before a pipeline is loaded.

        Raises:
            InputError: A setting is unknown, out of range, or not used by this method.
        """
        self.config.changed(**settings)
        unused = sorted(n for n in settings if n not in COMMON | self.own)
        if unused:
            raise InputError(
                f"Expected settings that {self.name} uses, got {', '.join(unused)}; leave it out, "
                f"or choose from {', '.join(sorted(self.own)) or 'the common ones'}."
            )

    @on_plain_modules
    def fit(
        self,
        pipe: Any,
        subject: Subject | Sequence[Subject],
        *,
        prior: str | Path | ClassImages | None = None,
        class_folder: str | Path = _DEFAULT_FOLDER,
        samples: Samples | None = None,
        validate_every: int | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 100,
        keep: Keeping | None = None,
        on_event: OnEvent | None = None,
        **settings: Any,
    ) -> Edit:
        """Teaches a subject to a model. The pipeline is not changed.

        Args:
            pipe: A pipeline, or what `editing.pipelines.loading.load_pipeline` accepts.
            subject: The subject, or several that are taught together; those of one identifier are
                folders of one subject.
            prior: One of `editing.personalize.priors.PRIORS`, or a folder or manifest with images
                of the class, or the images; None for the method's own.
            class_folder: Folder of the class images that the model draws; they are used again.
            samples: Sample images that are drawn while training.
            validate_every: Steps between losses on fixed samples; None for none.
            checkpoint: File to resume from, as for `editing.training.train`.
            save_every: Steps between checkpoints.
            keep: Edits of intermediate steps that are written, for the audit to choose from.
            on_event: Called with `Noted`, `editing.personalize.kept.Kept`,
                `editing.generate.Progress` while class images are drawn,
                and the events of `editing.training.train`.
            **settings: Fields of `PersonalizeConfig` that replace the method's defaults.

        Returns:
            The edit. Its diagnostics are the loss on fixed samples before and after training, and
            the notes.

        Raises:
            InputError: A setting is invalid, the pipeline is not supported, subjects share an
                identifier, the loss is not finite, or the checkpoint belongs to another run.
        """
        self.check_settings(settings)
        pipe = load_pipeline(pipe)
        config = self.configure(pipe, settings)
        report: OnEvent = on_event or (lambda event: None)
        subjects = [subject] if isinstance(subject, Subject) else list(subject)
        subjects = [named_by_token(s, config) for s in subjects]
        by_name = by_identifier(subjects)
        denoiser = Denoiser(pipe, config.height, config.width)
        if config.min_snr is not None:
            check_min_snr(denoiser.prediction)
        # Both raise before class images are drawn.
        for one in subjects:
            one.check_images()
        NoiseLevels.of(denoiser.pipe.scheduler, denoiser.prediction)
        if config.unmix:
            check_unmix(len(by_name), config.cut_mix)
        trained = self.trained(pipe, [group[0] for group in by_name], config)
        notes = [note for s in subjects for note in (*s.notes, *token_notes(pipe, s, config))]
        priors = [
            class_images(pipe, group[0], prior or self.prior, config, Path(class_folder), report)
            for group in by_name
        ]
        notes += [note for found in priors for note in found.notes]
        if trained.only_tokens and any(p.pictures is not None or p.from_teacher for p in priors):
            notes.append(
                "The prior changes nothing: no caption of the class has the trained token. Prior "
                "none gives the same edit sooner."
            )
        if config.scaled_images and (config.buckets or (config.crop or 1) < 1):
            notes.append(
                "Images of the subject are shown smaller or larger (scaled_images) instead of in "
                "buckets or crops."
            )
        for note in notes:
            report(Noted(note))
        # Before the training, whose adapters and tokens are no part of the base.
        empty = Edit.of(
            pipe,
            base_model=base_name(pipe),
            method=self.name,
            requests=tuple(Learn(s.identifier, s.noun, s.digest) for s in subjects),
            config={
                **config.model_dump(mode="json"),
                "prior": "own images"
                if isinstance(prior, ClassImages)
                else str(prior or self.prior),
                "captions": [list(s.captions) for s in subjects],
            },
            changes=(),
            seeds=(config.seed,),
        )
        about = digest_bytes(
            canonical_json(
                [
                    self.name,
                    empty.base_hash,
                    [s.digest for s in subjects],
                    [[p.identity, p.from_teacher] for p in priors],
                    config.model_dump(mode="json", exclude={"steps", "micro_batch"}),
                ]
            ).encode()
        )
        with _prepared(denoiser, trained, config):
            objective = _objective(denoiser, trained, by_name, priors, config)

            def held_out(weights: Weights) -> float:
                with trained.substituted(weights):
                    found = mean_losses(
                        weights, objective.subject, config.seed, _HELD_OUT, config.micro_batch
                    )
                return found["subject"]

            observers: list[Observer] = []
            if samples is not None:
                sampling = samples.settings or config.sampling()
                rows = _prompts(samples, subjects)
                observers.append(grids(denoiser, trained, samples, rows, sampling))
            if validate_every is not None:
                observers.append(
                    Observer(validate_every, lambda done, w: Validated(done, held_out(w)))
                )
            if keep is not None:
                observers.append(keeper(keep, lambda w, step: _step_of(empty, trained, w, step)))
            initial = trained.initial
            plan = config.plan(
                save_every,
                groups=self.groups(config),
                loss_scale="dynamic" if _is_half(denoiser, config) else "none",
            )
            report(estimate(initial, objective, plan, substituted=trained.substituted))
            weights = train(
                initial,
                objective,
                plan,
                substituted=trained.substituted,
                observers=observers,
                on_event=report,
                checkpoint=None if checkpoint is None else Path(checkpoint),
                about=about,
            )
            diagnostics = {
                "loss": {"before": held_out(initial), "after": held_out(weights)},
                "notes": notes,
            }
            changes = trained.deltas(weights)
        return replace(empty, changes=changes, diagnostics=diagnostics)


def family_name(pipe: Any) -> str:
    """Returns "sd", "sdxl", "flux" or "sd3"; the class name for another pipeline."""
    unet = getattr(pipe, "unet", None)
    if unet is not None:
        xl = getattr(unet.config, "addition_embed_type", None) == "text_time"
        return "sdxl" if xl else "sd"
    kind = type(unwrapped(getattr(pipe, "transformer", None))).__name__
    known = {"FluxTransformer2DModel": "flux", "SD3Transformer2DModel": "sd3"}
    return known.get(kind, type(pipe).__name__)


def no_groups(config: PersonalizeConfig) -> tuple[Group, ...]:
    """Returns no groups: one rate for all."""
    del config
    return ()


def _step_of(empty: Edit, trained: Trained, weights: Weights, step: int) -> Edit:
    config = {**empty.config, "steps": step}
    return replace(empty, changes=trained.deltas(weights), config=config)


def _objective(
    denoiser: Denoiser,
    trained: Trained,
    groups: Sequence[Sequence[Subject]],
    priors: Sequence[ClassImages],
    config: PersonalizeConfig,
) -> Objective:
    sizes: tuple[tuple[int, int], ...] = ()
    if config.buckets:
        from diffusers.training_utils import generate_aspect_ratio_buckets

        side = round((denoiser.size[0] * denoiser.size[1]) ** 0.5)
        step = denoiser.family.multiple(denoiser.pipe)
        sizes = tuple(generate_aspect_ratio_buckets(side, step))
    usual = 0.75 if any(p.crops for p in priors) else 1.0
    crop = usual if config.crop is None else config.crop
    return Objective(
        denoiser,
        trained,
        [group[0] for group in groups],
        [pictures_of(group, config) for group in groups],
        [p.pictures for p in priors if p.pictures is not None],
        any(p.from_teacher for p in priors),
        config,
        Framing(denoiser.size, crop, config.flip, sizes),
    )


def _prompts(samples: Samples, subjects: Sequence[Subject]) -> tuple[str, ...]:
    if samples.prompts:
        return samples.prompts
    first = subjects[0]
    named = tuple(s.phrase for s in subjects)
    return (*named, f"{first.phrase} on the grass", with_article(first.noun))


def _is_half(denoiser: Denoiser, config: PersonalizeConfig) -> bool:
    return config.precision == "float16" or denoiser.dtype == torch.float16


@contextmanager
def _prepared(denoiser: Denoiser, trained: Trained, config: PersonalizeConfig) -> Iterator[None]:
    """Makes the pipeline ready for training and restores it afterwards."""
    module: Any = denoiser.module
    with ExitStack() as stack:
        stack.enter_context(without_gradients(denoiser.pipe))
        stack.enter_context(trained.installed())
        if config.gradient_checkpointing and not module.is_gradient_checkpointing:
            module.enable_gradient_checkpointing()
            stack.callback(module.disable_gradient_checkpointing)
        yield
