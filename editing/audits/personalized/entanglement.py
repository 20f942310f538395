"""Entanglement: what the references have in common, drawn again where no prompt asks for it.

For each thing that at least half of the references' captions state, the share of the subject's
images that show it is compared with the share in the untaught model's images of the class noun,
from the same noise. Prompts that ask for something of its kind are left out. Styles are the
exception. A medium (a pencil sketch) should not appear unless a prompt names it, also where the
prompt names another one. The hand of an artist may be the subject's own (a drawn character), so it
counts only where a prompt asks for another style.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from editing.audits.personalized.attributes import KINDS, Attribute, Kind, attributes, common
from editing.audits.personalized.findings import Candidate, paired_p, share_text
from visdiff.errors import InputError

_SENTENCES: Mapping[Kind, str] = {
    "background": "Background: {after} images of the subject are {thing} although the prompt "
    "names no place; untaught {noun}: {before}",
    "nearby object": "Nearby object: {after} images of the subject show {thing} next to it "
    "although the prompt names nothing else; untaught {noun}: {before}",
    "worn object": "Worn object: {after} images of the subject show it with {thing} although the "
    "prompt names nothing worn; untaught {noun}: {before}",
    "style": "Style: {after} images of the subject are in {thing} although the prompt does not "
    "name it; untaught {noun}: {before}",
    "pose": "Pose: {after} images of the subject show it {thing} although the prompt names no "
    "pose; untaught {noun}: {before}",
}


def entanglement(
    references: Sequence[str | None],
    taught: Sequence[str | None],
    untaught: Sequence[str | None],
    prompts: Sequence[str],
    noun: str,
    rng: np.random.Generator,
) -> tuple[list[Candidate], dict[str, str]]:
    """Compares what captions state of the subject's images and of the class noun's.

    Args:
        references: Captions of the references; None where captioning failed.
        taught: m captions of the subject's images by the taught model.
        untaught: m captions of the class noun's images by the untaught model, from the same noise.
        prompts: m prompts of both, without the identifier.
        noun: The class noun.
        rng: Generator of the tests.

    Returns:
        A candidate for each thing that the references share, and kind → why it was not tested.

    Raises:
        InputError: No reference has a caption.
    """
    known = [text for text in references if text]
    if not known:
        raise InputError("Expected captions of the references, got none; choose another captioner.")
    missing: dict[str, str] = {}
    candidates: list[Candidate] = []
    shared = common(known, noun)
    for kind in KINDS:
        own = [a for a in shared if a.kind == kind]
        if not own:
            missing[kind] = "the captions of the references have none in common"
        for attribute in own:
            tested = _compare(attribute, taught, untaught, prompts, noun, rng)
            if isinstance(tested, str):
                missing[kind] = tested
            else:
                candidates.append(tested)
    return candidates, {k: r for k, r in missing.items() if k not in {c.kind for c in candidates}}


def caption_notes(
    references: Sequence[str | None], taught: Sequence[str | None], untaught: Sequence[str | None]
) -> list[str]:
    """Returns a sentence on the images without a caption, which `entanglement` leaves out."""
    sets = {"references": references, "taught": taught, "untaught": untaught}
    lost = {name: sum(not text for text in texts) for name, texts in sets.items()}
    named = ", ".join(f"{n} of {len(sets[name])} {name}" for name, n in lost.items() if n)
    return [f"Images without a caption are left out of the entanglement: {named}."] * bool(named)


def _compare(
    attribute: Attribute,
    taught: Sequence[str | None],
    untaught: Sequence[str | None],
    prompts: Sequence[str],
    noun: str,
    rng: np.random.Generator,
) -> Candidate | str:
    """Returns the candidate, or why no image could be compared."""
    rows = _rows(attribute, prompts, noun)
    pairs = [
        (_states(taught[i] or "", attribute, noun), _states(untaught[i] or "", attribute, noun))
        for i in rows
        if taught[i] and untaught[i]
    ]
    if not pairs:
        other = "asks for another style" if attribute.kind == "style" else "leaves it open"
        return f"no prompt {other}, or the images have no captions ({attribute.text!r})"
    after, before = np.array(pairs, dtype=bool).T
    sentence = _SENTENCES[attribute.kind].format(
        thing=attribute.text,
        after=share_text(after),
        before=share_text(before),
        noun=noun,
    )
    size = float(after.mean() - before.mean())
    return Candidate(attribute.kind, sentence, size, paired_p(after, before, rng), attribute.text)


def _states(caption: str, attribute: Attribute, noun: str) -> bool:
    return any(
        a.kind == attribute.kind and a.key == attribute.key for a in attributes(caption, noun)
    )


def _rows(attribute: Attribute, prompts: Sequence[str], noun: str) -> list[int]:
    """Returns the images that should not show the attribute more often than the noun's."""
    asked = [
        [a.key for a in attributes(prompt, noun) if a.kind == attribute.kind] for prompt in prompts
    ]
    free = [i for i, keys in enumerate(asked) if not keys]
    if attribute.kind != "style":
        return free
    others = [i for i, keys in enumerate(asked) if keys and attribute.key not in keys]
    return sorted(free + others) if attribute.is_medium else others
