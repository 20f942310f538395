"""The score family: fine-tuned edits whose objectives are special cases of one expression.

`editing.methods.score.objective` defines the expression, `editing.methods.score.sampled_objective`
evaluates it on a model, and this module trains. A method is a named choice of settings
(`editing.methods.score.settings`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from editing.edit import Edit
from editing.edit.deltas import Full
from editing.edit.fits import on_plain_modules
from editing.methods import check_kinds
from editing.methods.score.points import Task
from editing.methods.score.sampled_objective import Objective
from editing.methods.score.settings import Group, ScoreConfig, ScoreRun
from editing.methods.score.trajectories import evaluations as drawing_evaluations
from editing.methods.score.trajectories import load_or_draw
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.loading import load_pipeline
from editing.pipelines.text import lay_out
from editing.pipelines.weights import base_name, parameter
from editing.requests import Request, changes_of, checked
from editing.training import Cost, OnEvent, mean_losses, train
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes

_DIAGNOSTIC_SAMPLES = 16


@dataclass(frozen=True)
class ScoreMethod:
    """A method of the score family.

    Attributes:
        name: Name of the method.
        config: Default settings for Stable Diffusion 1 and 2.
        inputs: Arguments of `fit` besides requests and settings.
        run: Default settings that do not change the edit.
        fixed: Settings that define the method and cannot be changed.
        kinds: Kinds of requests that the method supports.
        variants: Default settings that differ for SDXL ("sdxl") and for the bundled model
            ("miniature").
    """

    name: str
    config: ScoreConfig
    run: ScoreRun = field(default_factory=ScoreRun)
    fixed: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset({"erase", "replace", "moderate"})
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    inputs: frozenset[str] = frozenset({"checkpoint"})

    @property
    def preserves(self) -> bool:
        """Whether the method has a preserve term."""
        return "preserve" in self.kinds

    def configure(self, pipe: Any, settings: Mapping[str, Any]) -> ScoreConfig:
        """Returns the settings of the method for a pipeline, with some values replaced.

        Raises:
            InputError: A setting is unknown, out of range, or fixed for this method.
        """
        return self._configured(_variant(pipe), settings)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Checks settings before a pipeline is loaded, which decides on the defaults.

        Raises:
            InputError: A setting is unknown, or out of range or fixed with the defaults of every
                kind of pipeline.
        """
        settings = self.run.check(settings)
        errors = []
        for variant in ("sd", *self.variants):
            try:
                self._configured(variant, settings)
            except InputError as error:
                errors.append(error)
            else:
                return
        raise errors[0]

    def _configured(self, variant: str, settings: Mapping[str, Any]) -> ScoreConfig:
        own = self.config.changed(**self.variants.get(variant, {}))
        config = own.changed(**settings)
        changed = [n for n in self.fixed if getattr(config, n) != getattr(own, n)]
        if changed:
            raise InputError(
                f"Expected {', '.join(sorted(changed))} as {self.name} defines it, got another "
                "value; use all-but-one for a free choice."
            )
        return config

    def check(self, requests: Sequence[Request], config: ScoreConfig) -> None:
        """Checks that the method supports requests.

        Raises:
            InputError: A kind is not supported, or a target would have no effect.
        """
        check_kinds(self, requests, "all-but-one", "uce")
        for request in changes_of(requests):
            if config.aim != "alternative" and request.target.strip():
                raise InputError(
                    f"Expected no target for {self.name} with aim {config.aim!r}, got "
                    f"{request.target!r} for {request.concept!r}; leave it out, or use "
                    "concept-ablation or all-but-one, which have targets."
                )

    @on_plain_modules
    def fit(
        self,
        pipe: Any,
        requests: Sequence[Request],
        *,
        on_event: OnEvent | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 100,
        runs_in: str | Path | None = None,
        **settings: Any,
    ) -> Edit:
        """Trains an edit. The pipeline is not changed.

        Args:
            pipe: A pipeline of Stable Diffusion 1, 2 or XL, in float32 or bfloat16, or what
                `editing.pipelines.loading.load_pipeline` accepts.
            requests: Erase, Replace, Moderate, and Preserve if the method supports it. They are
                trained together, one of them at each training point.
            on_event: Called with `editing.training.Cost` before the fit starts, with
                `editing.methods.score.trajectories.Drawn`, and with the events of
                `editing.training.train`.
            checkpoint: File to resume from, as for `editing.training.train`.
            save_every: Steps between checkpoints.
            runs_in: Folder that stores the frozen model's runs for other fits with the same
                concepts.
            **settings: Fields of `ScoreConfig` that replace the method's defaults.

        Returns:
            The edit: the full difference of each trained tensor. Its diagnostics are the parts of
            the objective before and after training, at held-out points: "surgical", "null", and
            "preserve" if texts are preserved.

        Raises:
            InputError: Requests contradict each other or are not supported, a concept has no
                tokens, a setting is invalid, the pipeline is not supported, or the checkpoint
                belongs to another run.
        """
        self.check_settings({"save_every": save_every, "runs_in": runs_in, **settings})
        pipe = load_pipeline(pipe)
        config = self.configure(pipe, settings)
        requests = checked(requests)
        self.check(requests, config)
        denoiser = Denoiser(pipe, config.height, config.width)
        names = trained_names(pipe, config.weights)
        denoiser.check_functional_training()
        task = Task.of(requests, config)
        for phrase in task.phrases():
            lay_out(pipe, phrase)
        report: OnEvent = on_event or (lambda event: None)
        start = {name: parameter(pipe, name) for name in names}
        report(_cost(task, config, sum(p.numel() for p in start.values())))
        empty = Edit.of(
            pipe,
            base_model=base_name(pipe),
            method=self.name,
            requests=requests,
            config=config.model_dump(mode="json"),
            changes=(),
            seeds=(config.seed,),
        )
        about = digest_bytes(
            canonical_json(
                [
                    self.name,
                    empty.base_hash,
                    [r.to_dict() for r in requests],
                    config.model_dump(mode="json", exclude={"steps", "micro_batch"}),
                ]
            ).encode()
        )
        with denoiser.evaluating():
            runs = load_or_draw(
                denoiser,
                task.routes,
                steps=config.run_steps,
                guidance=config.run_guidance,
                folder=None if runs_in is None else Path(runs_in),
                on_event=report,
            )
            objective = Objective(denoiser, task, runs, config)
            trained = train(
                start,
                objective.loss(),
                config.plan(save_every),
                on_event=report,
                checkpoint=None if checkpoint is None else Path(checkpoint),
                about=about,
            )
            diagnostic_loss = objective.loss(all_parts=True)
            base = {name: value.detach() for name, value in start.items()}
            found = {
                "before": mean_losses(
                    base, diagnostic_loss, config.seed, _DIAGNOSTIC_SAMPLES, config.micro_batch
                ),
                "after": mean_losses(
                    trained, diagnostic_loss, config.seed, _DIAGNOSTIC_SAMPLES, config.micro_batch
                ),
            }
        changes = tuple(
            Full(name, (value - start[name].detach().float()).cpu())
            for name, value in trained.items()
        )
        return replace(empty, changes=changes, diagnostics=found)


def trained_names(pipe: Any, group: Group) -> tuple[str, ...]:
    """Returns the full names of the tensors of a group, in the order of the model's modules.

    The groups are those of ESD's current code. For SDXL, "not-attn2" and "all" exclude layers
    outside the blocks and the projections of time embeddings, as in that code.

    Raises:
        InputError: The group is empty: the UNet has no cross-attention.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None:
        raise InputError(
            f"Expected a pipeline with a UNet (Stable Diffusion 1, 2 or XL), got "
            f"{type(pipe).__name__}; load one of these."
        )
    xl = getattr(unet.config, "addition_embed_type", None) == "text_time"
    found = []
    for name, module in unet.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        in_cross_attention = "attn2" in name.split(".")
        match group:
            case "attn2":
                selected = in_cross_attention
            case "attn2-kv":
                selected = name.endswith((".attn2.to_k", ".attn2.to_v"))
            case "not-attn2":
                selected = not in_cross_attention and _in_blocks(name, xl)
            case "all":
                selected = _in_blocks(name, xl)
        if selected:
            found += [f"unet.{name}.{own}" for own, _ in module.named_parameters(recurse=False)]
    if not found:
        raise InputError(
            f"Expected a UNet with cross-attention to the prompt, got {type(unet).__name__} "
            "without any; use a text-conditioned model."
        )
    return tuple(found)


def _cost(task: Task, config: ScoreConfig, trained: int) -> Cost:
    samples = config.steps * config.batch
    trains_null = config.null_weight > 0 or config.reference != "frozen"
    trained_passes = 1 + trains_null + bool(task.preserved)
    predicts_goal = config.aim == "negate" or config.teacher == "current" or any(task.targets)
    frozen_passes = 1 + bool(task.preserved) + predicts_goal
    return Cost(
        steps=config.steps,
        trained=trained,
        drawing=drawing_evaluations(task.routes, config.run_steps, config.run_guidance),
        forward=samples * (trained_passes + frozen_passes),
        backward=samples * trained_passes,
    )


def _variant(pipe: Any) -> str:
    if base_name(pipe) == "miniature":
        return "miniature"
    config = getattr(getattr(pipe, "unet", None), "config", None)
    return "sdxl" if getattr(config, "addition_embed_type", None) == "text_time" else "sd"


def _in_blocks(name: str, xl: bool) -> bool:
    return not xl or ("block" in name and "emb" not in name)
