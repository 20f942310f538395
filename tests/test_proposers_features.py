"""Tests of the proposer on BLIP-2 features: sampling, directions, the miniature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import folder_of_pictures, pictures, save_blip2

from visdiff.cache import Cache
from visdiff.captioners.blip import Blip2Captioner
from visdiff.captioners.manifest import ManifestCaptioner
from visdiff.encoders.blip2 import Blip2Features, image_features
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.miniature import world
from visdiff.proposers import Evidence, Proposals
from visdiff.proposers.blip2_features import Blip2FeaturesProposer, _NucleusNoise

ART = Path(__file__).parents[1] / ".art"


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("weights") / "blip2")


@pytest.fixture(scope="module")
def sets() -> tuple[ImageSet, ImageSet]:
    return ImageSet.open(pictures(5, 1)), ImageSet.open(pictures(7, 2))


def propose(proposer: Any, a: ImageSet, b: ImageSet, seed: int = 0) -> Proposals:
    return proposer.propose(Evidence(a, b), rng=np.random.default_rng(seed))


def texts(found: Proposals, direction: str) -> list[str]:
    return [h.text for h in found.hypotheses if h.direction == direction]


def test_samples_follow_the_distribution_in_the_nucleus() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = probabilities.log().repeat(20_000, 1)
    sampled = _NucleusNoise(0.9, seed=3)(torch.zeros(len(rows), 1), rows).argmax(dim=-1)
    shares = torch.bincount(sampled, minlength=4) / len(rows)
    # 0.5 + 0.3 is below top_p, adding 0.15 exceeds it; the three are renormalised.
    assert shares[3] == 0
    expected = probabilities[:3] / probabilities[:3].sum()
    # Five standard errors.
    assert (shares[:3] - expected).abs().max() < 5 * 0.5 / len(rows) ** 0.5


def test_nucleus_contains_the_likeliest_token() -> None:
    rows = torch.tensor([[0.01, 0.98, 0.01]]).log()
    kept = _NucleusNoise(0.5, seed=0)(torch.zeros(1, 1), rows)
    assert torch.isfinite(kept).tolist() == [[False, True, False]]


def test_swapping_the_sets_swaps_the_sentences(
    blip2: Path, sets: tuple[ImageSet, ImageSet]
) -> None:
    a, b = sets
    proposer = Blip2FeaturesProposer(str(blip2), device="cpu")
    found, swapped = propose(proposer, a, b), propose(proposer, b, a)
    assert texts(found, "A") == texts(swapped, "B")
    assert texts(found, "B") == texts(swapped, "A")
    assert texts(found, "A") != texts(found, "B")


def test_sentences_depend_on_the_seed_only(blip2: Path, sets: tuple[ImageSet, ImageSet]) -> None:
    before = torch.random.get_rng_state()
    proposer = Blip2FeaturesProposer(str(blip2), device="cpu")
    first = propose(proposer, *sets)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(10)
    again = Blip2FeaturesProposer(str(blip2), device="cpu", batch_size=2)
    assert propose(again, *sets) == first
    assert propose(proposer, *sets, seed=1) != first


def test_equal_sets_give_no_proposals(blip2: Path, sets: tuple[ImageSet, ImageSet]) -> None:
    proposer = Blip2FeaturesProposer(str(blip2), device="cpu")
    assert propose(proposer, sets[0], sets[0]) == Proposals()


def test_features_are_the_input_of_the_language_model(blip2: Path) -> None:
    blip = Blip2Captioner(str(blip2), device="cpu")
    model = blip.load().model
    pixels = torch.stack([blip.prepare(picture) for picture in pictures(3)])
    with torch.inference_mode():
        # The expected features are those of transformers.
        expected = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(image_features(model, pixels), expected)
    stored = Blip2Features(blip, {})(list(pixels))
    kept = np.stack([np.asarray(s) for s in stored])
    np.testing.assert_allclose(kept, expected, rtol=2e-3, atol=1e-3)  # half precision


def test_second_run_takes_the_features_from_the_cache(blip2: Path, tmp_path: Path) -> None:
    images = [
        ImageSet.open(folder_of_pictures(tmp_path / name, 4, i)) for i, name in enumerate("ab")
    ]
    with Cache(tmp_path / "cache") as cache:
        evidence = Evidence(images[0], images[1])
        runtime = Runtime(cache)
        proposer = Blip2FeaturesProposer(str(blip2), device="cpu", runtime=runtime)
        first = proposer.propose(evidence, rng=np.random.default_rng(0))
        assert cache.stats()["entries"] == 8
        misses = cache.misses
        assert proposer.propose(evidence, rng=np.random.default_rng(0)) == first
        assert cache.misses == misses


def test_sentence_without_end_token_is_refused(
    blip2: Path, sets: tuple[ImageSet, ImageSet]
) -> None:
    short = Blip2Captioner(str(blip2), device="cpu", max_new_tokens=1)
    found = propose(Blip2FeaturesProposer(captioner=short), *sets)
    assert any(reason == "no end within 1 tokens" for _, reason in found.refused)
    assert not {t for t, _ in found.refused} & {h.text for h in found.hypotheses}


def test_set_without_a_readable_image_is_a_failure(blip2: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    bad, good = ImageSet.open(tmp_path), ImageSet.open(pictures(2))
    found = propose(Blip2FeaturesProposer(str(blip2), device="cpu"), good, bad)
    assert found == Proposals(failures=("a set has no image that can be read",), asked=1)


def test_captioner_of_the_run_is_shared(blip2: Path) -> None:
    captioner = Blip2Captioner(str(blip2), device="cpu")
    assert Blip2FeaturesProposer(captioner=captioner).blip is captioner
    with pytest.raises(InputError, match=r"proposer\.model"):
        Blip2FeaturesProposer(captioner=ManifestCaptioner())
    with pytest.raises(InputError, match="got 0"):
        Blip2FeaturesProposer(str(blip2), ask=0)


@pytest.mark.skipif(not (ART / "node_modules").is_dir(), reason="the art is not here: make art")
def test_miniature_finds_the_places() -> None:
    from PIL import Image

    from visdiff.miniature.render import Art

    art, rng = Art.load(ART), np.random.default_rng(0)
    sets = [
        ImageSet.open(
            [
                Image.fromarray(art.render(world.sample_scene(rng, place=place), rng))
                for _ in range(16)
            ]
        )
        for place in ("snow", "grass")
    ]
    found = propose(Blip2FeaturesProposer("miniature", device="cpu"), sets[0], sets[1])
    assert any("snow" in text for text in texts(found, "A"))
    assert any("grass" in text for text in texts(found, "B"))
    assert not any("grass" in text for text in texts(found, "A"))
    assert not any("snow" in text for text in texts(found, "B"))
