"""Closed-form methods: requests → statistics → maps.

The methods differ in the token positions they use, in their defaults and, for RECE, in additional
solves; the statistics and the solve are the same for all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from editing.edit import Edit
from editing.edit.deltas import SharedMap
from editing.edit.fits import on_plain_modules
from editing.edit.ledger import Block, Entry, Ledger
from editing.linear import Solution, Tensor
from editing.methods import check_kinds
from editing.methods.closed_form.diagnostics import diagnose, near_vectors, tokens_used
from editing.methods.closed_form.statistics import moments, pooled_of, rows, second_moments
from editing.pipelines.loading import load_pipeline
from editing.pipelines.text import Encoded, Layout, Phrase, encode, matched, selected
from editing.pipelines.weights import Projection, Space, base_name, projections, widths
from editing.requests import Request, changes_of, checked
from editing.settings import LinearConfig, LinearRun, Tokens
from editing.training import OnEvent
from visdiff.errors import InputError

PositionPair = tuple[int, tuple[int, ...]]
"""A position of a concept's prompt, and the position in each target's prompt it is mapped to."""
PairPositions = Callable[[Layout, Sequence[Layout], Tokens], list[PositionPair]]
SelectPositions = Callable[[Layout, Tokens], list[int]]

Solver = Callable[[Ledger, Space, LinearConfig], Solution]
Gains = Callable[[Any, Tensor, Sequence[Tensor]], Tensor]
"""(pipeline, source vectors, vectors of each attribute) → (layers, attributes)."""


def pair_positions(source: Layout, targets: Sequence[Layout], tokens: Tokens) -> list[PositionPair]:
    """Returns pairs of positions as `editing.pipelines.text.matched`, for several targets."""
    each = [dict(matched(source, target, tokens)) for target in targets]
    return [(i, tuple(e[i] for e in each)) for i in selected(source, tokens)]


def all_positions(source: Layout, targets: Sequence[Layout], _: Tokens) -> list[PositionPair]:
    """Returns pairs of each position and the same position of each target."""
    return [(i, (i,) * len(targets)) for i in range(source.length)]


@dataclass(frozen=True)
class ClosedForm:
    """A closed-form method.

    Attributes:
        name: Name of the method.
        config: Default settings.
        inputs: Arguments of `fit` besides requests and settings.
        run: Default settings that do not change the edit.
        variants: Settings that differ for other kinds of models: none.
        fixed: Settings that define the method and cannot be changed.
        pair_positions: Maps positions of a concept to positions of its targets.
        preserved_positions: Selects the positions of a preserved prompt that are held fixed.
        gains: Factor on the value of each attribute for each layer when debiasing; None for 1.
        kinds: Kinds of requests that the method supports.
        solver: Solves for the map of one space, given the statistics.
        revives: Whether the solver searches for vectors that revive concepts. It then has Σ WᵀW and
            every position of the changed concepts' prompts in the ledger.
    """

    name: str
    config: LinearConfig
    run: LinearRun = field(default_factory=LinearRun)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    pair_positions: PairPositions = pair_positions
    preserved_positions: SelectPositions = selected
    gains: Gains | None = None
    kinds: frozenset[str] = frozenset({"erase", "replace", "debias", "moderate", "preserve"})
    solver: Solver = Ledger.solve
    revives: bool = False

    inputs: frozenset[str] = frozenset({"corpus", "neighbours"})

    @property
    def preserves(self) -> bool:
        """Whether the method has a preserve term."""
        return "preserve" in self.kinds

    @on_plain_modules
    def fit(
        self,
        pipe: Any,
        requests: Sequence[Request],
        *,
        on_event: OnEvent | None = None,
        corpus: Sequence[str] = (),
        neighbours: Sequence[str] = (),
        nearest: int = 5,
        **settings: Any,
    ) -> Edit:
        """Returns an edit that meets all requests at once. The pipeline is not changed.

        Args:
            pipe: A pipeline of Stable Diffusion 1, 2 or XL, or what
                `editing.pipelines.loading.load_pipeline` takes.
            requests: Any combination of Erase, Replace, Debias, Moderate and Preserve.
            on_event: As for every method; a closed form has no steps and reports no events.
            corpus: Prompts whose second moment is an additional preserve term.
            neighbours: Texts whose spill is measured, in addition to the nearest words of the text
                encoder.
            nearest: Number of nearest words of each changed concept whose spill is measured.
            **settings: Fields of `editing.settings.LinearConfig` that replace the defaults.

        Returns:
            The edit, with its ledger and diagnostics.

        Raises:
            InputError: Requests contradict each other, a concept has no tokens, a setting is
                invalid, or the pipeline has no text-conditioned layers.
        """
        self.run.changed(nearest=nearest)
        config = self.configure(settings)
        requests = checked(requests)
        check_kinds(self, requests, "uce")
        if corpus and not self.preserves:
            raise InputError(
                f"Expected no corpus for {self.name}, which has no preserve term, got "
                f"{len(corpus)} prompts; use uce."
            )
        pipe = load_pipeline(pipe)
        layers = projections(pipe)
        entries = list(self.entries(pipe, requests, config))
        if self.preserves and (config.null_scale > 0 or config.preserve_scale is None):
            entries.append(self.null_entry(pipe, config))
        if corpus:
            entries.append(self.corpus_entry(pipe, corpus, config))
        # A method that searches for revivals computes with S; others only measure one number.
        dtype = torch.float64 if self.revives else torch.float32
        second = second_moments(pipe, [p for p in layers if p.space == "tokens"], dtype)
        ledger = Ledger(tuple(entries), second if self.revives else {})
        changes, solutions = self.solve(ledger, config, layers)
        near = near_vectors(pipe, requests, neighbours, nearest)
        diagnostics = diagnose(ledger, solutions, near, second["tokens"])
        diagnostics["tokens"] = tokens_used(pipe, requests, config, self.pair_positions)
        return Edit.of(
            pipe,
            base_model=base_name(pipe),
            method=self.name,
            requests=requests,
            config=config.model_dump(mode="json"),
            changes=changes,
            ledger=ledger,
            diagnostics=diagnostics,
        )

    def amend(self, edit: Edit, pipe: Any, requests: Sequence[Request]) -> Edit:
        """Returns an edit of other requests, and encodes only the texts that are new.

        The result equals that of `fit` with the edit's settings and these requests, except that its
        diagnostics include no neighbours and, unless the method searches for revivals itself, no
        revivals, for which a ledger does not store what is needed.

        Args:
            edit: An edit of this method, with its ledger.
            pipe: The unedited pipeline that it was fitted to; not used if no request is new.
            requests: All requests of the new edit.

        Raises:
            InputError: Requests contradict each other, or a concept has no tokens.
        """
        assert edit.ledger is not None
        config = self.config.changed(**edit.config)
        requests = checked(requests)
        check_kinds(self, requests, "uce")
        new = [r for r in requests if r not in edit.requests]
        ledger = edit.ledger.without([r for r in edit.requests if r not in requests])
        tokens: dict[str, Any] = edit.diagnostics.get("tokens", {})
        if new:
            ledger = ledger.with_entries(self.entries(pipe, new, config))
            tokens = tokens | tokens_used(pipe, new, config, self.pair_positions)
        layers = tuple(p for c in edit.changes for p in c.projections())
        changes, solutions = self.solve(ledger, config, layers)
        concepts = {r.concept for r in changes_of(requests)}
        found = diagnose(ledger, solutions, second=ledger.second.get("tokens"))
        found["tokens"] = {c: t for c, t in tokens.items() if c in concepts}
        return replace(edit, requests=requests, changes=changes, ledger=ledger, diagnostics=found)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Checks settings before a pipeline is loaded.

        Raises:
            InputError: As `configure`, or a value of `run` is out of range.
        """
        self.configure(self.run.check(settings))

    def configure(self, settings: Mapping[str, Any]) -> LinearConfig:
        """Returns the settings of the method with some values replaced.

        Raises:
            InputError: A setting is unknown, out of range, or fixed for this method.
        """
        config = self.config.changed(**settings)
        held = [n for n in settings if n in self.fixed and settings[n] != getattr(self.config, n)]
        if held:
            raise InputError(
                f"Expected {', '.join(held)} as {self.name} defines it, got another value; use uce "
                "for a free choice."
            )
        return config

    def entries(
        self, pipe: Any, requests: Sequence[Request], config: LinearConfig
    ) -> Iterable[Entry]:
        """Yields the statistics of the requests in order, one entry each, two if `revives`.

        Raises:
            InputError: No token represents a concept, or a prompt is too long.
        """
        wanted = {
            Phrase(template, text): None
            for request in changes_of(requests)
            for template in config.templates
            for text in (request.concept, *request.applied_weights)
        }
        known = dict(zip(wanted, encode(pipe, list(wanted)), strict=True))
        for request in requests:
            if request.preserved:
                phrases = [Phrase(t, c) for c in request.preserved for t in config.templates]
                yield self._preserve_entry(pipe, request, phrases, config)
                continue
            blocks: dict[Space, Block] = {
                "tokens": self._change_block(pipe, request, known, config, self.pair_positions)
            }
            if config.pooled == "edit" and "pooled" in widths(pipe):
                blocks["pooled"] = _pooled_change_block(request, known, config)
            counts: dict[Space, int] = {s: rows(b) for s, b in blocks.items()}
            yield Entry("change", request, 1, counts, blocks)
            if self.revives:
                whole = self._change_block(pipe, request, known, config, all_positions)
                yield Entry("revive", request, 1, {"tokens": rows(whole)}, {"tokens": whole})

    def null_entry(self, pipe: Any, config: LinearConfig) -> Entry:
        """Returns the statistics of the empty prompt, over all of its positions."""
        (empty,) = encode(pipe, [Phrase("{}", "")])
        blocks: dict[Space, Block] = {"tokens": Block(empty.states)}
        if config.pooled == "edit" and empty.pooled is not None:
            blocks["pooled"] = Block(empty.pooled[None])
        return Entry("null", None, 1, {s: rows(b) for s, b in blocks.items()}, blocks)

    def corpus_entry(self, pipe: Any, texts: Sequence[str], config: LinearConfig) -> Entry:
        """Returns the second moment of a corpus, over all positions but the start token."""
        phrases = [Phrase("{}", text) for text in texts]
        blocks, counts = moments(
            pipe, phrases, lambda layout: list(range(layout.start, layout.length)), config
        )
        return Entry("corpus", None, len(texts), counts, blocks)

    def solve(
        self,
        ledger: Ledger,
        config: LinearConfig,
        layers: Sequence[Projection],
    ) -> tuple[tuple[SharedMap, ...], dict[Space, Solution]]:
        """Returns the solved map of each space.

        Args:
            ledger: The statistics.
            config: Settings.
            layers: All text-conditioned layers.

        Returns:
            The changes, and the solution of each space.
        """
        solutions: dict[Space, Solution] = {}
        for space in ledger.spaces():
            solutions[space] = self.solver(ledger, space, config)
        changes = tuple(
            SharedMap(tuple(p for p in layers if p.space == space), solution.map)
            for space, solution in solutions.items()
        )
        return changes, solutions

    def _preserve_entry(
        self, pipe: Any, request: Request, phrases: Sequence[Phrase], config: LinearConfig
    ) -> Entry:
        blocks, counts = moments(
            pipe, phrases, lambda layout: self.preserved_positions(layout, config.tokens), config
        )
        return Entry("preserve", request, len(request.preserved), counts, blocks)

    def _change_block(
        self,
        pipe: Any,
        request: Request,
        known: Mapping[Phrase, Encoded],
        config: LinearConfig,
        pair_positions: PairPositions,
    ) -> Block:
        factors = self.gains if request.keeps_own else None
        sources, shifts, index, gains, count = [], [], [], [], 0
        for template in config.templates:
            source = known[Phrase(template, request.concept)]
            targets = [known[Phrase(template, text)] for text in request.applied_weights]
            pairs = pair_positions(source.layout, [t.layout for t in targets], config.tokens)
            positions = torch.tensor([i for i, _ in pairs])
            c = source.states[positions].to(torch.float64)
            values = [
                t.states[torch.tensor([js[k] for _, js in pairs])].to(torch.float64)
                for k, t in enumerate(targets)
            ]
            here = torch.arange(count, count + len(pairs))
            sources.append(source.states[positions])
            if factors is not None:
                weights = list(request.applied_weights.values())
                found = factors(pipe, c, values)
                shifts += [w * a for w, a in zip(weights, values, strict=True)]
                index += [here] * len(values)
                gains.append(found.repeat_interleave(len(pairs), dim=1))
            else:
                shifts.append(_shift(request, c, values))
                index.append(here)
            count += len(pairs)
        return Block(
            torch.cat(sources),
            None,
            torch.cat(shifts),
            torch.cat(index),
            torch.cat(gains, dim=1) if gains else None,
        )


def _shift(request: Request, source: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Returns new value − source: the weighted values replace the source, or are added to it."""
    weights = request.applied_weights.values()
    new = torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum(0)
    return new if request.keeps_own else new - source


def _pooled_change_block(
    request: Request, known: Mapping[Phrase, Encoded], config: LinearConfig
) -> Block:
    sources, shifts = [], []
    for template in config.templates:
        source = pooled_of(known[Phrase(template, request.concept)])
        targets = [pooled_of(known[Phrase(template, text)]) for text in request.applied_weights]
        wide = [t.to(torch.float64) for t in targets]
        sources.append(source)
        shifts.append(_shift(request, source.to(torch.float64), wide))
    return Block(torch.stack(sources), None, torch.stack(shifts), torch.arange(len(sources)))
