"""Training captions by models: written, given the identifier, checked, kept as a manifest.

Three styles: ``sid`` describes everything but the subject (Kim et al., arXiv 2403.15330),
``plain`` is the model's own caption, ``blip`` is the route of He et al. (arXiv 2311.04315, appendix
E): BLIP continues "a [noun]", and the caption becomes "a [identifier] [noun] …". A caption that
describes the subject is never dropped: a chat model is asked again once, and what remains is kept
with its case and a sentence about the problem, for a person to edit.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from editing.personalize.captions import Case, case_of, check_caption, insert_identifier, reduced
from editing.personalize.describers import Describer
from editing.personalize.instructions import (
    CONTINUATION_INSTRUCTION,
    DETAILED_INSTRUCTION,
    DETAILS_OBJECTION,
    INSTRUCTION,
    NOUN_OBJECTION,
)
from editing.personalize.subject import Subject
from visdiff import prompts
from visdiff.captioners import table
from visdiff.errors import InputError
from visdiff.imageset.manifest import read_table

Style = Literal["sid", "plain", "blip"]
"""How captions are written."""

# Images between two writes of the manifest.
_CHUNK = 16
_LABEL = re.compile(r"^(?:caption|continuation)\s*:\s*", re.IGNORECASE)
_MARKS = "\"'“”‘’`* "
_BEGINNING = r"^(?:(?:a|the)\s+(?:photo|picture|image)\s+of\s+)?(?:(?:an?|the|this)\s+)?"


@dataclass(frozen=True)
class Caption:
    """The caption of one image.

    Attributes:
        text: The training caption; "" when the model wrote none.
        reply: What the model wrote.
        case: Its case in SID's table 1; None when it does not name the class noun once.
        details: Words that describe the subject.
        others: Other things that it names, with their modifiers.
        style: How it was written.
        captioner: What wrote it.
        problem: A sentence about what a person should edit; "" for none.
    """

    text: str
    reply: str
    case: Case | None
    details: tuple[str, ...]
    others: tuple[str, ...]
    style: str
    captioner: str
    problem: str = ""


@dataclass(frozen=True)
class Captioned:
    """The captions of a subject.

    Attributes:
        captions: Image id → caption, in the order of the images.
        kept: Number of captions that were there before.
        failures: Image id → reason, for images without a caption.
        notes: Sentences for the user.
    """

    captions: Mapping[str, Caption]
    kept: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def flagged(self) -> dict[str, str]:
        """Image id → problem, for captions that a person should edit."""
        return {name: c.problem for name, c in self.captions.items() if c.problem and c.text}


def instruction_of(style: Style, case: Case | None = None) -> str:
    """Returns the instruction of a style for chat models, with ``{noun}`` in place of the noun."""
    if case is Case.SUBJECT_DETAILS:
        return DETAILED_INSTRUCTION
    if style == "plain":
        return prompts.load("caption").fill()
    return INSTRUCTION if style == "sid" else CONTINUATION_INSTRUCTION


def caption(
    subject: Subject,
    describer: Describer,
    style: Style = "sid",
    case: Case | None = None,
    kept: Mapping[str, Caption] | None = None,
    instruction: str | None = None,
    on_captions: Callable[[Mapping[str, Caption]], None] | None = None,
) -> Captioned:
    """Writes the training captions of a subject's images.

    Args:
        subject: The images, identifier and class noun; its own captions are not read.
        describer: The model that writes.
        style: How.
        case: With style "sid", the case of SID's table 1 to write, for its ablation: 1 and 2 are
            reduced from a case 3 caption, and 4 describes the subject as well. None checks captions
            without asking for a case.
        kept: Captions that are there already, by image id; they are checked again and not replaced.
        instruction: Instead of `instruction_of`; ``{noun}`` is replaced.
        on_captions: Called with all captions so far after every 16 images.

    Returns:
        The captions, failures and notes.

    Raises:
        InputError: A case is asked for with another style, a kept caption belongs to no image, or
            the model cannot be called at all.
    """
    if case is not None and style != "sid":
        raise InputError(
            f"Expected the style 'sid' with a case, got {style!r}; leave the case out."
        )
    writer = _Writer(subject, describer, style, case, instruction or instruction_of(style, case))
    ids = subject.images.ids
    foreign = [name for name in kept or {} if name not in ids]
    if foreign:
        raise InputError(
            f"Expected captions of the subject's {len(ids)} images, got one of {foreign[0]!r}, "
            "which is none of them; remove its row or write another manifest."
        )
    before = {name: writer.checked(c) for name, c in (kept or {}).items() if c.text.strip()}
    found, failures = dict(before), dict[str, str]()
    todo = [i for i, name in enumerate(ids) if name not in before]
    for start in range(0, len(todo), _CHUNK):
        written = writer.write(todo[start : start + _CHUNK])
        found |= written
        failures |= {name: c.problem for name, c in written.items() if not c.text}
        if on_captions is not None:
            on_captions({name: found[name] for name in ids if name in found})
    others = sum(c.style != writer.label or c.captioner != writer.name for c in before.values())
    notes = (
        f"{others} captions of another style or captioner were kept; write another manifest to "
        "have them written anew.",
    )
    in_order = {name: found[name] for name in ids}
    return Captioned(in_order, len(before), failures, notes if others else ())


@dataclass(frozen=True)
class _Writer:
    """One subject, one model, one style: writes, asks again, checks."""

    subject: Subject
    describer: Describer
    style: Style
    case: Case | None
    instruction: str

    @property
    def label(self) -> str:
        return self.style if self.case is None else f"{self.style}, case {int(self.case)}"

    @property
    def name(self) -> str:
        return "none" if self.case is Case.NOUN else self.describer.name

    def write(self, indices: Sequence[int]) -> dict[str, Caption]:
        """Captions of some images by id; one without text has its failure as the problem."""
        images = self.subject.images.subset(indices)
        if self.case is Case.NOUN:
            return {name: self._caption("") for name in images.ids}
        question = self.instruction.replace("{noun}", self.subject.noun)
        described = self.describer.describe(images, [(question,)] * len(images))
        found = {
            i: Caption("", "", None, (), (), self.label, self.name, described.failures[i])
            if text is None
            else self._caption(text)
            for i, text in enumerate(described.texts)
        }
        refused = {i: o for i, c in found.items() if (o := self._objection(c))}
        if refused:
            again = self.describer.describe(
                images.subset(list(refused)),
                [(question, found[i].reply, objection) for i, objection in refused.items()],
            )
            for i, text in zip(refused, again.texts, strict=True):
                if text is not None:
                    found[i] = min(self._caption(text), found[i], key=_severity)
        return {name: found[i] for i, name in enumerate(images.ids)}

    def checked(self, kept: Caption) -> Caption:
        """A caption that was there before, perhaps edited, with its case as it is now."""
        unedited = kept.reply and self._finish(kept.reply)[0] == kept.text
        problem = self._finish(kept.reply)[1] if unedited else ""
        return self._judge(replace(kept, problem=problem))

    def _caption(self, reply: str) -> Caption:
        text, problem = self._finish(reply)
        return self._judge(Caption(text, reply, None, (), (), self.label, self.name, problem))

    def _finish(self, reply: str) -> tuple[str, str]:
        """The training caption of a reply, and a problem or ""."""
        noun, identifier = self.subject.noun, self.subject.identifier
        if self.case is Case.NOUN:
            return self.subject.phrase, ""
        text = _clean(reply)
        if self.style == "blip":
            beginning = rf"{_BEGINNING}{re.escape(noun)}\b"
            rest = re.sub(beginning, "", text, flags=re.IGNORECASE).strip()
            return f"{self.subject.phrase}{'' if rest[:1] in ('', ',') else ' '}{rest}", ""
        try:
            text = insert_identifier(text, noun, identifier)
        except InputError:
            problem = (
                f"The caption did not name the class noun {noun!r}; '{self.subject.phrase}' was "
                "put before it."
            )
            return f"{self.subject.phrase}, {text}", problem
        if self.case is Case.OTHERS:
            try:
                return reduced(text, noun, identifier, self.case), ""
            except InputError as error:
                return text, str(error)
        return text, ""

    def _judge(self, caption: Caption) -> Caption:
        noun, identifier = self.subject.noun, self.subject.identifier
        try:
            stated = case_of(caption.text, noun, identifier)
        except InputError as error:
            return replace(
                caption, case=None, details=(), others=(), problem=caption.problem or str(error)
            )
        problem, own = caption.problem, caption.style in ("", self.label)
        sid = (self.style if own else caption.style).startswith("sid")
        if not problem and sid and stated.case is not self.case:
            try:
                check_caption(caption.text, noun, identifier)
            except InputError as error:
                problem = str(error)
        if not problem and own and self.case is not None and stated.case is not self.case:
            problem = (
                f"Expected a caption of case {int(self.case)}, got case {int(stated.case)}; edit "
                "the caption."
            )
        return replace(
            caption,
            case=stated.case,
            details=stated.subject_details,
            others=stated.others,
            problem=problem,
        )

    def _objection(self, caption: Caption) -> str | None:
        """What a chat model is asked after a refused caption; None after one that is accepted."""
        if not caption.text or not self.describer.follows or self.style != "sid":
            return None
        if caption.details and self.case is not Case.SUBJECT_DETAILS:
            details = ", ".join(caption.details)
            return DETAILS_OBJECTION.format(noun=self.subject.noun, details=details)
        if caption.case is None or "did not name the class noun" in caption.problem:
            return NOUN_OBJECTION.format(noun=self.subject.noun)
        return None


def write_captions(path: Path, subject: Subject, captions: Mapping[str, Caption]) -> None:
    """Writes captions as a manifest that `Subject.open` and `read_captions` read.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.parquet``. One row per image: path, caption, id, the other
            columns of the images' own manifest, mask, case, details, others, style, captioner,
            reply, problem.
        subject: The images and masks.
        captions: Image id → caption; images without one have an empty caption.

    Raises:
        InputError: The file cannot be written, or an image has no file.
    """
    ids = subject.images.ids
    rows = [captions.get(name) for name in ids]
    frame = table.table(
        subject.images, [c.text if c and c.text else None for c in rows], path.parent
    )
    columns: dict[str, list[Any]] = {
        "case": [int(c.case) if c and c.case else None for c in rows],
        "details": [", ".join(c.details) if c else "" for c in rows],
        "others": [", ".join(c.others) if c else "" for c in rows],
        **{
            name: [getattr(c, name) if c else "" for c in rows]
            for name in ("style", "captioner", "reply", "problem")
        },
    }
    if any(subject.mask_files):
        columns["mask"] = [_from(path.parent, mask) for mask in subject.mask_files]
    frame = frame.drop(columns=[c for c in ("mask", *columns) if c in frame.columns])
    # Whole numbers with missing ones; a float column would read "3.0".
    table.write(frame.assign(**columns).astype({"case": "Int64"}), path)


def read_captions(path: Path) -> dict[str, Caption]:
    """Reads the captions of a manifest by `write_captions`; {} when there is no file yet.

    Raises:
        InputError: The file cannot be read, or has no columns id and caption.
    """
    if not path.exists():
        return {}
    frame = read_table(path)
    missing = [column for column in ("id", "caption") if column not in frame.columns]
    if missing:
        raise InputError(
            f"Expected a manifest of captions in {path}, got one without the column "
            f"{missing[0]}; name another file."
        )
    found = {}
    for row in frame.to_dict("records"):
        text = {str(k): v.strip() if isinstance(v, str) else "" for k, v in row.items()}
        found[str(row["id"])] = Caption(
            text["caption"],
            text.get("reply", ""),
            None,
            (),
            (),
            text.get("style", ""),
            text.get("captioner", ""),
            text.get("problem", ""),
        )
    return found


def _from(folder: Path, file: Path | None) -> str | None:
    """A path for the manifest: relative when it is in the folder, so that both can be moved."""
    if file is None:
        return None
    file, folder = file.absolute(), folder.absolute()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _clean(reply: str) -> str:
    """One line without a label, quotation marks around it, and a final full stop."""
    text = _LABEL.sub("", " ".join(reply.split()).strip(_MARKS))
    return text.strip(_MARKS).rstrip(".").strip(_MARKS)


def _severity(caption: Caption) -> tuple[bool, int]:
    return bool(caption.problem), len(caption.details)
