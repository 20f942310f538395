"""What is at hand about taught subjects before images are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editing.audits.personalized.advice import Origin
from editing.audits.personalized.checkpoints import Step, draw_steps, kept_edits
from editing.audits.personalized.leak import Leak, attention_leak
from editing.edit import Edit
from editing.generate import Progress
from editing.metrics.masks import Segmenter
from editing.personalize.subject import Subject
from editing.pipelines.sampling import Settings
from editing.requests import Request
from visdiff.errors import InputError, MissingBackendError

NO_REFERENCES = "no references were given (--references DIR)"
"""Why what needs the references is missing."""


@dataclass(frozen=True, eq=False)
class Taught:
    """A subject as it was taught.

    Attributes:
        references: Its real images; None if they are not at hand.
        origin: How it was taught.
        leak: The leak of its attention; None if it was not measured.
        steps: Images of the steps that were kept, those of the untaught model first.
        missing: Part → why it was not measured.
        notes: Sentences on images that were left out.
    """

    references: Subject | None = None
    origin: Origin = field(default_factory=Origin)
    leak: Leak | None = None
    steps: tuple[Step, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_references(
    requests: Sequence[Request], sources: Sequence[Any] | Any
) -> dict[str, Subject]:
    """Opens the references of the subjects of an edit.

    Args:
        requests: The requests of the edit.
        sources: One source as for `editing.personalize.subject.Subject.open` for each subject, in
            the order of the requests; a single one without a list; or subjects.

    Returns:
        Concept of a request → its references; empty without sources.

    Raises:
        InputError: There are more or fewer sources than subjects, or one cannot be read.
    """
    given = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    given = [source for source in given if source is not None]
    taught = [r for r in requests if r.noun]
    if given and len(given) != len(taught):
        raise InputError(
            f"Expected references for each of {len(taught)} taught subjects, got {len(given)}; "
            "give --references once for each, in the order of the edit."
        )
    return {
        r.concept: source
        if isinstance(source, Subject)
        else Subject.without_captions(source, r.identifier, r.noun)
        for r, source in zip(taught, given, strict=False)
    }


def prepare(
    pipe: Any,
    edit: Edit,
    folder: str | Path,
    *,
    references: Sequence[Any] | Any = None,
    checkpoints: str | Path | None = None,
    segmenter: Segmenter | None = None,
    base: str | None = None,
    scale: float = 1.0,
    settings: Settings | None = None,
    batch_size: int = 8,
    on_batch: Callable[[Progress], None] | None = None,
) -> dict[str, Taught]:
    """Draws what an audit of taught subjects needs besides the images of its prompts.

    Args:
        pipe: The untaught pipeline.
        edit: The edit.
        folder: Folder of the images of kept steps.
        references: See `open_references`.
        checkpoints: Folder of kept edits; None for none.
        segmenter: Finds the class noun in generated images, for the attention leak; None for none.
        base: Name of the untaught model in commands; None for that of the edit.
        scale: Strength of the edit.
        settings: Sampling settings.
        batch_size: Images per call.
        on_batch: Called after each batch of images.

    Returns:
        Concept of a request → what is at hand; empty for an edit that teaches no subject.

    Raises:
        InputError: References or kept edits cannot be read, or the edit belongs to another model.
    """
    opened = open_references(edit.requests, references)
    kept = {} if checkpoints is None else kept_edits(checkpoints)
    found: dict[str, Taught] = {}
    for number, request in enumerate(r for r in edit.requests if r.noun):
        missing: dict[str, str] = {}
        leak = None
        if segmenter is None:
            missing["attention leak"] = "no segmentation model was given (--segment)"
        else:
            try:
                leak = attention_leak(
                    pipe, edit, request, segmenter, scale=scale, settings=settings
                )
            except (InputError, MissingBackendError) as error:
                missing["attention leak"] = str(error)
        subject = opened.get(request.concept)
        steps: list[Step] = []
        notes: list[str] = []
        if not kept:
            missing["checkpoints"] = "no kept edits were given (--checkpoints DIR)"
        elif subject is None:
            missing["checkpoints"] = NO_REFERENCES
        else:
            own = Path(folder) / "steps" / request.concept.replace(" ", "-").strip("<>")
            steps, notes = draw_steps(pipe, kept, request, own, settings, batch_size, on_batch)
        origin = Origin(
            edit.method,
            base or edit.base_model,
            edit.config,
            _captions(edit, number),
            _source(subject),
            kept,
        )
        found[request.concept] = Taught(subject, origin, leak, tuple(steps), missing, tuple(notes))
    return found


def _captions(edit: Edit, number: int) -> tuple[str, ...]:
    """Returns the training captions of a subject; () for an edit of another tool."""
    written = edit.config.get("captions", ())
    return tuple(written[number]) if number < len(written) else ()


def _source(subject: Subject | None) -> str:
    """Returns the folder or manifest of references; "" for those in memory."""
    source = "" if subject is None else str(subject.images.source)
    return source if source and Path(source).exists() else ""
