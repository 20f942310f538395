"""The objective of the score family on a model, at random points of the frozen model's runs."""

from collections.abc import Mapping, Sequence

import torch

from editing.methods.score.objective import (
    Scores,
    drift,
    guidance_goal,
    paper_eta,
    select_reference,
    surgical_loss,
)
from editing.methods.score.points import Point, Task, draw_point, random_below
from editing.methods.score.settings import ScoreConfig
from editing.methods.score.trajectories import Trajectories, ddim
from editing.pipelines.denoiser import Conditions, Denoiser
from editing.pipelines.text import Phrase
from editing.training import Loss, Losses, Tensor, Weights


class Objective:
    """The objective at random points of the frozen model's runs.

    Args:
        denoiser: The model.
        task: The requests.
        runs: Runs of ``task.routes``.
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
        self._conditions: Conditions = denoiser.encode(texts, config.null_encoding)

    def loss(self, all_parts: bool = False) -> Loss:
        """Returns the training loss.

        Args:
            all_parts: Whether to compute parts of weight 0 too, for diagnostics.
        """

        def found(weights: Weights, generators: Sequence[torch.Generator]) -> Losses:
            points = [draw_point(self._task, self._config, g) for g in generators]
            inputs, timesteps = self._inputs(points, generators)
            return self._evaluate(weights, points, inputs, timesteps, all_parts)

        return found

    def _inputs(
        self, points: Sequence[Point], generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        if self._config.points == "run":
            inputs = torch.stack([self._runs.inputs[p.run, p.step] for p in points])
            return inputs, torch.stack([self._runs.timesteps[p.step] for p in points])
        count = int(self._scheduler.config.num_train_timesteps)
        timesteps = torch.tensor([random_below(count, g) for g in generators])
        finals = torch.stack([self._runs.finals[p.run] for p in points])
        noise = torch.stack([torch.randn(self._denoiser.shape, generator=g) for g in generators])
        return self._scheduler.add_noise(finals, noise, timesteps), timesteps

    def _evaluate(
        self,
        weights: Weights,
        points: Sequence[Point],
        inputs: Tensor,
        timesteps: Tensor,
        all_parts: bool,
    ) -> Losses:
        config = self._config
        texts = self._texts(points)
        preserves = bool(self._task.preserved)
        trains_null = config.null_weight > 0 or config.reference != "frozen" or all_parts
        trained_roles = ["concept", *["null"] * trains_null, *["preserved"] * preserves]
        aim = "zero" if not any(texts["target"]) and config.aim == "alternative" else config.aim
        uses_frozen_target = aim == "alternative" and config.teacher == "frozen"
        frozen_roles = ["null", *["target"] * uses_frozen_target, *["preserved"] * preserves]
        if aim == "negate":
            frozen_roles.append("concept")
        frozen = self._scores(frozen_roles, texts, inputs, timesteps, None)
        trained = self._scores(trained_roles, texts, inputs, timesteps, weights)
        if aim != "negate" and config.teacher == "current":
            with torch.no_grad():
                own = self._scores(["target"], texts, inputs, timesteps, weights)
            frozen = Scores(frozen.concept, frozen.null, own.target, frozen.preserved)
            aim = "alternative"
        assert trained.concept is not None
        assert frozen.null is not None
        null = select_reference(config.reference, trained.null, frozen.null)
        goal = guidance_goal(aim, frozen, self._eta)
        scale = inputs.new_tensor([self._task.changes[p.request].scale for p in points])
        parts = {"surgical": surgical_loss(trained.concept, null, goal)}
        total = scale.to(null.device) * parts["surgical"]
        if trained.null is not None:
            parts["null"] = drift(trained.null, frozen.null)
            total = total + config.null_weight * parts["null"]
        if trained.preserved is not None:
            assert frozen.preserved is not None
            parts["preserve"] = drift(trained.preserved, frozen.preserved)
            each = inputs.new_tensor([self._task.preserved[p.preserved or 0][1] for p in points])
            total = total + config.preserve_weight * each.to(total.device) * parts["preserve"]
        return Losses(total, parts)

    def _texts(self, points: Sequence[Point]) -> dict[str, list[str]]:
        """Returns the prompts of the points, by role."""
        task = self._task

        def text(point: Point, concept: str) -> str:
            return Phrase(task.templates[point.template], concept).text if concept else ""

        found = {
            "concept": [text(p, task.changes[p.request].concept) for p in points],
            "null": [""] * len(points),
            "target": [text(p, task.targets[p.request]) for p in points],
        }
        if task.preserved:
            found["preserved"] = [
                Phrase("{}", task.preserved[p.preserved or 0][0]).text for p in points
            ]
        return found

    def _scores(
        self,
        roles: Sequence[str],
        texts: Mapping[str, Sequence[str]],
        inputs: Tensor,
        timesteps: Tensor,
        weights: Weights | None,
    ) -> Scores:
        """Returns predictions for several prompts per point, from one forward pass."""
        rows = [self._rows[text] for role in roles for text in texts[role]]
        count = len(roles)
        out = self._denoiser.predict(
            inputs.repeat(count, 1, 1, 1),
            timesteps.repeat(count),
            self._conditions.rows(rows),
            weights,
        )
        return Scores(**dict(zip(roles, out.chunk(count), strict=True)))
