"""From what a language model wrote to hypotheses: read it, clean it, refuse the rest with a reason.

Models were asked for a list of short phrases. They also greet, number, quote, embolden, explain,
and name the groups; nothing of that may reach a ranker, and nothing may be lost without a reason.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

#: Longest hypothesis, in words: what is longer is an explanation.
MAX_WORDS = 30

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
# "set a" in lower case is English: people set a table.
_LETTERED = r"(?-i:(?:(?:[Gg]roup|GROUP)\s+[ABab]|(?:[Ss]et|SET)\s+[AB])\b(?!-))"
_GROUP = rf"(?:the\s+)?{_LETTERED}"
_PICTURES = r"(?:images?|pictures?|photos?|captions?)"
_TELLS = (
    r"(?:often|mostly|typically|generally|usually|mainly|frequently|also|more|likely|clearly)\s+"
)
_SAYS = (
    r"(?:shows?|has|have|contains?|features?|includes?|depicts?|displays?|portrays?|involves?|"
    r"focus(?:es)?\s+on|tends?\s+to\s+(?:show|have|contain|feature|include|depict|be)|"
    r"(?:is|are)\s+more\s+likely\s+to\s+(?:show|have|contain|feature|include|depict|be)|"
    r"(?:is|are)(?=\s))"
)
_ABOUT = re.compile(
    rf"^(?:{_PICTURES}\s+(?:in|from|of)\s+)?{_GROUP}(?:['’]s)?(?:\s+{_PICTURES})?"
    rf"\s*(?:[:,–—-]\s*|\s(?:{_TELLS})*{_SAYS}\s+)",
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
_NAMES_GROUPS = re.compile(rf"\b{_LETTERED}|\bthe\s+other\s+(?:group|set)\b", re.IGNORECASE)
_THE_OTHER = re.compile(
    rf"^(?:{_PICTURES}\s+(?:in|from|of)\s+)?(?:the\s+)?"
    r"(?-i:(?:[Gg]roup|GROUP)\s+[Bb]|(?:[Ss]et|SET)\s+B)\b",
    re.IGNORECASE,
)


def read(text: str, data: Any = None) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the hypotheses in a reply to "more true of Group A than of Group B", cleaned.

    Args:
        text: The reply.
        data: The reply's parsed JSON where the backend has it: a list of texts, or an object with
            one. Without it, JSON in the text is found, else every line counts.

    Returns:
        Hypotheses in the order of the reply, each once; and what was refused, with the reason.
    """
    kept: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    for item in _items(text, data):
        if not isinstance(item, str):
            refused.append((json.dumps(item, default=str), "not a text"))
            continue
        if not item.strip():
            continue
        phrase, reason = clean(item)
        if reason:
            refused.append((item.strip(), reason))
        else:
            kept.setdefault(phrase.casefold(), phrase)
    return list(kept.values()), refused


def clean(line: str) -> tuple[str, str]:
    """Return the hypothesis in a line of a reply, and "", or what is left and why it is none."""
    raw = " ".join(line.split())
    if re.fullmatch(r"#+\s.*", raw):
        return raw, "a heading"
    phrase = _bare(raw)
    if _APOLOGY.search(phrase):
        return phrase, "a refusal to answer"
    if _OPENING.search(phrase) or phrase.endswith(":"):
        return phrase, "a preface or closing remark"
    if _THE_OTHER.search(phrase):
        return phrase, "said of the other group"
    phrase = _COMPARED.sub("", _ABOUT.sub("", phrase))
    phrase = _bare(_AMOUNT.sub("", _bare(phrase)))
    if not re.search(r"[^\W\d_]", phrase) or len(re.findall(r"[^\W_]", phrase)) < 2:
        return phrase, "no words"
    if phrase[0] in "[{" or "```" in phrase:
        return phrase, "broken JSON or code"
    if _NAMES_GROUPS.search(phrase):
        return phrase, "compares the groups instead of naming a concept"
    if len(phrase.split()) > MAX_WORDS:
        return phrase, f"longer than {MAX_WORDS} words"
    return phrase, ""


def _bare(phrase: str) -> str:
    """Take off, until nothing changes, what surrounds a phrase."""
    before = None
    while phrase != before:
        before = phrase
        phrase = _LABEL.sub("", _BULLET.sub("", phrase.strip()))
        if head := _BOLD_HEAD.match(phrase):
            # "**Dogs**: many captions mention them": the bold part is the concept.
            phrase = head[1]
        phrase = _EMPHASIS.sub(lambda m: m[2] or m[3], phrase)
        phrase = _PARENTHESES.sub("", phrase) or phrase
        phrase = re.sub(r"(?<=[^.])[.,;]$", "", phrase)
        if len(phrase) > 1 and _QUOTES.get(phrase[0]) == phrase[-1]:
            inner = phrase[1:-1]
            # Not of '"left" and "right"', which only begins and ends with one.
            phrase = phrase if phrase[0] in inner or phrase[-1] in inner else inner
    return phrase


def _items(text: str, data: Any) -> Iterable[Any]:
    if data is None:
        text = _FENCE.sub("", text).strip()
        if text.startswith(("[", "{")):
            try:
                data = json.loads(text)
            except ValueError:
                data = None
    if isinstance(data, Mapping):
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else data.get("hypotheses")
    if isinstance(data, list):
        return data
    return text.splitlines()
