"""Tests of the n-gram proposer: planted differences, directions, readable phrases."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from visdiff.errors import InputError
from visdiff.proposers.ngrams import NgramProposer, log_odds_z
from visdiff.results import Hypothesis
from visdiff.words import ARTICLES

SUBJECTS = ["dog", "cat", "sailboat", "firefighter", "rocket", "apple", "church", "guitar"]
PLACES = ["on the grass", "in the snow", "in front of a brick wall", "at sunset", "on the sand"]


def caption(rng: np.random.Generator, place: str | None = None, subject: str | None = None) -> str:
    thing = subject or str(rng.choice(SUBJECTS))
    where = place or str(rng.choice(PLACES))
    return str(
        rng.choice(
            [f"a {thing} {where}", f"A photo of a {thing} {where}.", f"there is a {thing} {where}"]
        )
    )


def texts(found: list[Hypothesis], direction: str) -> list[str]:
    return [h.text for h in found if h.direction == direction]


def propose(a: list[str], b: list[str], **options: float) -> list[Hypothesis]:
    return NgramProposer(**options).from_captions(a, b)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", PLACES)
def test_planted_place_comes_first(place: str) -> None:
    rng = np.random.default_rng(1)
    a = [caption(rng, place) for _ in range(60)]
    b = [caption(rng) for _ in range(60)]
    assert texts(propose(a, b), "A")[0] == place
    assert texts(propose(b, a), "B")[0] == place


def test_planted_subject_comes_first_with_its_article() -> None:
    rng = np.random.default_rng(2)
    a = [caption(rng, subject="penguin" if i % 2 else None) for i in range(60)]
    b = [caption(rng) for _ in range(60)]
    found = propose(a, b)
    assert texts(found, "A")[0] == "a penguin"
    assert "a penguin" not in texts(found, "B")


def test_both_directions_in_one_pass() -> None:
    found = propose(["a red car on a road"] * 9, ["a blue boat at sea"] * 9)
    assert texts(found, "A")[0] == "a red car on a road"
    assert texts(found, "B")[0] == "a blue boat at sea"
    assert {h.proposer for h in found} == {"ngrams"}


def test_swapping_the_sets_swaps_the_directions() -> None:
    rng = np.random.default_rng(3)
    a, b = ([caption(rng, p if i % 2 else None) for i in range(40)] for p in PLACES[:2])
    found, swapped = propose(a, b), propose(b, a)
    assert texts(found, "A") == texts(swapped, "B")
    assert texts(found, "B") == texts(swapped, "A")


def test_caption_order_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    a = [caption(rng, PLACES[0] if i % 2 else None) for i in range(50)]
    b = [caption(rng) for _ in range(50)]
    first = propose(a, b)
    assert first
    for seed in range(3):
        shuffle = np.random.default_rng(seed)
        assert propose(list(shuffle.permutation(a)), list(shuffle.permutation(b))) == first


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        (["a dog"], []),
        ([], ["a dog"]),
        ([""], ["a dog"]),
        (["a dog on the grass"] * 8, ["a dog on the grass"] * 8),
        (["of the", "in a", "the"], ["is it", "the a", "."]),
        (["one thing"], ["another matter"]),
    ],
)
def test_no_difference_gives_no_phrases(a: list[str], b: list[str]) -> None:
    assert propose(a, b) == []


def test_without_a_difference_there_are_few_candidates() -> None:
    counts = []
    strong = 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        a, b = ([caption(rng) for _ in range(60)] for _ in range(2))
        counts.append(len(propose(a, b)))
        strong += len(propose(a, b, min_z=3.5))
    assert np.mean(counts) < 10
    assert strong <= 2


def test_max_hypotheses_per_direction() -> None:
    a = [f"a{i} thing{i}" for i in range(50) for _ in range(6)]
    b = [f"b{i} matter{i}" for i in range(50) for _ in range(6)]
    found = propose(a, b, max_hypotheses=7, min_z=0.5)
    assert len(texts(found, "A")) == len(texts(found, "B")) == 7


def test_phrases_read_as_concepts() -> None:
    rng = np.random.default_rng(5)
    a = [caption(rng, "in front of a brick wall") + " next to a hammer" for _ in range(80)]
    b = [caption(rng, "on the grass") for _ in range(80)]
    bad_ends = ARTICLES | {"of", "in", "on", "front", "to", "next", "is", "there", "and"}
    for hypothesis in propose(a, b, min_z=0.5):
        words = hypothesis.text.lower().split()
        assert words[-1] not in bad_ends, hypothesis.text
        assert words[0] not in {"of", "and", "is", "there", "front", "to"}, hypothesis.text


def test_longer_phrase_replaces_its_parts() -> None:
    rng = np.random.default_rng(6)
    a = [caption(rng, "in front of a brick wall") for _ in range(40)]
    b = [caption(rng, "on the grass") for _ in range(40)]
    found = propose(a, b)
    assert "in front of a brick wall" in texts(found, "A")
    for part in ("brick", "a brick", "wall", "brick wall", "a brick wall", "front"):
        assert part not in texts(found, "A")
    assert "on the grass" in texts(found, "B")
    assert "grass" not in texts(found, "B")


def test_shorter_phrase_stays_if_its_context_varies() -> None:
    things = ["red", "painted", "crumbling", "mossy", "old", "huge", "sunlit", "wet"]
    a = [f"a {w} brick wall behind a {s}" for w in things for s in SUBJECTS]
    b = [f"a {w} meadow behind a {s}" for w in things for s in SUBJECTS]
    found = texts(propose(a, b), "A")
    assert found[0] == "brick wall"
    assert not any("mossy" in text for text in found)


def test_informative_longer_phrase_stays_with_its_part() -> None:
    a = ["a brick wall"] * 30 + ["a wooden wall"] * 30 + ["a field"] * 40
    b = ["a wooden wall"] * 20 + ["a field"] * 80
    assert texts(propose(a, b), "A")[:2] == ["wall", "a brick wall"]
    assert "a wooden wall" not in texts(propose(a, b), "A")  # no more informative than "wall"


def test_near_duplicates_are_removed() -> None:
    a = ["a dog on the grass", "dogs on the grass"] * 20
    b = ["a cat in the snow"] * 40
    found = texts(propose(a, b), "A")
    assert len(found) == len({text.replace("dogs", "dog").removeprefix("a ") for text in found})
    a = ["a brown dog on the green grass"] * 30
    assert texts(propose(a, ["a cat"] * 30), "A") == ["a brown dog", "on the green grass"]


def test_adjectives_lose_their_article() -> None:
    a = [f"a striped {s}" for s in SUBJECTS for _ in range(4)]
    b = [f"a plain {s}" for s in SUBJECTS for _ in range(4)]
    found = propose(a, b)
    assert texts(found, "A")[0] == "striped"
    assert texts(found, "B")[0] == "plain"


def test_markup_is_not_escaped() -> None:
    a = ["a <b>bold</b> sign & <script>alert(1)</script>"] * 10
    found = " ".join(texts(propose(a, ["a dog"] * 10), "A"))
    assert "<b>bold</b>" in found
    assert "<script>alert(1)</script>" in found
    assert "&lt;" not in found


def test_names_keep_their_capitals() -> None:
    a = ["A view of Paris in NASA style"] * 10
    found = " ".join(texts(propose(a, ["a dog"] * 10), "A"))
    assert "Paris" in found
    assert "NASA" in found
    assert "A view" not in found


def test_round_is_recorded() -> None:
    found = NgramProposer().from_captions(["a red car"] * 9, ["a dog"] * 9, round=3)
    assert {h.round for h in found} == {3}


def test_phrases_do_not_cross_sentences() -> None:
    a = ["a dog. Grass everywhere", "a dog, snow"] * 9
    for hypothesis in propose(a, ["a cat"] * 9):
        assert "dog grass" not in hypothesis.text.lower()
        assert "dog snow" not in hypothesis.text.lower()


def test_log_odds_by_hand() -> None:
    # 8 of 10 and 2 of 10, with a prior of 10 captions, half with the phrase: 13 : 7 and 7 : 13.
    expected = 2 * math.log(13 / 7) / math.sqrt(2 / 13 + 2 / 7)
    assert log_odds_z(8, 10, 2, 10, 10.0) == pytest.approx(expected)
    assert log_odds_z(2, 10, 8, 10, 10.0) == pytest.approx(-expected)


def test_log_odds_edges() -> None:
    assert log_odds_z(5, 10, 5, 10, 10.0) == 0
    assert log_odds_z(0, 10, 0, 10, 10.0) == 0
    assert log_odds_z(10, 10, 10, 10, 10.0) == 0
    assert log_odds_z(0, 0, 5, 10, 10.0) == 0
    assert math.isfinite(log_odds_z(10, 10, 0, 10, 1e-3))
    assert log_odds_z(40, 100, 20, 100, 10.0) > log_odds_z(4, 10, 2, 10, 10.0) > 0


@pytest.mark.parametrize(
    "bad", [{"max_hypotheses": 0}, {"max_words": 0}, {"min_count": 0}, {"min_z": -1}, {"prior": 0}]
)
def test_parameters_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Expected max_hypotheses"):
        NgramProposer(**bad)  # type: ignore[arg-type]


def test_a_plural_counts_with_its_singular() -> None:
    """Six captions with "umbrella" or "umbrellas" are proposed, three with each alone are not."""
    others = [f"a {thing} on a table" for thing in ("cup", "book", "box", "lamp", "plate", "pen")]
    a = ["a man with an umbrella"] * 3 + ["a man with umbrellas"] * 3 + ["a man with glasses"] * 9
    b = ["a man with a dog"] * 2 + ["a man with glasses"] * 9 + others[:4]
    found = propose(a, b)
    assert any(h.text.endswith("umbrella") and h.direction == "A" for h in found)
    # No singular in the captions: the word stays as it is.
    assert not any("glass" in h.text.split() for h in propose(["glasses"] * 9, ["a cup"] * 9))


def person(rng: np.random.Generator, tone: str) -> str:
    words = str(rng.choice(["man", "woman"])), str(rng.choice(["cook", "judge", "pilot"]))
    return f"a {' '.join(words)} with {tone} skin {rng.choice(PLACES)}, {rng.choice(STYLES)} style"


STYLES = ["noto", "twemoji", "fluent"]


@pytest.mark.parametrize(
    ("own", "whole", "fragments"),
    [
        # "medium" is followed by "skin" in all captions; "skin" also occurs after "light".
        (lambda rng: person(rng, "medium"), "medium skin", {"medium", "skin"}),
        (
            lambda rng: f"{caption(rng)}, pop art style",
            "pop art style",
            {"pop", "art", "art style"},
        ),
    ],
)
def test_a_whole_phrase_replaces_its_fragments(
    own: Callable[[np.random.Generator], str], whole: str, fragments: set[str]
) -> None:
    rng = np.random.default_rng(5)
    a = [own(rng) for _ in range(30)]
    b = [person(rng, "light") if i % 3 else f"{caption(rng)}, pixel art style" for i in range(30)]
    plain = texts(propose(a, b, min_z=0.98), "A")
    found = texts(propose(a, b, min_z=0.98, min_completeness=1.5), "A")
    assert fragments & set(plain)
    assert [text for text in found if whole in text]
    assert not fragments & set(found)


def test_a_fragment_around_a_whole_phrase_becomes_that_phrase() -> None:
    """ "skin on the ocean" of three tones: what they share is the place."""
    tones = ("light", "medium", "dark")
    a = [f"a {job} with {tone} skin on the ocean" for tone in tones for job in SUBJECTS]
    b = [f"a {job} with {tone} skin on the grass" for tone in tones for job in SUBJECTS]
    b += [f"a {subject} on the ocean" for subject in SUBJECTS] * 2
    assert texts(propose(a, b, min_z=0.98), "A")[0] == "skin on the ocean"
    found = texts(propose(a, b, min_z=0.98, min_completeness=1.5), "A")
    assert "on the ocean" in found
    assert not [text for text in found if text.startswith("skin")]


def test_a_fragment_of_many_phrases_is_kept() -> None:
    """ "man" is no part of one phrase: the captions name a man cook, a man judge, a man pilot."""
    a, b = (
        [f"a {who} {job} with light skin" for job in ("cook", "judge", "pilot") * 8]
        for who in ("man", "woman")
    )
    assert "man" in texts(propose(a, b, min_completeness=1.5), "A")
    with pytest.raises(InputError, match="min_completeness"):
        NgramProposer(min_completeness=2.1)
