"""Structured regularisation prompts (He et al., arXiv 2311.04315)."""

import re

import numpy as np
import pytest

from editing.generate.phrases import with_article
from editing.personalize.regularization import (
    ClassPrompt,
    Pools,
    background_of,
    class_prompts,
    evaluation_phrases,
)
from visdiff.errors import InputError

KINDS = ("thing", "living", "person")


def prompts(
    kind: str = "thing", count: int = 100, seed: int = 0, **more: object
) -> list[ClassPrompt]:
    rng = np.random.default_rng(seed)
    return class_prompts("dog", Pools.of(kind), count, rng, **more)  # type: ignore[arg-type]


def test_the_pools_have_the_sizes_of_the_paper() -> None:
    thing, living = Pools.of("thing", ()), Pools.of("living", ())
    assert [len(w) for w in thing.adjectives.values()] == [85, 93, 96]
    assert len(thing.settings) == 455
    assert [len(w) for w in living.adjectives.values()] == [89, 86, 75]
    assert len(living.settings) == 744
    assert len(thing.styles) == 99


@pytest.mark.parametrize("kind", KINDS)
def test_no_pool_has_an_entry_twice(kind: str) -> None:
    pools = Pools.of(kind, ())  # type: ignore[arg-type]
    for words in (*pools.adjectives.values(), pools.settings, pools.styles):
        assert len(set(words)) == len(words)


def test_the_parts_have_the_shares_of_the_paper() -> None:
    parts = [p.part for p in prompts(count=100, backgrounds=["on a rock"])]
    assert {part: parts.count(part) for part in set(parts)} == {
        "against": 20,
        "photo": 60,
        "styled": 20,
    }


def test_without_captions_the_photographs_take_the_share() -> None:
    parts = [p.part for p in prompts(count=10)]
    assert parts.count("photo") == 8
    assert "against" not in parts


def test_against_prompts_have_the_background_of_the_training_images() -> None:
    settings = {p.setting for p in prompts(backgrounds=["on a rock"]) if p.part == "against"}
    assert settings == {"on a rock"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_distinct_prompts_and_always_the_same(kind: str) -> None:
    texts = [p.text for p in prompts(kind, 300)]
    assert len(set(texts)) == 300
    assert texts == [p.text for p in prompts(kind, 300)]
    assert texts != [p.text for p in prompts(kind, 300, seed=1)]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_prompts_are_excluded_by_default(kind: str) -> None:
    text = " ".join(p.text for p in prompts(kind, 500))
    for word in ("snow", "beach", "cobblestone"):
        assert not re.search(rf"\b{word}\b", text)
    assert Pools.of(kind).excluded  # type: ignore[arg-type]
    assert "in the snow" in evaluation_phrases(kind)  # type: ignore[arg-type]
    everything = Pools.of(kind, ())  # type: ignore[arg-type]
    assert not everything.excluded
    assert any("snow" in setting for setting in everything.settings)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("upright dog", "an upright dog"),
        ("unicorn", "a unicorn"),
        ("U-shaped vase", "a U-shaped vase"),
        ("one-eyed cat", "a one-eyed cat"),
        ("orange", "an orange"),
        ("ukiyo-e print", "a ukiyo-e print"),
        ("ASCII art image", "an ASCII art image"),
        ("umbrella", "an umbrella"),
        ("", ""),
    ],
)
def test_articles_follow_the_sound(phrase: str, expected: str) -> None:
    assert with_article(phrase) == expected


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_dropped_words_leave_correct_articles(probability: float) -> None:
    rng = np.random.default_rng(0)
    for prompt in prompts("living", 300):
        text = prompt.drop_words(probability, rng).text
        assert not re.search(r"\ba [aeio]", text)
        assert not re.search(r"\ban [^aeioAu]", text)
        assert "  " not in text
        assert " dog " in text


def test_words_are_dropped_with_the_given_probability() -> None:
    rng = np.random.default_rng(0)
    left = [len(p.drop_words(0.3, rng).adjectives) for p in prompts(count=1000)]
    assert np.mean(left) / 3 == pytest.approx(0.7, abs=0.03)
    assert np.mean([n == 3 for n in left]) == pytest.approx(0.343, abs=0.05)


def test_the_background_is_what_follows_the_noun() -> None:
    assert background_of("a olis dog sitting on a red couch.", "dog") == "sitting on a red couch"
    assert background_of("a olis dog", "dog") == ""
    assert background_of("a dogged cat", "dog") == ""


@pytest.mark.parametrize(
    ("kind", "noun", "count", "message"),
    [
        ("plant", "dog", 10, "Expected the kind of a class"),
        ("thing", " ", 10, "Expected a class noun"),
        ("thing", "dog", 0, "Expected at least one"),
    ],
)
def test_bad_input_is_one_sentence(kind: str, noun: str, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_prompts(noun, Pools.of(kind), count, np.random.default_rng(0))  # type: ignore[arg-type]
