"""What to do next about the faults of a personalised model, as commands that can be run."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editing.audits.personalized.attributes import KINDS
from editing.audits.personalized.findings import Finding
from editing.requests import Request

_DRIFT = ("language drift",)
_OVERFIT = ("copies", "prompt not followed")


@dataclass(frozen=True)
class Origin:
    """How a subject was taught, for the command that teaches it again.

    Attributes:
        method: Name of the method.
        base: The untaught model.
        config: Settings of the edit.
        captions: The training captions.
        references: Folder or manifest of the references; "" if unknown.
        kept: Step → file of the kept edits.
    """

    method: str = "lora"
    base: str = "MODEL"
    config: Mapping[str, Any] = field(default_factory=dict)
    captions: Sequence[str] = ()
    references: str = ""
    kept: Mapping[int, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        text: What, in a sentence.
        command: The command; "" if there is none.
    """

    text: str
    command: str = ""


def advise(
    request: Request,
    confirmed: Sequence[Finding],
    recommended: int | None,
    origin: Origin,
    recognised: bool | None,
) -> tuple[Advice, ...]:
    """Returns what to do next, in the order of the faults.

    Args:
        request: The request to learn the subject.
        confirmed: The confirmed faults, largest first.
        recommended: The recommended step; None if no steps were kept.
        origin: How it was taught.
        recognised: Whether the identifier draws the subject; None if unknown.
    """
    found: list[Advice] = []
    words = [f for f in confirmed if f.kind in KINDS]
    if words:
        found.append(_captions(request, words, origin))
    if any(f.kind in _DRIFT for f in confirmed):
        found.append(_regularise(request, origin))
    if any(f.kind in (*_DRIFT, *_OVERFIT) for f in confirmed):
        found.append(_earlier(request, recommended, origin))
    if recognised is False and not found:
        found.append(
            Advice(
                "The identifier does not draw the subject yet: train for more steps.",
                _teach(request, origin, steps=2),
            )
        )
    return tuple(found)


def _captions(request: Request, words: Sequence[Finding], origin: Origin) -> Advice:
    named = ", ".join(repr(f.word) for f in words)
    without = [
        f for f in words
        if not all(f.word.split()[-1].casefold() in c.casefold() for c in origin.captions)
    ]  # fmt: skip
    if origin.captions and not without:
        return Advice(
            f"The captions name {named} already: add references without it, or leave out some "
            "that have it."
        )
    return Advice(
        f"Name {named} in the captions of the references that show it: what a caption describes, "
        "the identifier does not learn (SID).",
        _teach(request, origin, "--captions sid"),
    )


def _regularise(request: Request, origin: Origin) -> Advice:
    if origin.config.get("prior") in ("structured", "teacher"):
        weight = 2 * float(origin.config.get("prior_weight", 1.0))
        return Advice(
            "Raise the weight of the class images, so that the noun keeps its meaning.",
            _teach(request, origin, f"--prior structured --set prior_weight={weight:g}"),
        )
    return Advice(
        "Train with structured class images, so that the noun keeps its meaning.",
        _teach(request, origin, "--prior structured"),
    )


def _earlier(request: Request, recommended: int | None, origin: Origin) -> Advice:
    path = None if recommended is None else origin.kept.get(recommended)
    if path is None:
        steps = max(1, int(origin.config.get("steps", 400)) // 2)
        return Advice(
            "Train for fewer steps and keep some of them, so that the best can be chosen.",
            _teach(request, origin, f"--keep-every {max(1, steps // 4)}", steps=0.5),
        )
    return Advice(
        f"Use step {recommended}, which has the most likeness for its drift.",
        f"visdiff audit --base {shlex.quote(origin.base)} --edit {shlex.quote(str(path))} "
        f"--references {shlex.quote(origin.references or 'REFERENCES')} --out audit-{recommended}/",
    )


def _teach(request: Request, origin: Origin, options: str = "", steps: float = 1.0) -> str:
    """Returns the command that teaches the subject again, with other options."""
    identifier = request.identifier.strip("<>")
    words = [
        "visdiff", "personalize", origin.method, origin.base, origin.references or "REFERENCES",
        "--noun", request.noun, "--identifier", identifier,
    ]  # fmt: skip
    command = shlex.join(words)
    prior = origin.config.get("prior")
    if prior in ("none", "prompt", "structured", "teacher") and "--prior" not in options:
        command += f" --prior {prior}"
    if "steps" in origin.config:
        command += f" --train-steps {max(1, round(steps * int(origin.config['steps'])))}"
    return f"{command} {options}".rstrip() + " --out next.safetensors"
