"""Running DreamBench: teach, generate and score each subject, resumably.

A subject's edit, images and scores are files in its own folder. A run that is started again with
the same settings trains and generates only what is missing; scores are computed again only if other
models are available than before.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from editing.edit import Edit
from editing.generate import EDITED, Progress, Run, Variant
from editing.generate.phrases import with_article
from editing.generate.prompts import Sample
from editing.personalize import find
from editing.personalize.dreambench import BenchSubject
from editing.personalize.pictured import Pictured, open_pictured
from editing.personalize.scoring import Tools, score
from editing.personalize.subject import Subject
from editing.pipelines.sampling import Settings
from editing.pipelines.weights import base_name
from editing.training import OnEvent
from visdiff.errors import InputError
from visdiff.files import explained, write_whole
from visdiff.hashing import canonical_json, digest_bytes

SCORES = "scores.json"
"""Name of the file with the scores of a subject, in its folder."""

_HEADER = "run.json"
_CLASS = "class"


@dataclass(frozen=True)
class Plan:
    """The settings of a run; all of them are recorded, and a resumed run must have the same.

    Attributes:
        method: Name of the personalisation method.
        prior: Its prior; None for the method's own.
        identifier: The token.
        nouns: Class nouns in captions and prompts: those of the released data or the specific ones
            (He et al. rename the classes).
        seeds: Number of images per prompt, 4 as published.
        class_seeds: Number of images of the class noun alone, for PRES; 0 for none.
        sampling: Sampling settings.
        settings: Settings of the method.
    """

    method: str = "dreambooth"
    prior: str | None = None
    identifier: str = "olis"
    nouns: Literal["vague", "specific"] = "vague"
    seeds: int = 4
    class_seeds: int = 8
    sampling: Settings = field(default_factory=Settings)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.class_seeds < 0:
            raise InputError(
                f"Expected 1 image per prompt or more and 0 class images or more, got {self.seeds} "
                f"and {self.class_seeds}; correct them."
            )

    def noun(self, item: BenchSubject) -> str:
        """Returns the class noun of a subject."""
        return item.nouns.vague if self.nouns == "vague" else item.nouns.specific


class BenchRun:
    """A run on one model.

    Args:
        model: A pipeline.
        model_name: Its name in the record of the run.
        out: Folder of the run.
        plan: The settings.
        batch_size: Images per call of the pipeline.

    Raises:
        InputError: The folder has a run with other settings, or cannot be written to.
    """

    def __init__(
        self, model: Any, model_name: str, out: Path, plan: Plan, batch_size: int = 8
    ) -> None:
        self._pipe, self.out, self.plan, self._batch_size = model, out, plan, batch_size
        open_run(out, {"model": model_name, **asdict(plan)})

    def teach(self, item: BenchSubject, on_event: OnEvent | None = None) -> Edit:
        """Returns the edit of a subject; trained if its file is missing."""
        folder = self.out / item.name
        file = folder / "edit.safetensors"
        if file.is_file():
            return Edit.load(file)
        folder.mkdir(parents=True, exist_ok=True)
        settings = dict(self.plan.settings)
        if base_name(self._pipe) != "miniature":
            settings = {"kind": item.nouns.kind, **settings}
        edit = find(self.plan.method).fit(
            self._pipe,
            self.subject(item),
            prior=self.plan.prior,
            class_folder=self.out / "class-images",
            checkpoint=folder / "training.safetensors",
            on_event=on_event,
            **settings,
        )
        edit.save(file)
        (folder / "training.safetensors").unlink(missing_ok=True)
        return edit

    def generate(
        self,
        item: BenchSubject,
        edit: Edit,
        on_batch: Callable[[Progress], None] | None = None,
    ) -> None:
        """Generates the missing images of a subject, with a manifest."""
        noun = self.plan.noun(item)
        identifier = getattr(edit.requests[0], "identifier", self.plan.identifier)
        samples = [
            Sample(prompt, seed, None, {"part": "subject", "prompt_index": index})
            for index, prompt in enumerate(item.prompts(identifier, noun))
            for seed in range(self.plan.seeds)
        ]
        samples += [
            Sample(with_article(noun), seed, None, {"part": _CLASS})
            for seed in range(self.plan.class_seeds)
        ]
        # The type checker does not accept a cached property where the protocol has a property.
        variants = [Variant(EDITED, cast(Any, edit))]
        folder = self.out / item.name / "images"
        made = Run(
            self._pipe, variants, samples, folder, self.plan.sampling, self._batch_size
        ).start(on_batch)
        if made.failed:
            label, reason = next(iter(made.failed.items()))
            raise InputError(
                f"Expected finite pixels of all images of {item.name}, got {len(made.failed)} "
                f"others (first: {label}: {reason}); compute in float32."
            )

    def score(self, item: BenchSubject, tools: Tools, seed: int) -> dict[str, Any]:
        """Returns the scores of a subject's images, from its file if it has them already."""
        manifest = self.out / item.name / "images"
        own = open_pictured(manifest, {"part": "subject"})
        of_class = open_pictured(manifest, {"part": _CLASS}) if self.plan.class_seeds else None
        return score_subject(self.out, item, self.subject(item), own, of_class, tools, seed)

    def subject(self, item: BenchSubject) -> Subject:
        """Opens the real images of a subject."""
        return Subject.open(item.folder, self.plan.identifier, self.plan.noun(item))


def score_subject(
    out: Path,
    item: BenchSubject,
    subject: Subject,
    own: Pictured,
    of_class: Pictured | None,
    tools: Tools,
    seed: int,
) -> dict[str, Any]:
    """Scores the images of a subject and writes the scores into its folder, or reads them from it.

    Scores in the folder are used if images, masks, captions, prompts, models and measures are the
    same.

    Args:
        out: Folder of the run.
        item: The subject.
        subject: Its real images.
        own: Its generated images.
        of_class: Images of the class noun, for PRES; None for none.
        tools: Encoders and other models.
        seed: Seed of the bootstrap, used with the subject's name so that intervals do not depend on
            which subjects are scored before.

    Returns:
        The scores as JSON values, with "subject", "models" and "images".

    Raises:
        InputError: No image can be read, or the file cannot be written.
    """
    file = out / item.name / SCORES
    known = read_scores(file)
    about = {
        "subject": item.name,
        "images": len(own),
        "seed": seed,
        "digest": _digest(
            subject, own, of_class, [item.nouns.vague, item.nouns.specific, tools.fill]
        ),
        "models": tools.models,
        "wanted": sorted(tools.wanted),
        "unavailable": sorted({**tools.encoders.missing, **tools.missing}),
    }
    if known is not None and {name: known.get(name) for name in about} == about:
        return known
    found = score(
        own,
        subject,
        tools,
        np.random.default_rng([seed, zlib.crc32(item.name.encode())]),
        vague=item.nouns.vague,
        specific=item.nouns.specific,
        class_images=of_class,
    )
    line = {**found.to_dict(), **about}
    with explained("a path to write the scores to", file):
        write_whole(file, json.dumps(line, indent=2).encode())
        write_whole(
            file.with_name("per-image.csv"),
            found.per_image.to_csv(index=False, lineterminator="\n").encode(),
        )
    return line


def _digest(subject: Subject, own: Pictured, of_class: Pictured | None, more: Sequence[str]) -> str:
    """Returns a digest of all that scores are computed from besides models, in order."""
    generated = [
        [[p.images.digest(i), prompt] for i, prompt in enumerate(p.prompts)]
        for p in (own, of_class)
        if p is not None
    ]
    return digest_bytes(canonical_json([subject.digest, generated, list(more)]).encode())


def open_run(out: Path, settings: Mapping[str, Any]) -> None:
    """Records the settings of a run in its folder, or checks them against the record.

    Raises:
        InputError: The folder has a run with other settings, or cannot be written to.
    """
    file = out / _HEADER
    text = json.dumps(settings, indent=2, sort_keys=True, default=str)
    if file.is_file():
        before, now = json.loads(file.read_text("utf-8")), json.loads(text)
        differing = [n for n in {**before, **now} if before.get(n) != now.get(n)]
        if differing:
            name = differing[0]
            raise InputError(
                f"Expected the settings of the run in {out} ({name} = {before.get(name)!r}), got "
                f"{now.get(name)!r}; use the same ones, or another --out."
            )
        return
    with explained("a folder that can be written to", out):
        write_whole(file, text.encode())


def read_scores(file: Path) -> dict[str, Any] | None:
    """Returns the scores in a file; None if there is none, or it is damaged."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
