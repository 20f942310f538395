"""Requests: their round trips, properties and validation."""

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import pytest

from editing.methods import find, names
from editing.personalize import find as find_personalizer
from editing.personalize import names as personalizers
from editing.requests import (
    KINDS,
    Debias,
    Erase,
    Learn,
    Moderate,
    Preserve,
    Replace,
    Request,
    changes_of,
    checked,
    from_dict,
    preserved_of,
)
from editing.requests.toml import read_requests, requests_toml
from visdiff.errors import InputError

ALL: tuple[Request, ...] = (
    Erase("church"),
    Erase("bus", "car", 2.0),
    Replace("dog", "cat"),
    Debias("firefighter", {"man": 0.5, "woman": 0.5}),
    Debias("judge", {"man": 0.3, "woman": 0.7}, {"man": -0.1, "woman": 0.2}),
    Moderate("bomb"),
    Preserve(["a castle", "a house"]),
    Learn("olis", "dog", "0f"),
)


def test_requests_of_all_kinds_can_be_combined() -> None:
    assert checked(ALL) == ALL


@pytest.mark.parametrize("request_", ALL, ids=repr)
def test_a_request_survives_json(request_: Request) -> None:
    assert from_dict(request_.to_dict()) == request_


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_follows_the_contract(kind: str, tmp_path: Path) -> None:
    """Each kind of request is written, read, described and supported by a method."""
    examples = [r for r in ALL if r.kind == kind]
    assert examples, "add an example of the new kind to ALL"
    for request in examples:
        assert type(request) is KINDS[kind]
        assert json.loads(json.dumps(request.to_dict())) == request.to_dict()
        file = tmp_path / "requests.toml"
        file.write_text(requests_toml([request]), encoding="utf-8")
        assert read_requests(file).requests == (request,)
        assert hash(request) == hash(from_dict(request.to_dict()))
        assert bool(request.concept) != bool(request.preserved)
        assert request.describe().startswith(kind)
        assert all(text in request.describe() for text in request.named)
        assert set(request.sought) <= set(request.named)
        assert bool(request.sought) == bool(request.applied_weights) == bool(request.concept)
        methods = [find(n) for n in names()] + [find_personalizer(n) for n in personalizers()]
        assert any(kind in method.kinds for method in methods)
        assert not request.needs_weights or request.ratios


def test_required_fields_have_no_default() -> None:
    """`Request` has a default for a concept, a target and ratios; these kinds have none."""
    required = {
        name: [
            f.name
            for f in fields(cast(Any, cls))
            if f.default is MISSING and f.default_factory is MISSING
        ]
        for name, cls in KINDS.items()
    }
    assert required == {
        "erase": ["concept"],
        "replace": ["concept", "target"],
        "debias": ["concept", "ratios"],
        "moderate": ["concept"],
        "learn": ["identifier", "noun"],
        "preserve": ["concepts"],
    }


def test_sought_texts_and_applied_weights() -> None:
    assert Erase("church").sought == {"church": "less"}
    assert Replace("dog", "cat").sought == {"dog": "less", "cat": "more"}
    assert Debias("judge", {"man": 0.3, "woman": 0.7}).sought == {"man": 0.3, "woman": 0.7}
    assert Moderate("bomb").applied_weights == {"": 1.0}
    assert Debias("judge", {"man": 0.5, "woman": 0.5}).needs_weights
    assert changes_of(ALL) == [r for r in ALL if r.kind != "preserve"]
    assert preserved_of(ALL) == ("a castle", "a house")


def test_a_swap_is_valid() -> None:
    assert len(checked([Replace("dog", "cat"), Replace("cat", "dog")])) == 2


def test_duplicates_are_removed() -> None:
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
def test_invalid_requests_are_refused_with_one_line(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
