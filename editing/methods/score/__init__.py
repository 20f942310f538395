"""The score family: fine-tuned edits that differ in one objective's terms, weights and points.

`editing.methods.score.objective` has the objective; here it meets the model, and here is the fit. A
method is a choice of settings (`editing.methods.score.settings`) under a name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from editing.edit import Edit
from editing.edit.deltas import Full
from editing.methods import check_kinds
from editing.methods.score.objective import Scores, aimed, drift, paper_eta, reference, surgical
from editing.methods.score.points import Point, Task, below, drawn_point
from editing.methods.score.settings import Group, ScoreConfig
from editing.methods.score.trajectories import Trajectories, ddim, drawn
from editing.methods.score.trajectories import evaluations as drawing_evaluations
from editing.pipelines.denoiser import Conditions, Denoiser
from editing.pipelines.loading import load_pipeline
from editing.pipelines.text import Phrase, lay_out
from editing.pipelines.weights import base_name, parameter, weight_hash
from editing.requests import Request, changes_of, checked
from editing.training import Cost, Loss, Losses, Tensor, Watch, Weights, mean_losses, train
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes

_PROBES = 16


@dataclass(frozen=True)
class ScoreMethod:
    """A method of the score family.

    Attributes:
        name: What it is called.
        config: Its defaults, for Stable Diffusion 1 and 2.
        fixed: Settings that make the method what it is and cannot be changed.
        kinds: Kinds of requests that it takes.
        variants: Settings that differ for SDXL ("sdxl") and the bundled model ("miniature").
    """

    name: str
    config: ScoreConfig
    fixed: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset({"erase", "replace", "moderate"})
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def preserves(self) -> bool:
        """Whether it has a preserve term."""
        return "preserve" in self.kinds

    def configured(self, pipe: Any, settings: Mapping[str, Any]) -> ScoreConfig:
        """Returns the method's settings for a pipeline, with some changed.

        Raises:
            InputError: A setting is unknown, out of range, or fixed for this method.
        """
        own = self.config.changed(**self.variants.get(_variant(pipe), {}))
        config = own.changed(**settings)
        held = [n for n in self.fixed if getattr(config, n) != getattr(own, n)]
        if held:
            raise InputError(
                f"Expected {', '.join(sorted(held))} as {self.name} has it, got another value; "
                "this is what makes it that method: use all-but-one for a free choice."
            )
        return config

    def check(self, requests: Sequence[Request], config: ScoreConfig) -> None:
        """Makes sure that the method can take requests.

        Raises:
            InputError: It does not take one of their kinds, or has no use for a target.
        """
        check_kinds(self, requests, "all-but-one", "uce")
        for request in changes_of(requests):
            if config.aim != "alternative" and request.target.strip():
                raise InputError(
                    f"Expected no target for {self.name} with aim {config.aim!r}, got "
                    f"{request.target!r} for {request.concept!r}; leave it out, or use "
                    "concept-ablation or all-but-one, which draw something else instead."
                )

    def fit(
        self,
        pipe: Any,
        requests: Sequence[Request],
        *,
        watch: Watch | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 100,
        runs_in: str | Path | None = None,
        **settings: Any,
    ) -> Edit:
        """Trains an edit. The pipeline is only read.

        Args:
            pipe: A pipeline of Stable Diffusion 1, 2 or XL, in float32 or bfloat16, or what
                `editing.pipelines.loading.load_pipeline` takes.
            requests: Erase, Replace, Moderate, and Preserve where the method can; trained together,
                one of them at each training point.
            watch: Told of `editing.training.Cost` before anything is computed, of
                `editing.methods.score.trajectories.Drawn` and of the events of
                `editing.training.train`.
            checkpoint: File to go on from, as for `editing.training.train`.
            save_every: Steps between checkpoints.
            runs_in: Folder that keeps the frozen model's runs for other fits with the same
                concepts.
            **settings: Those of `ScoreConfig` that differ from the method's own.

        Returns:
            The edit: the full difference of each trained tensor. Its diagnostics are the parts of
            the objective before and after, at points that training did not see: "surgical",
            "null", and "preserve" where texts are preserved.

        Raises:
            InputError: Requests contradict each other or do not fit the method, a concept has no
                tokens, a setting is not sound, or the pipeline or the checkpoint is another's.
        """
        pipe = load_pipeline(pipe)
        config = self.configured(pipe, settings)
        requests = checked(requests)
        self.check(requests, config)
        names = trained_names(pipe, config.weights)
        denoiser = Denoiser(pipe, config.height, config.width)
        task = Task.of(requests, config)
        for phrase in task.phrases():
            lay_out(pipe, phrase)
        tell: Watch = watch or (lambda event: None)
        start = {name: parameter(pipe, name) for name in names}
        tell(_cost(task, config, sum(p.numel() for p in start.values())))
        about = digest_bytes(
            canonical_json(
                [
                    self.name,
                    weight_hash(pipe),
                    [r.to_dict() for r in requests],
                    config.model_dump(mode="json", exclude={"steps", "micro_batch"}),
                ]
            ).encode()
        )
        with denoiser.evaluating():
            runs = drawn(
                denoiser,
                task.routes,
                steps=config.run_steps,
                guidance=config.run_guidance,
                folder=None if runs_in is None else Path(runs_in),
                watch=tell,
            )
            objective = Objective(denoiser, task, runs, config)
            trained = train(
                start,
                objective.loss(),
                config.plan(save_every),
                watch=tell,
                checkpoint=None if checkpoint is None else Path(checkpoint),
                about=about,
            )
            probe = objective.loss(everything=True)
            base = {name: value.detach() for name, value in start.items()}
            found = {
                "before": mean_losses(base, probe, config.seed, _PROBES, config.micro_batch),
                "after": mean_losses(trained, probe, config.seed, _PROBES, config.micro_batch),
            }
        changes = tuple(
            Full(name, (value - start[name].detach().float()).cpu())
            for name, value in trained.items()
        )
        return Edit.of(
            pipe,
            base_model=base_name(pipe),
            method=self.name,
            requests=requests,
            config=config.model_dump(mode="json"),
            changes=changes,
            diagnostics=found,
            seeds=(config.seed,),
        )


def trained_names(pipe: Any, group: Group) -> tuple[str, ...]:
    """Returns full names of the tensors of a group, in the order of the model's modules.

    The groups of ESD's present-day code. For SDXL it leaves out of "not-attn2" and "all" what does
    not lie in a block and the projections of time embeddings, and so do we.

    Raises:
        InputError: The group is empty: the UNet has no cross-attention.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None:
        raise InputError(
            f"Expected a pipeline with a UNet (Stable Diffusion 1, 2 or XL), got "
            f"{type(pipe).__name__}; training knows no other denoiser yet."
        )
    xl = getattr(unet.config, "addition_embed_type", None) == "text_time"
    found = []
    for name, module in unet.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        crossed = "attn2" in name.split(".")
        match group:
            case "attn2":
                wanted = crossed
            case "attn2-kv":
                wanted = name.endswith((".attn2.to_k", ".attn2.to_v"))
            case "not-attn2":
                wanted = not crossed and _in_blocks(name, xl)
            case "all":
                wanted = _in_blocks(name, xl)
        if wanted:
            found += [f"unet.{name}.{own}" for own, _ in module.named_parameters(recurse=False)]
    if not found:
        raise InputError(
            f"Expected a UNet with cross-attention to the prompt, got {type(unet).__name__} "
            "without any; an unconditional model has nothing that a concept edit could change."
        )
    return tuple(found)


class Objective:
    """The objective at drawn points of the frozen model's runs.

    Args:
        denoiser: The model.
        task: Requests.
        runs: Of ``task.routes``.
        config: Settings.
    """

    def __init__(
        self, denoiser: Denoiser, task: Task, runs: Trajectories, config: ScoreConfig
    ) -> None:
        self._denoiser = denoiser
        self._task = task
        self._runs = runs
        self._config = config
        self._eta = paper_eta(config.eta, config.parametrisation)
        self._scheduler = ddim(denoiser.pipe.scheduler)
        texts = list(dict.fromkeys(["", *(phrase.text for phrase in task.phrases())]))
        self._rows = {text: row for row, text in enumerate(texts)}
        self._known: Conditions = denoiser.encode(texts)

    def loss(self, everything: bool = False) -> Loss:
        """Returns the loss to train on.

        Args:
            everything: Also predict what only the parts need, for measuring.
        """

        def found(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
            points = [drawn_point(self._task, self._config, g) for g in generators]
            inputs, timesteps = self._inputs(points, generators)
            return self._at(weights, points, inputs, timesteps, everything)

        return found

    def _inputs(
        self, points: Sequence[Point], generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        if self._config.points == "run":
            inputs = torch.stack([self._runs.inputs[p.run, p.step] for p in points])
            return inputs, torch.stack([self._runs.timesteps[p.step] for p in points])
        count = int(self._scheduler.config.num_train_timesteps)
        timesteps = torch.tensor([below(count, g) for g in generators])
        finals = torch.stack([self._runs.finals[p.run] for p in points])
        noise = torch.stack([torch.randn(self._denoiser.shape, generator=g) for g in generators])
        return self._scheduler.add_noise(finals, noise, timesteps), timesteps

    def _at(
        self,
        weights: Weights,
        points: Sequence[Point],
        inputs: Tensor,
        timesteps: Tensor,
        everything: bool,
    ) -> Losses:
        config = self._config
        texts = self._texts(points)
        keeps = bool(self._task.kept)
        moves = config.null_weight > 0 or config.reference != "frozen" or everything
        trained_roles = ["concept", *["null"] * moves, *["kept"] * keeps]
        aim = "zero" if not any(texts["target"]) and config.aim == "alternative" else config.aim
        towards = aim == "alternative" and config.teacher == "frozen"
        frozen_roles = ["null", *["target"] * towards, *["kept"] * keeps]
        if aim == "negate":
            frozen_roles.append("concept")
        frozen = self._scores(frozen_roles, texts, inputs, timesteps, None)
        trained = self._scores(trained_roles, texts, inputs, timesteps, weights)
        if aim != "negate" and config.teacher == "current":
            with torch.no_grad():
                own = self._scores(["target"], texts, inputs, timesteps, weights)
            frozen = Scores(frozen.concept, frozen.null, own.target, frozen.kept)
            aim = "alternative"
        assert trained.concept is not None
        assert frozen.null is not None
        null = reference(config.reference, trained.null, frozen.null)
        goal = aimed(aim, frozen, self._eta)
        scale = inputs.new_tensor([self._task.changes[p.request].scale for p in points])
        parts = {"surgical": surgical(trained.concept, null, goal)}
        total = scale.to(null.device) * parts["surgical"]
        if trained.null is not None:
            parts["null"] = drift(trained.null, frozen.null)
            total = total + config.null_weight * parts["null"]
        if trained.kept is not None:
            assert frozen.kept is not None
            parts["preserve"] = drift(trained.kept, frozen.kept)
            each = inputs.new_tensor([self._task.kept[p.kept or 0][1] for p in points])
            total = total + config.preserve_weight * each.to(total.device) * parts["preserve"]
        return Losses(total, parts)

    def _texts(self, points: Sequence[Point]) -> dict[str, list[str]]:
        """Returns role → the prompt of each point."""
        task = self._task

        def text(point: Point, concept: str) -> str:
            return Phrase(task.templates[point.template], concept).text if concept else ""

        found = {
            "concept": [text(p, task.changes[p.request].concept) for p in points],
            "null": [""] * len(points),
            "target": [text(p, task.targets[p.request]) for p in points],
        }
        if task.kept:
            found["kept"] = [Phrase("{}", task.kept[p.kept or 0][0]).text for p in points]
        return found

    def _scores(
        self,
        roles: Sequence[str],
        texts: Mapping[str, Sequence[str]],
        inputs: Tensor,
        timesteps: Tensor,
        weights: Weights | None,
    ) -> Scores:
        """Predicts for several prompts a point, in one forward pass."""
        rows = [self._rows[text] for role in roles for text in texts[role]]
        count = len(roles)
        out = self._denoiser.predict(
            inputs.repeat(count, 1, 1, 1),
            timesteps.repeat(count),
            self._known.rows(rows),
            weights,
        )
        return Scores(**dict(zip(roles, out.chunk(count), strict=True)))


def _cost(task: Task, config: ScoreConfig, trained: int) -> Cost:
    samples = config.steps * config.batch
    moves = config.null_weight > 0 or config.reference != "frozen"
    through = 1 + moves + bool(task.kept)
    aims = config.aim == "negate" or config.teacher == "current" or any(task.targets)
    elsewhere = 1 + bool(task.kept) + aims
    return Cost(
        steps=config.steps,
        trained=trained,
        drawing=drawing_evaluations(task.routes, config.run_steps, config.run_guidance),
        forward=samples * (through + elsewhere),
        backward=samples * through,
    )


def _variant(pipe: Any) -> str:
    if base_name(pipe) == "miniature":
        return "miniature"
    config = getattr(getattr(pipe, "unet", None), "config", None)
    return "sdxl" if getattr(config, "addition_embed_type", None) == "text_time" else "sd"


def _in_blocks(name: str, xl: bool) -> bool:
    return not xl or ("block" in name and "emb" not in name)
