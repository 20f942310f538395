"""Tests of the choice of images for a proposer, always from the discovery half."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import fakes
import numpy as np
import pytest
from fakes import picture
from PIL import Image

import visdiff
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.selection import Strategy, choose, diverse, representative
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.results import Direction, Hypothesis

IS_A = np.arange(200) < 100
STRATEGIES: tuple[Strategy, ...] = ("representative", "diverse")


def mixture(seed: int, share: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Returns features where a fraction of A carries the difference, and which rows do."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(200, 8))
    carriers = IS_A & (rng.random(200) < share)
    features[carriers, 0] += 3
    return features, carriers


def test_representative_images_carry_the_difference_more_often_than_random_ones() -> None:
    shares, at_random = [], []
    for seed in range(10):
        features, carriers = mixture(seed)
        chosen = choose("representative", features, IS_A, 20, np.random.default_rng(seed))
        shares.append(carriers[chosen & IS_A].mean())
        drawn = np.random.default_rng(seed).choice(100, 20, replace=False)
        at_random.append(carriers[drawn].mean())
    # 40 % of A carry the difference, and so do 40 % of a random sample.
    assert 0.3 < np.mean(at_random) < 0.5
    assert np.mean(shares) > np.mean(at_random) + 0.2


def test_scores_come_from_held_out_probes() -> None:
    # With as many columns as images, a probe fits its training data perfectly.
    noise = np.random.default_rng(0).normal(size=(200, 300))
    scores = representative(noise, IS_A, np.random.default_rng(0))
    assert 0.35 < (scores > 0).mean() < 0.65


def test_set_sizes_do_not_affect_the_scores() -> None:
    noise = np.random.default_rng(0).normal(size=(330, 3))
    is_a = np.arange(330) < 300
    scores = representative(noise, is_a, np.random.default_rng(0))
    assert abs(np.median(scores[is_a])) < 0.5
    assert abs(np.median(scores[~is_a])) < 0.5


def test_no_region_dominates_a_diverse_sample() -> None:
    rng = np.random.default_rng(3)
    # Nine of ten images are alike; the others form ten clusters.
    centres = np.vstack([np.zeros((90, 10)), 20 * np.eye(10)])
    features = centres + rng.normal(scale=0.1, size=centres.shape)
    picked = diverse(features, 15, np.random.default_rng(0))
    assert len(set(picked.tolist()) & set(range(90, 100))) >= 9
    drawn = [len(set(rng.choice(100, 15, replace=False)) & set(range(90, 100))) for _ in range(50)]
    assert np.mean(drawn) < 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sizes_and_determinism(strategy: Strategy) -> None:
    features, _ = mixture(1)
    for n, expected in ((1, 1), (20, 20), (100, 100), (500, 100)):
        chosen = choose(strategy, features, IS_A, n, np.random.default_rng(5))
        assert chosen.dtype == bool
        assert (chosen[IS_A].sum(), chosen[~IS_A].sum()) == (expected, expected)
        again = choose(strategy, features, IS_A, n, np.random.default_rng(5))
        assert (chosen == again).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_last_bits_of_a_feature_do_not_matter(strategy: Strategy) -> None:
    features, _ = mixture(2)
    features = features.astype(np.float32)
    jitter = np.random.default_rng(0).choice([-1, 1], features.shape) * 1e-7
    one = choose(strategy, features, IS_A, 20, np.random.default_rng(0))
    other = choose(strategy, features + jitter, IS_A, 20, np.random.default_rng(0))
    assert (one == other).mean() > 0.98


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_candidates_are_chosen_and_pairs_stay_together(strategy: Strategy) -> None:
    features, _ = mixture(3)
    left = np.random.default_rng(0).random(200) < 0.3
    chosen = choose(strategy, features, IS_A, 10, np.random.default_rng(0), candidates=left)
    assert not (chosen & ~left).any()
    assert (chosen[IS_A].sum(), chosen[~IS_A].sum()) == (10, 10)
    paired = choose(
        strategy, features, IS_A, 10, np.random.default_rng(0), candidates=left, paired=True
    )
    assert (paired[:100] == paired[100:]).all()
    assert paired.sum() == 20
    # A pair is a candidate if one of its images is.
    assert (left[:100] | left[100:])[paired[:100]].all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_without_features_come_last_and_copies_once(strategy: Strategy) -> None:
    features, _ = mixture(4)
    features[:30] = np.nan
    chosen = choose(strategy, features, IS_A, 20, np.random.default_rng(0))
    assert not chosen[:30].any()
    # If too few images have features, images without features fill up the sample.
    assert choose(strategy, features, IS_A, 80, np.random.default_rng(0))[IS_A].sum() == 80
    alike = np.repeat(np.eye(2), 100, axis=0)
    chosen = choose(strategy, alike, IS_A, 20, np.random.default_rng(0))
    assert (chosen[IS_A].sum(), chosen[~IS_A].sum()) == (20, 20)


def test_copies_are_not_diverse() -> None:
    features = np.repeat(np.arange(10.0)[:, None], 20, axis=0)
    picked = diverse(features, 10, np.random.default_rng(0))
    assert sorted(features[picked, 0].tolist()) == list(range(10))


def test_invalid_arguments() -> None:
    features, _ = mixture(0)
    rng = np.random.default_rng(0)
    for wrong in (
        {"features": features[0]},
        {"features": features[:9]},
        {"is_a": IS_A.astype(float)},
        {"is_a": ~IS_A},
        {"n": 0},
        {"is_a": np.arange(200) < 90, "paired": True},
    ):
        arguments: dict[str, Any] = {
            "features": features,
            "is_a": IS_A,
            "n": 5,
            "rng": rng,
            **wrong,
        }
        with pytest.raises(ValueError, match="Expected"):
            choose("diverse", **arguments)
    # Too few images to fit a probe: all scores are equal.
    few = representative(features[:3], np.array([True, True, False]), rng)
    assert few.tolist() == [0, 0, 0]


# In a comparison ------------------------------------------------------------------------------


class RecordingProposer(Proposer):
    """A proposer that records the evidence it receives."""

    name = "recording"
    needs_captions = False
    max_hypotheses = 2
    recorded: ClassVar[list[Evidence]] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"proposer": self.name}

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        type(self).recorded.append(evidence)
        texts: tuple[tuple[str, Direction], ...] = (("red", "A"), ("blue", "B"))
        return Proposals(tuple(Hypothesis(f"{t} {round}", d, self.name, round) for t, d in texts))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingProposer, "recorded", [])


def colours(n: int, reds: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [picture("red" if i < reds else "blue", rng) for i in range(n)]


SETTINGS: dict[str, Any] = {
    "captioner": "fakes:ColourCaptioner",
    "ranker": "fakes:ColourRanker",
    "proposer": "test_sampling:RecordingProposer",
    "proposer__sample_size": 8,
    "statistics__cross_fit": "never",
    "progress": False,
}


def recorded_digests() -> list[list[list[str]]]:
    return [
        [[s.digest(i) for i in range(len(s))] for s in (e.images_a, e.images_b)]
        for e in RecordingProposer.recorded
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_proposer_receives_a_sample_of_the_discovery_half(strategy: str, cache: Cache) -> None:
    sets = colours(80, 40, 1), colours(80, 10, 2)
    report = visdiff.compare(*sets, **SETTINGS, proposer__sampling=strategy, cache=cache)
    (evidence,) = RecordingProposer.recorded
    assert (len(evidence.images_a), len(evidence.images_b)) == (8, 8)
    assert report.scores is not None
    tested = set(report.scores.query("set == 'A'")["id"])
    assert not set(evidence.images_a.ids) & tested
    visdiff.compare(*sets, **SETTINGS, cache=cache)
    drawn_by_itself = RecordingProposer.recorded[-1]
    assert len(drawn_by_itself.images_a) == 80 - len(tested)
    if strategy == "representative":
        # A is half red, B mostly blue: red and blue are representative.
        for images, channel in ((evidence.images_a, 0), (evidence.images_b, 2)):
            means = [np.asarray(image).mean(axis=(0, 1)) for image in images]
            assert sum(int(m.argmax()) == channel for m in means) >= 7


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_scoring_half_does_not_affect_the_sample(strategy: str, cache: Cache) -> None:
    sets = [ImageSet.open(colours(80, reds, seed)) for seed, reds in ((1, 40), (2, 10))]
    settings = {**SETTINGS, "proposer__sampling": strategy, "statistics__min_scored": 5}
    visdiff.compare(*sets, **settings, cache=cache)
    # Half of the scoring half is left out: 40 of 60 images are for discovery.
    fewer = []
    for images in sets:
        ranks = np.argsort(np.argsort(np.array(images.split_numbers(), dtype=object)))
        fewer.append(images.subset((ranks < 40) | (ranks % 2 == 0)))
    visdiff.compare(*fewer, **settings, statistics__discovery_fraction=2 / 3, cache=cache)
    first, second = recorded_digests()
    assert first == second


def test_the_batch_size_does_not_affect_the_sample(tmp_path: Path) -> None:
    sets = colours(80, 40, 1), colours(80, 10, 2)
    for size in (1, 7, 64):
        with Cache(tmp_path / str(size)) as own:
            visdiff.compare(
                *sets,
                **SETTINGS,
                proposer__sampling="diverse",
                ranker__batch_size=size,
                cache=own,
            )
    first, second, third = recorded_digests()
    assert first == second == third


def test_later_rounds_choose_unexplained_images(cache: Cache) -> None:
    sets = colours(80, 40, 1), colours(80, 10, 2)
    visdiff.compare(*sets, **SETTINGS, proposer__sampling="representative", rounds=2, cache=cache)
    assert len(RecordingProposer.recorded[0].images_a) == 8
    assert all(len(e.images_a) <= 8 and len(e.images_b) <= 8 for e in RecordingProposer.recorded)


def test_a_ranker_without_features_is_an_early_error(cache: Cache) -> None:
    fakes.ColourCaptioner.computed = 0
    settings = {**SETTINGS, "ranker": "captions-lexical", "proposer__sampling": "diverse"}
    with pytest.raises(InputError, match=r"ranker with image features.*captions-lexical"):
        visdiff.compare(colours(40, 20, 1), colours(40, 10, 2), **settings, cache=cache)
    assert fakes.ColourCaptioner.computed == 0
    with pytest.raises(InputError, match=r"proposer\.sampling"):
        Config.of("miniature").changed(proposer__sampling="typical")
    assert Backends.of(Config.of("miniature").changed(proposer__sampling="diverse"))
