"""Tests of the parsing of replies into hypotheses and refused texts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visdiff.proposers.replies import MAX_WORDS, clean_line, parse_reply


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a dog", "a dog"),
        ("* a dog", "a dog"),
        ("- a dog.", "a dog"),
        ("• a dog", "a dog"),
        ("1. a dog", "a dog"),
        ("10) a dog", "a dog"),
        ("(3) a dog", "a dog"),
        ("b) a dog", "a dog"),
        ("Concept 3: a dog", "a dog"),
        ('"a dog"', "a dog"),
        ("“a dog”,", "a dog"),
        ("'a dog'", "a dog"),
        ("**a dog**", "a dog"),
        ("*a dog*", "a dog"),
        ("__a dog__", "a dog"),
        ("`a dog`", "a dog"),
        ('  2.  **"A dog"**  ', "A dog"),
        ("* **Dogs**: many captions mention dogs", "Dogs"),
        ("**Dogs:** many captions mention dogs", "Dogs"),
        ("**Dogs** – in most of them", "Dogs"),
        ("Group A shows people indoors", "people indoors"),
        ("Group A: people indoors", "people indoors"),
        ("Group A has people indoors", "people indoors"),
        ("Images in Group A often feature dogs", "dogs"),
        ("Group A's images are more colourful", "colourful"),
        ("The Group A images contain dogs", "dogs"),
        ("more dogs than in Group B", "dogs"),
        ("dogs, unlike Group B", "dogs"),
        ("dogs compared to the other group", "dogs"),
        ("a higher number of dogs", "dogs"),
        ("presence of tools", "tools"),
        ("images with a dark mood", "a dark mood"),
        ("vehicles (cars, buses)", "vehicles"),
        ("vehicles (cars) [12]", "vehicles"),
        # Text that resembles decoration is kept.
        ("photos of dogs", "photos of dogs"),
        ("more than one person", "more than one person"),
        ("3D renderings", "3D renderings"),
        ("3D", "3D"),
        ("1950s cars", "1950s cars"),
        ("10. 3 dogs", "3 dogs"),
        ("T-shirt", "T-shirt"),
        ("people set a table", "people set a table"),
        ("a set A-frame", "a set A-frame"),
        ("snake_case", "snake_case"),
        ("'70s style", "'70s style"),
        ('"left" and "right"', '"left" and "right"'),
        ('a man who says "hello"', 'a man who says "hello"'),
        ("I. M. Pei building", "I. M. Pei building"),
        ("No people", "No people"),
        ("a <b>bold</b> sign & {braces}", "a <b>bold</b> sign & {braces}"),
        ("sand dunes", "sand dunes"),
        ("hand painted", "hand painted"),
        ("husband and wife", "husband and wife"),
        ("犬", None),
        ("犬と猫", "犬と猫"),
    ],
)
def test_cleaning(line: str, expected: str | None) -> None:
    phrase, reason = clean_line(line)
    assert (phrase, reason) == (expected, "") if expected else reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Here are 10 concepts:", "preface"),
        ("Sure! I can do that", "preface"),
        ("Certainly, the concepts are below", "preface"),
        ("Based on the captions, dogs", "preface"),
        ("These are what I found", "preface"),
        ("I hope this helps!", "preface"),
        ("Let me know if you need more", "preface"),
        ("## Group A", "heading"),
        ("I cannot see a difference", "refusal"),
        ("I’m sorry, but no", "refusal"),
        ("As an AI model, I see text", "refusal"),
        ("None", "refusal"),
        ("Group B has cats", "other group"),
        ("Images in Group B show cats", "other group"),
        ("Compared to Group B, dogs", "compares the groups"),
        ("women in group A", "compares the groups"),
        ("12", "no words"),
        ("---", "no words"),
        ("{", "no words"),
        ('["dogs', "broken JSON"),
        ("word " * (MAX_WORDS + 1), "longer than"),
    ],
)
def test_other_lines_are_refused_with_a_reason(line: str, reason: str) -> None:
    assert reason in clean_line(line)[1]
    texts, refused = parse_reply(line)
    assert texts == []
    assert refused[0][0] == line.strip()
    assert reason in refused[0][1]


def test_reply_in_lines() -> None:
    texts, refused = parse_reply(
        "Here are two:\n\n1. **Dogs**\n2. dogs\n\n3. Cats (many)\nI hope it helps."
    )
    assert texts == ["Dogs", "Cats"]
    assert len(refused) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"hypotheses": ["dogs", "cats"]}',
        '["dogs", "cats"]',
        '```json\n{"concepts": ["dogs", "cats"]}\n```',
        "```\n* dogs\n* cats\n```",
    ],
    ids=["object", "list", "fenced", "fenced lines"],
)
def test_json_in_the_text(text: str) -> None:
    assert parse_reply(text) == (["dogs", "cats"], [])


def test_parsed_data_has_priority_and_non_text_is_refused() -> None:
    texts, refused = parse_reply("whatever", {"hypotheses": ["dogs", 3, None, "", {"a": "cats"}]})
    assert texts == ["dogs"]
    assert [reason for _, reason in refused] == ["not a text"] * 3
    assert parse_reply("whatever", []) == ([], [])


@given(st.text())
def test_any_reply_is_parsed_without_an_error(text: str) -> None:
    texts, refused = parse_reply(text)
    assert len({t.casefold() for t in texts}) == len(texts)
    assert all(t and t == t.strip() and "\n" not in t for t in texts)
    assert all(reason for _, reason in refused)


@given(st.lists(st.text(max_size=40), max_size=6))
def test_every_item_is_kept_a_repeat_or_refused(items: list[str]) -> None:
    texts, refused = parse_reply("", json.loads(json.dumps(items)))
    full = [item for item in items if item.strip()]
    assert len(texts) + len(refused) <= len(full)
    assert bool(texts or refused) == bool(full)


def test_cleaning_twice_changes_nothing() -> None:
    for line in ('1. **"Dogs"** (many)', "Group A shows more dogs than Group B", "* - a. cat"):
        once, reason = clean_line(line)
        assert not reason
        assert clean_line(once) == (once, "")
