"""Tests of the contract of all proposers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import pictures, save_blip2, save_open_clip

from visdiff import registry
from visdiff.comparison.stages import proposals_stage
from visdiff.config import Config, preset_names
from visdiff.config.backends import MODELS
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.imageset import ImageSet
from visdiff.llm import Request
from visdiff.llm.scripted import ScriptedChat
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Hypothesis

NAMES = (
    "blip2-features",
    "captions-llm",
    "concepts",
    "images-vlm",
    "manual",
    "ngrams",
    "paired-captions-llm",
)
Make = Callable[..., Any]


def reply(request: Request) -> str:
    # The reply depends on the request, so that samples and rounds differ.
    number = int(digest_bytes(repr(request).encode())[:4], 16)
    return json.dumps({"hypotheses": ["a dog", f"{number} trees", "A dog", "Sure, here:"]})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("weights") / "blip2")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / "bank.txt"
    path.write_text("# animals\na dog\na cat\n\nA dog\na red car\nsand\nsnow\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    sets = [ImageSet.open(pictures(30, seed), name=f"set {seed}") for seed in (1, 2)]
    captions = [
        [f"a {thing} {place}" for _ in range(10) for thing in ("dog", "cat", "car")]
        for place in ("on the grass", "in the snow")
    ]
    captions_a: list[str | None] = [*captions[0]]
    captions_a[3] = None
    return Evidence(sets[0], sets[1], captions_a, captions[1], paired=True)


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest, blip2: Path, clip: Path, bank: Path) -> Make:
    """Returns a function that makes a proposer from a configuration with all of its settings."""
    own: dict[str, Any] = {
        "blip2-features": {"model": str(blip2)},
        "concepts": {"bank": str(bank), "model": str(clip)},
        "manual": {"hypotheses": ("A: a dog", "at night", "A: A dog", "B: snow")},
    }.get(request.param, {})

    def make_proposer(**options: Any) -> Any:
        model = MODELS["proposer"][request.param]
        known = {k: v for k, v in options.items() if k in model.model_fields}
        settings, llm = model(**{**own, **known}), ScriptedChat(reply)
        return registry.make(
            "proposer", Proposer, settings, device="cpu", llm=lambda: llm, sample_size=20
        )

    return make_proposer


def propose(proposer: Any, evidence: Evidence, seed: int = 0, round: int = 1) -> Proposals:
    return proposer.propose(evidence, rng=np.random.default_rng(seed), round=round)


def test_all_proposers_are_tested_here() -> None:
    assert set(registry.names("proposer")) == set(NAMES)


def test_hypotheses_of_both_directions_with_name_and_round(make: Make, evidence: Evidence) -> None:
    proposer = make()
    found = propose(proposer, evidence, round=3)
    assert {h.direction for h in found.hypotheses} == {"A", "B"}
    keys = [(h.text.casefold(), h.direction) for h in found.hypotheses]
    assert len(keys) == len(set(keys))
    assert {(h.proposer, h.round) for h in found.hypotheses} == {(proposer.name, 3)}
    assert all(h.text == h.text.strip() and h.text for h in found.hypotheses)
    assert not found.failures
    # Hypotheses of A come first.
    assert [h.direction for h in found.hypotheses] == sorted(h.direction for h in found.hypotheses)


def test_at_most_max_hypotheses(make: Make, evidence: Evidence) -> None:
    for options in ({}, {"max_hypotheses": 1, "ask": 1}):
        proposer = make(**options)
        found = [h.direction for h in propose(proposer, evidence).hypotheses]
        assert max(found.count("A"), found.count("B")) <= proposer.max_hypotheses


def test_equal_seeds_give_equal_proposals(make: Make, evidence: Evidence) -> None:
    assert propose(make(), evidence, 7) == propose(make(), evidence, 7)


def test_calls_is_the_number_of_requests(make: Make, evidence: Evidence) -> None:
    proposer = make()
    before = len(proposer.llm.requests) if proposer.calls else 0
    propose(proposer, evidence)
    after = len(proposer.llm.requests) if proposer.calls else 0
    assert after - before == proposer.calls


def test_identity_is_reproducible_json(make: Make) -> None:
    proposer = make()
    assert canonical_json(dict(proposer.identity)) == canonical_json(dict(make().identity))
    assert proposer.identity["proposer"] == proposer.name


def test_missing_captions_are_an_error_if_needed(make: Make, evidence: Evidence) -> None:
    proposer = make()
    without_captions = Evidence(evidence.images_a, evidence.images_b, paired=True)
    if proposer.needs_captions:
        with pytest.raises(InputError, match=f"captions for the proposer '{proposer.name}'"):
            propose(proposer, without_captions)
    else:
        assert propose(proposer, without_captions).hypotheses


def test_captions_that_are_all_none_give_no_proposals(make: Make, evidence: Evidence) -> None:
    proposer = make()
    if not proposer.needs_captions:
        pytest.skip("does not read captions")
    n = len(evidence.images_a)
    no_captions = Evidence(evidence.images_a, evidence.images_b, [None] * n, ["a"] * n, paired=True)
    assert propose(proposer, no_captions) == Proposals()


def test_one_image_per_set_is_enough(make: Make) -> None:
    a, b = (ImageSet.open(pictures(1, seed)) for seed in (1, 2))
    found = propose(make(), Evidence(a, b, ["a dog"], ["a cat"], paired=True))
    assert not found.failures


def test_inconsistent_evidence_is_an_error() -> None:
    a, b = (ImageSet.open(pictures(n, n)) for n in (2, 3))
    with pytest.raises(ValueError, match="each of 2 images, got 1"):
        Evidence(a, b, ["a dog"], ["x"] * 3)
    with pytest.raises(ValueError, match="got 2 and 3"):
        Evidence(a, b, paired=True)


def test_proposals_add_up_and_summarize_problems() -> None:
    one = Proposals(refused=(("Here are:", "a preface"),), failures=("timed out",), asked=1)
    both = one + Proposals(refused=(("x" * 200, "a preface"), ("5", "no words")))
    refused, failed = both.warnings()
    assert "3 lines" in refused
    assert "a preface (2), no words (1)" in refused
    assert "'Here are:'" in refused
    assert failed == "1 question of the proposer had no answer (first: timed out)."
    assert Proposals().warnings() == []


def test_answers_are_counted_and_apologies_are_none() -> None:
    dog, apology = Hypothesis("a dog", "A", "x", 1), ("I cannot help.", "an apology")
    for proposals, asked, answered in [
        (Proposals(), 0, 0),
        (Proposals((dog,)), 0, 0),
        (Proposals(asked=2, answered=2), 2, 2),
        (Proposals((dog,), (apology,), asked=2, answered=1), 2, 1),
        # Proposers of other distributions may not count.
        (Proposals((dog,), failures=("timed out",)), 1, 0),
        (Proposals(refused=(apology,)), 1, 0),
        (Proposals(refused=(("None", "an apology"),)), 0, 0),
    ]:
        stage = proposals_stage(proposals)
        assert (stage.asked, stage.got) == (asked, answered), proposals
        assert bool(stage.reason) == (answered < asked)


def test_presets_have_no_settings_of_a_user() -> None:
    for name in preset_names():
        for field in ("goal", "leave_out", "hypotheses", "bank"):
            assert not Config.of(name).proposer.arguments().get(field)
