"""Words of class prompts by a chat model, as in He et al. (arXiv 2311.04315, appendix A).

The bundled pools fit any thing, animal or person. A chat model can be asked for words that fit one
class noun. Every slot is asked until it has the paper's number of words or a round brings no more;
words that evaluation prompts ask for are left out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from editing.personalize.instructions import POOL_INSTRUCTION, POOL_SLOTS, VERSION
from editing.personalize.regularization import Kind, Pools, evaluation_phrases
from visdiff.llm import ChatModel, Failure, Message, Request

SIZES: Mapping[str, int] = MappingProxyType({
    "shape": 85, "colour": 93, "texture": 96, "body": 89, "build": 89, "skin": 86, "emotion": 75,
    "settings": 455, "motions": 744, "styles": 99,
})  # fmt: skip
"""Words of each slot in the paper; it has no numbers for people, who get those of animals."""

SCHEMA: Mapping[str, Any] = MappingProxyType(
    {
        "type": "object",
        "properties": {"words": {"type": "array", "items": {"type": "string"}}},
        "required": ["words"],
        "additionalProperties": False,
    }
)
"""JSON schema of a reply."""

# Words of one request; longer lists are cut by the limit of a reply or repeat themselves.
_AT_ONCE = 60
# Known words that a request names; all of them would fill the context of a small model.
_MENTIONED = 150
_MOST_ROUNDS = 40
_MOST_WORDS: Mapping[str, int] = {"settings": 9, "motions": 12, "styles": 4}
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


@dataclass(frozen=True)
class AskedPools:
    """Pools whose words a chat model wrote.

    Attributes:
        pools: The words, without those of evaluation prompts.
        counts: Words of each slot that the model wrote, before those were left out.
        failures: Slot → reason why it has fewer words than asked for, or the bundled ones.
        refused: Replies that are no words for the slot: too long, or with the class noun.
    """

    pools: Pools
    counts: Mapping[str, int]
    failures: Mapping[str, str]
    refused: tuple[str, ...] = ()


@dataclass
class _Slot:
    """The words of a slot so far."""

    name: str
    wanted: int
    words: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    idle: int = 0

    @property
    def open(self) -> bool:
        # A second question may bring words that the first did not, or succeed after a failure.
        return len(self.words) < self.wanted and self.idle < 2


def ask_pools(
    noun: str,
    kind: Kind,
    chat: ChatModel,
    most: int | None = None,
    evaluation: Sequence[str] | None = None,
    max_tokens: int = 2000,
    progress: bool = False,
) -> AskedPools:
    """Asks a chat model for the words of class prompts.

    Args:
        noun: The class noun, "backpack".
        kind: What it names; it decides the slots.
        chat: The chat model; it needs no vision.
        most: Most words of a slot; the paper's numbers by default (`SIZES`).
        evaluation: Phrases of evaluation prompts, as for `Pools.of`.
        max_tokens: Most tokens of a reply.
        progress: Show progress bars on stderr.

    Returns:
        The pools. A slot without any word keeps the bundled words and is named in the failures.

    Raises:
        InputError: The kind is unknown, the chat model cannot be called at all, or the evaluation
            phrases leave no word in a slot.
    """
    bundled = Pools.of(kind, ())
    setting = "settings" if kind == "thing" else "motions"
    slots = [
        _Slot(name, SIZES[name] if most is None else min(most, SIZES[name]))
        for name in (*bundled.adjectives, setting, "styles")
    ]
    refused: list[str] = []
    for round_ in range(_MOST_ROUNDS):
        asked = [slot for slot in slots if slot.open]
        if not asked:
            break
        requests = [_request(slot, noun, kind, max_tokens, round_) for slot in asked]
        for slot, reply in zip(asked, chat.answer(requests, progress), strict=True):
            if isinstance(reply, Failure):
                slot.failure, slot.idle = reply.reason, slot.idle + 1
                continue
            before = len(slot.words)
            refused += _add(slot, reply.data["words"], noun)
            slot.idle = 0 if len(slot.words) > before else slot.idle + 1
    found = {slot.name: tuple(slot.words.values()) for slot in slots if slot.words}
    pools = replace(
        bundled,
        adjectives=MappingProxyType(
            {name: found.get(name, words) for name, words in bundled.adjectives.items()}
        ),
        settings=found.get(setting, bundled.settings),
        styles=found.get("styles", bundled.styles),
    ).without(evaluation_phrases(kind) if evaluation is None else evaluation)
    failures = {slot.name: _shortfall(slot) for slot in slots if len(slot.words) < slot.wanted}
    return AskedPools(pools, {s.name: len(s.words) for s in slots}, failures, tuple(refused))


def question(slot: str, noun: str, kind: Kind, count: int, known: Sequence[str] = ()) -> str:
    """Returns the question for words of one slot.

    Args:
        slot: Name of the slot, "shape".
        noun: The class noun.
        kind: What it names.
        count: Number of words.
        known: Words that are not to be repeated.
    """
    bundled = Pools.of(kind, ())
    setting = "settings" if kind == "thing" else "motions"
    words: Mapping[str, str] = {
        **{name: entries[0] for name, entries in bundled.adjectives.items()},
        setting: bundled.settings[0],
        "styles": bundled.styles[0],
    }
    before = "a {} " + noun if slot in bundled.adjectives else f"a {noun} {{}}"
    example = ("a {} of a " + noun if slot == "styles" else before).format(words[slot])
    return POOL_INSTRUCTION.format(
        count=count,
        what=POOL_SLOTS[slot].format(noun=noun),
        example=f"'{example}'",
        words=_MOST_WORDS.get(slot, 3),
        known=f" Leave out: {', '.join(known)}." if known else "",
    )


def _request(slot: _Slot, noun: str, kind: Kind, max_tokens: int, round_: int) -> Request:
    count = min(slot.wanted - len(slot.words), _AT_ONCE)
    known = list(slot.words.values())[-_MENTIONED:]
    return Request(
        (Message("user", (question(slot.name, noun, kind, count, known),)),),
        f"personalize-pool-{slot.name}@{VERSION}",
        schema=SCHEMA,
        max_tokens=max_tokens,
        sample=round_,
    )


def _add(slot: _Slot, replies: Sequence[str], noun: str) -> list[str]:
    """Adds new words to a slot; returns those that are refused."""
    refused = []
    for reply in replies:
        word = " ".join(_BULLET.sub("", reply).split()).strip("\"'“”‘’. ")
        names_noun = re.search(rf"\b{re.escape(noun)}\b", word, re.IGNORECASE) is not None
        if not word or names_noun or len(word.split()) > _MOST_WORDS.get(slot.name, 3):
            refused.append(f"{slot.name}: {reply}")
        elif len(slot.words) < slot.wanted:
            slot.words.setdefault(word.casefold(), word)
    return refused


def _shortfall(slot: _Slot) -> str:
    why = f" ({slot.failure})" if slot.failure else ""
    if not slot.words:
        return f"no words from the model{why}; the bundled ones are used"
    return f"{len(slot.words)} of {slot.wanted} words{why}"
