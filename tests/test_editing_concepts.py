"""Requests: what is refused, and with which sentence."""

from collections.abc import Callable
from typing import Any

import pytest

from editing.requests import (
    Debias,
    Erase,
    Moderate,
    Preserve,
    Replace,
    Request,
    checked,
    from_dict,
)
from visdiff.errors import InputError

ALL: tuple[Request, ...] = (
    Erase("church"),
    Erase("bus", "car", 2.0),
    Replace("dog", "cat"),
    Debias("firefighter", {"man": 0.5, "woman": 0.5}),
    Debias("judge", {"man": 0.3, "woman": 0.7}, {"man": -0.1, "woman": 0.2}),
    Moderate("bomb"),
    Preserve(["a castle", "a house"]),
)


def test_any_mixture_is_taken_as_it_is() -> None:
    assert checked(ALL) == ALL


@pytest.mark.parametrize("request_", ALL, ids=repr)
def test_a_request_survives_json(request_: Request) -> None:
    assert from_dict(request_.to_dict()) == request_


def test_a_swap_is_sound() -> None:
    assert len(checked([Replace("dog", "cat"), Replace("cat", "dog")])) == 2


def test_exact_repetitions_count_once() -> None:
    assert checked([Erase("church"), Erase("church")]) == (Erase("church"),)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Erase(" "), "Expected a concept to erase, got ' '"),
        (lambda: Erase("church", "Church "), "a target that differs from the concept"),
        (lambda: Replace("dog", "dog"), "a target that differs from the concept"),
        (lambda: Replace("dog", ""), "use Erase"),
        (lambda: Erase("church", scale=0), "a scale above zero for 'church'"),
        (lambda: Moderate(""), "a concept to moderate"),
        (lambda: Preserve([]), "at least one concept to preserve"),
        (lambda: Preserve(["a dog", ""]), "a concept to preserve, got ''"),
        (lambda: Debias("judge", {"man": 1.0}), "two or more attributes"),
        (
            lambda: Debias("judge", {"man": 0.5, "woman": 0.6}),
            r"ratios that sum to one for 'judge', got man = 0.5, woman = 0.6 \(sum 1.1\)",
        ),
        (lambda: Debias("judge", {"man": 1.5, "woman": -0.5}), "shares above zero"),
        (lambda: Debias("judge", {"judge": 0.5, "woman": 0.5}), "differ from the concept"),
        (
            lambda: Debias("judge", {"man": 0.5, "woman": 0.5}, {"man": 0.1}),
            "one weight for each of man, woman",
        ),
        (lambda: checked([]), "at least one concept to erase"),
        (lambda: checked([Preserve("a dog")]), "at least one concept to erase"),
        (lambda: checked(["church"]), "got str"),  # pyright: ignore[reportArgumentType]
        (lambda: checked([Erase("dog"), Replace("Dog", "cat")]), "contradict each other: keep one"),
        (lambda: checked([Erase("dog"), Preserve(["cat", "DOG"])]), "take it off the preserve"),
        (lambda: checked([Replace("dog", "cat"), Erase("cat")]), "targets that stay in the model"),
        (
            lambda: checked([Debias("judge", {"man": 0.5, "woman": 0.5}), Moderate("man")]),
            "targets that stay in the model",
        ),
        (lambda: from_dict({"kind": "delete", "concept": "dog"}), "a request of kind erase"),
        (lambda: from_dict({"kind": "erase", "name": "dog"}), "got name"),
        (lambda: from_dict({"kind": "replace", "concept": "dog"}), "Expected target in"),
        (lambda: from_dict({"kind": "erase"}), "Expected concept in"),
    ],
)
def test_what_cannot_be_met_is_said_in_one_sentence(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
