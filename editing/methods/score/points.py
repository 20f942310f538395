"""The training points of the score family: requests as prompts and runs, and random points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from editing.methods.score.settings import ScoreConfig
from editing.methods.score.trajectories import Route
from editing.pipelines.text import Phrase
from editing.requests import Request, changes_of
from editing.training import generator as seeded

RunKind = Literal["concept", "target", "null", "preserve"]
"""Kind of prompt whose run a training point lies on."""


@dataclass(frozen=True, eq=False)
class Task:
    """Requests, expanded into prompts and runs.

    Attributes:
        changes: Requests that change a concept.
        targets: Target text of each changed concept, "" for none.
        templates: Prompts in which {} is replaced by a concept.
        preserved: Preserved texts and the scales of their requests.
        routes: Runs to compute.
        pools: (Kind of run, index of the request or None for all) → runs, each with the index of
            its template (0 for null) or of its preserved text.
    """

    changes: tuple[Request, ...]
    targets: tuple[str, ...]
    templates: tuple[str, ...]
    preserved: tuple[tuple[str, float], ...]
    routes: tuple[Route, ...]
    pools: Mapping[tuple[RunKind, int | None], tuple[tuple[int, int], ...]]

    @classmethod
    def of(cls, requests: Sequence[Request], config: ScoreConfig) -> "Task":
        """Returns requests expanded into prompts and runs.

        Args:
            requests: Valid requests, without any `Debias`.
            config: Settings.
        """
        changes = tuple(changes_of(requests))
        targets = tuple(r.target.strip() if config.aim == "alternative" else "" for r in changes)
        preserved = tuple((text, r.scale) for r in requests for text in r.preserved)
        if config.preserve_weight == 0:
            preserved = ()
        routes: list[Route] = []
        pools: dict[tuple[RunKind, int | None], tuple[tuple[int, int], ...]] = {}

        def add(key: tuple[RunKind, int | None], prompts: Sequence[str]) -> None:
            places = []
            number = len(pools)
            for i in range(max(config.runs, len(prompts) if key[0] == "preserve" else 0)):
                index = i % len(prompts)
                seed = seeded(config.seed, number, i, 0).initial_seed()
                places.append((len(routes), index))
                routes.append(Route(prompts[index], seed))
            pools[key] = tuple(places)

        for index, (change, target) in enumerate(zip(changes, targets, strict=True)):
            if config.concept_share:
                add(("concept", index), _prompts(config.templates, change.concept))
            if config.target_share and target:
                add(("target", index), _prompts(config.templates, target))
        if config.null_share or (config.target_share and not all(targets)):
            add(("null", None), ("",))
        if config.preserve_share and preserved:
            add(("preserve", None), [Phrase("{}", text).text for text, _ in preserved])
        return cls(changes, targets, config.templates, preserved, tuple(routes), pools)

    def phrases(self) -> list[Phrase]:
        """Returns every prompt of the denoiser except the empty one."""
        texts = [c.concept for c in self.changes] + [t for t in self.targets if t]
        return [Phrase(t, text) for text in texts for t in self.templates] + [
            Phrase("{}", text) for text, _ in self.preserved
        ]

    def share(self, kind: RunKind, request: int, config: ScoreConfig) -> float:
        """Returns the unnormalised probability that a request's point lies on a kind of run."""
        has_no_target = not self.targets[request]
        match kind:
            case "concept":
                return config.concept_share
            case "target":
                return 0.0 if has_no_target else config.target_share
            case "null":
                return config.null_share + (config.target_share if has_no_target else 0.0)
            case "preserve":
                return config.preserve_share if self.preserved else 0.0


@dataclass(frozen=True)
class Point:
    """One training point.

    Attributes:
        request: Index of the changed concept.
        template: Index of its prompt's template.
        run: Index of the run.
        step: Index of the step of the run.
        preserved: Index of the preserved text; None if there are none.
    """

    request: int
    template: int
    run: int
    step: int
    preserved: int | None


def draw_point(task: Task, config: ScoreConfig, generator: torch.Generator) -> Point:
    """Returns a random training point."""
    request = random_below(len(task.changes), generator)
    kinds: tuple[RunKind, ...] = ("concept", "target", "null", "preserve")
    shares = torch.tensor([task.share(kind, request, config) for kind in kinds])
    kind = kinds[int(torch.multinomial(shares, 1, generator=generator))]
    pool = task.pools[kind, request if kind in ("concept", "target") else None]
    run, index = pool[random_below(len(pool), generator)]
    template = random_below(len(task.templates), generator)
    if kind in ("concept", "target"):
        template = index
    preserved = random_below(len(task.preserved), generator) if task.preserved else None
    if kind == "preserve":
        preserved = index
    return Point(request, template, run, random_below(config.run_steps, generator), preserved)


def random_below(count: int, generator: torch.Generator) -> int:
    """Returns a random integer in [0, count)."""
    return int(torch.randint(count, (1,), generator=generator))


def _prompts(templates: Sequence[str], concept: str) -> list[str]:
    return [Phrase(template, concept).text for template in templates]
