"""Parsing of a language model's reply into hypotheses; other text is refused with a reason.

Models are asked for a list of short phrases. Replies also contain greetings, numbering, quotation
marks, bold type, explanations and names of the groups. None of that should reach a ranker, and
every text that is dropped has a reason.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

#: Maximum number of words in a hypothesis; longer texts are explanations.
MAX_WORDS = 30

# More than `MAX_WORDS` words have, and little enough for patterns of quadratic time.
_MAX_CHARACTERS = 2000

_FENCE = re.compile(r"^\s*```[\w-]*\s*$", re.MULTILINE)
_BULLET = re.compile(r"^(?:[*•·▪◦‣●–—+-]\s+|[•·▪◦‣●]\s*|>\s+|\(?(?:\d{1,3}|[a-z])[.):]\)?\s+)")
_LABEL = re.compile(
    r"^(?:hypothesis|concept|difference|answer|idea)(?:\s*#?\d+)?\s*[:.)–—-]\s+", re.IGNORECASE
)
_BOLD_HEAD = re.compile(r"^(?:\*\*|__)(.+?)(?::\s*(?:\*\*|__)|(?:\*\*|__)\s*(?::|[–—-]\s))\s*\S")
_EMPHASIS = re.compile(
    r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1|(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])"
)
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'", "‘": "’", "`": "`"}
_PARENTHESES = re.compile(r"\s*[(\[][^()\[\]]*[)\]]\s*$")
# Lower-case "set a" is ordinary English: people set a table.
_LETTERED = r"(?-i:(?:(?:[Gg]roup|GROUP)\s+[ABab]|(?:[Ss]et|SET)\s+[AB])\b(?!-))"
_GROUP = rf"(?:the\s+)?{_LETTERED}"
_PICTURES = r"(?:images?|pictures?|photos?|captions?)"
_ADVERBS = (
    r"(?:often|mostly|typically|generally|usually|mainly|frequently|also|more|likely|clearly)\s+"
)
_VERBS = (
    r"(?:shows?|has|have|contains?|features?|includes?|depicts?|displays?|portrays?|involves?|"
    r"focus(?:es)?\s+on|tends?\s+to\s+(?:show|have|contain|feature|include|depict|be)|"
    r"(?:is|are)\s+more\s+likely\s+to\s+(?:show|have|contain|feature|include|depict|be)|"
    r"(?:is|are)(?=\s))"
)
_ABOUT = re.compile(
    rf"^(?:{_PICTURES}\s+(?:in|from|of)\s+)?{_GROUP}(?:['’]s)?(?:\s+{_PICTURES})?"
    rf"\s*(?:[:,–—-]\s*|\s(?:{_ADVERBS})*{_VERBS}\s+)",
    re.IGNORECASE,
)
_COMPARED = re.compile(
    rf",?\s+(?:(?:as\s+)?(?:compared|opposed|in\s+contrast)\s+(?:to|with)|than|unlike|versus|vs\.?)"
    rf"\s+(?:(?:those|that|the\s+ones|{_PICTURES})\s+)?(?:(?:in|of|from)\s+)?"
    rf"(?:{_GROUP}|the\s+other\s+(?:group|set))\b.*$",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"^(?:(?:a\s+)?(?:more|greater|higher|larger|increased)\s+"
    r"(?:(?:number|amount|frequency|proportion|prevalence|presence|variety)\s+of\s+|"
    r"(?:frequent|common|prevalent)\s+|(?!than\b))|"
    r"(?:the\s+)?presence\s+of\s+|"
    r"(?:images?|pictures?)\s+(?:with|of|showing|featuring|containing|depicting|that\s+(?:show|contain|"
    r"feature|depict))\s+(?=\w))",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(?:here\s+(?:are|is)\b|(?:sure|certainly|of\s+course|absolutely|okay|ok)\s*[,.!:]|"
    r"based\s+on\s+(?:the|these|your)\b|(?:these|the\s+following)\s+(?:are|concepts|differences)\b|"
    r"i\s+hope\b|let\s+me\s+know\b|please\s+(?:note|let)\b|note\s+that\b|in\s+(?:summary|conclusion)\b|"
    r"overall,)",
    re.IGNORECASE,
)
_APOLOGY = re.compile(
    r"^(?:i['’]?m\s+(?:sorry|unable|not\s+able)|i\s+am\s+(?:sorry|unable|not\s+able)|sorry\b|"
    r"i\s+(?:can(?:not|['’]t)|don['’]t|do\s+not|could\s+not|couldn['’]t)\b|as\s+an\s+ai\b|"
    r"unfortunately\b|(?:none|n/a|no\s+differences?(?:\s+found)?)\W*$)",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\W*(?:none|n/a|no\s+differences?(?:\s+found)?)\W*", re.IGNORECASE)
_NAMES_GROUPS = re.compile(rf"\b{_LETTERED}|\bthe\s+other\s+(?:group|set)\b", re.IGNORECASE)
_THE_OTHER = re.compile(
    rf"^(?:{_PICTURES}\s+(?:in|from|of)\s+)?(?:the\s+)?"
    r"(?-i:(?:[Gg]roup|GROUP)\s+[Bb]|(?:[Ss]et|SET)\s+B)\b",
    re.IGNORECASE,
)


def parse_reply(text: str, data: Any = None) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the hypotheses in a reply to "more true of Group A than of Group B".

    Args:
        text: The reply.
        data: The reply's JSON if the backend parsed it: a list of texts, or an object with such a
            list. If None, `text` is parsed as JSON or else as lines.

    Returns:
        The distinct hypotheses in the order of the reply, and the refused texts with the reasons.
    """
    kept: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    for item in _items(text, data):
        if not isinstance(item, str):
            refused.append((json.dumps(item, default=str), "not a text"))
            continue
        if not item.strip():
            continue
        phrase, reason = clean_line(item)
        if reason:
            refused.append((item.strip(), reason))
        else:
            kept.setdefault(phrase.casefold(), phrase)
    return list(kept.values()), refused


def clean_line(line: str) -> tuple[str, str]:
    """Returns the hypothesis in a line and "", or the remaining text and why it is refused."""
    raw = " ".join(line.split())
    if len(raw) > _MAX_CHARACTERS:
        return raw[:_MAX_CHARACTERS], f"longer than {MAX_WORDS} words"
    if re.fullmatch(r"#+\s.*", raw):
        return raw, "a heading"
    phrase = _strip_decoration(raw)
    if _APOLOGY.search(phrase):
        return phrase, "a refusal to answer"
    if _OPENING.search(phrase) or phrase.endswith(":"):
        return phrase, "a preface or closing remark"
    if _THE_OTHER.search(phrase):
        return phrase, "a statement about the other group"
    phrase = _COMPARED.sub("", _ABOUT.sub("", phrase))
    phrase = _strip_decoration(_AMOUNT.sub("", _strip_decoration(phrase)))
    if not re.search(r"[^\W\d_]", phrase) or len(re.findall(r"[^\W_]", phrase)) < 2:
        return phrase, "no words"
    if phrase[0] in "[{" or "```" in phrase:
        return phrase, "broken JSON or code"
    if _NAMES_GROUPS.search(phrase):
        return phrase, "compares the groups instead of naming a concept"
    if len(phrase.split()) > MAX_WORDS:
        return phrase, f"longer than {MAX_WORDS} words"
    return phrase, ""


def is_none(line: str) -> bool:
    """Returns whether a line says that there is nothing to name."""
    return _NOTHING.fullmatch(line) is not None


def _strip_decoration(phrase: str) -> str:
    """Returns a phrase without bullets, labels, emphasis, parentheses, quotation marks."""
    before = None
    while phrase != before:
        before = phrase
        phrase = _LABEL.sub("", _BULLET.sub("", phrase.strip()))
        if head := _BOLD_HEAD.match(phrase):
            # In "**Dogs**: many captions mention them", the bold part is the concept.
            phrase = head[1]
        phrase = _EMPHASIS.sub(lambda m: m[2] or m[3], phrase)
        phrase = _PARENTHESES.sub("", phrase) or phrase
        phrase = re.sub(r"(?<=[^.])[.,;]$", "", phrase)
        if len(phrase) > 1 and _QUOTES.get(phrase[0]) == phrase[-1]:
            inner = phrase[1:-1]
            # In '"left" and "right"', the quotation marks at the ends are not one pair.
            phrase = phrase if phrase[0] in inner or phrase[-1] in inner else inner
    return phrase


def _items(text: str, data: Any) -> Iterable[Any]:
    if data is None:
        text = _FENCE.sub("", text).strip()
        if text.startswith(("[", "{")):
            try:
                data = json.loads(text)
            except (ValueError, RecursionError):
                data = None
    if isinstance(data, Mapping):
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else data.get("hypotheses")
    if isinstance(data, list):
        return data
    return text.splitlines()
