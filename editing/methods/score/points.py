"""Where the score family trains: requests as prompts and runs, and a point drawn among them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from editing.methods.score.settings import ScoreConfig
from editing.methods.score.trajectories import Route
from editing.pipelines.text import Phrase
from editing.requests import Request, changes_of
from editing.training import generator as seeded

Along = Literal["concept", "target", "null", "preserve"]
"""Whose runs a training point lies on."""


@dataclass(frozen=True, eq=False)
class Task:
    """Requests, spelled out as prompts and runs.

    Attributes:
        changes: What to change.
        targets: The text that each changed concept takes after, "" for none.
        templates: Prompts that concepts are put in.
        kept: Preserved texts and the scales of their requests.
        routes: Runs to make.
        pools: Whose runs, and of which request (None for all) → runs, each with its template's
            index (0 for null) or its preserved text's.
    """

    changes: tuple[Request, ...]
    targets: tuple[str, ...]
    templates: tuple[str, ...]
    kept: tuple[tuple[str, float], ...]
    routes: tuple[Route, ...]
    pools: Mapping[tuple[Along, int | None], tuple[tuple[int, int], ...]]

    @classmethod
    def of(cls, requests: Sequence[Request], config: ScoreConfig) -> "Task":
        """Spells requests out.

        Args:
            requests: Sound ones, none of them to debias.
            config: Settings.
        """
        changes = tuple(changes_of(requests))
        targets = tuple(r.target.strip() if config.aim == "alternative" else "" for r in changes)
        kept = tuple((text, r.scale) for r in requests for text in r.preserved)
        if config.preserve_weight == 0:
            kept = ()
        routes: list[Route] = []
        pools: dict[tuple[Along, int | None], tuple[tuple[int, int], ...]] = {}

        def add(key: tuple[Along, int | None], prompts: Sequence[str]) -> None:
            places = []
            number = len(pools)
            for i in range(max(config.runs, len(prompts) if key[0] == "preserve" else 0)):
                which = i % len(prompts)
                seed = seeded(config.seed, number, i, 0).initial_seed()
                places.append((len(routes), which))
                routes.append(Route(prompts[which], seed))
            pools[key] = tuple(places)

        for index, (change, target) in enumerate(zip(changes, targets, strict=True)):
            if config.concept_share:
                add(("concept", index), _prompts(config.templates, change.concept))
            if config.target_share and target:
                add(("target", index), _prompts(config.templates, target))
        if config.null_share or (config.target_share and not all(targets)):
            add(("null", None), ("",))
        if config.preserve_share and kept:
            add(("preserve", None), [Phrase("{}", text).text for text, _ in kept])
        return cls(changes, targets, config.templates, kept, tuple(routes), pools)

    def phrases(self) -> list[Phrase]:
        """Returns every prompt that the denoiser will be told, but the empty one."""
        texts = [c.concept for c in self.changes] + [t for t in self.targets if t]
        return [Phrase(t, text) for text in texts for t in self.templates] + [
            Phrase("{}", text) for text, _ in self.kept
        ]

    def share(self, along: Along, request: int, config: ScoreConfig) -> float:
        """Returns how often a request's points lie on runs of a kind; not normalised."""
        bare = not self.targets[request]
        match along:
            case "concept":
                return config.concept_share
            case "target":
                return 0.0 if bare else config.target_share
            case "null":
                return config.null_share + (config.target_share if bare else 0.0)
            case "preserve":
                return config.preserve_share if self.kept else 0.0


@dataclass(frozen=True)
class Point:
    """One training point, drawn.

    Attributes:
        request: Index of the concept.
        template: Index of its prompt.
        run: Index of the run.
        step: Index of the run's step.
        kept: Index of the preserved text; None without any.
    """

    request: int
    template: int
    run: int
    step: int
    kept: int | None


def drawn_point(task: Task, config: ScoreConfig, generator: torch.Generator) -> Point:
    """Draws a training point: a request, whose run, which, where on it, and what to preserve."""
    request = below(len(task.changes), generator)
    kinds: tuple[Along, ...] = ("concept", "target", "null", "preserve")
    shares = torch.tensor([task.share(kind, request, config) for kind in kinds])
    along = kinds[int(torch.multinomial(shares, 1, generator=generator))]
    pool = task.pools[along, request if along in ("concept", "target") else None]
    run, which = pool[below(len(pool), generator)]
    template = below(len(task.templates), generator)
    if along in ("concept", "target"):
        template = which
    kept = below(len(task.kept), generator) if task.kept else None
    if along == "preserve":
        kept = which
    return Point(request, template, run, below(config.run_steps, generator), kept)


def below(count: int, generator: torch.Generator) -> int:
    """Draws an integer in [0, count)."""
    return int(torch.randint(count, (1,), generator=generator))


def _prompts(templates: Sequence[str], concept: str) -> list[str]:
    return [Phrase(template, concept).text for template in templates]
