"""Tests of all rankers, and of each ranker's scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import folder_of_pictures, pictures, save_blip2, save_open_clip

from visdiff import registry
from visdiff.cache import Cache
from visdiff.config.backends import MODELS
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.hashing import digest_bytes
from visdiff.imageset import ImageSet
from visdiff.llm import Request
from visdiff.llm.scripted import ScriptedChat
from visdiff.rankers import Ranker
from visdiff.rankers.captions_lexical import CaptionsLexicalRanker
from visdiff.rankers.clip import ClipRanker
from visdiff.results import Hypothesis
from visdiff.words import base_forms

TEXTS = ["a dog", "sand dunes", "<b>bold</b> & {braces}", "red car"]


def hypotheses(*texts: str) -> list[Hypothesis]:
    return [Hypothesis(text, "A", "test") for text in texts]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip2(tmp_path_factory.mktemp("weights") / "blip2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return ImageSet.open(folder_of_pictures(tmp_path_factory.mktemp("set"), 9))


CAPTIONS = [
    "a dog on the grass",
    "two dogs near a red car",
    None,
    "sand dunes in the desert",
    "a car",
    "a red dog in a car",
    "nothing to see",
    "  ",
    "a sandy dune",
]

Make = Callable[..., Any]


def hashed_answer(request: Request) -> str:
    """Returns yes or no, determined by the hash of the request."""
    return ("yes", "no")[int(digest_bytes(repr(request.messages).encode())[:2], 16) % 2]


@pytest.fixture(params=["clip", "captions-lexical", "captions-llm", "vqa", "vqa of a chat model"])
def make(request: pytest.FixtureRequest, clip: Path, blip2: Path) -> Make:
    """Returns a function that makes a ranker from a configuration with all of its settings."""
    name = request.param.split()[0]
    own: dict[str, Any] = {"clip": {"model": str(clip)}, "vqa": {"model": str(blip2)}}.get(
        request.param, {"model": "llm"} if name == "vqa" else {}
    )

    def make_ranker(**options: Any) -> Any:
        run = {"device": "cpu", "llm": lambda: llm, "runtime": options.pop("runtime", Runtime())}
        run["device"] = options.pop("device", "cpu")
        model = MODELS["ranker"][name]
        known = {k: v for k, v in options.items() if k in model.model_fields}
        llm = ScriptedChat(hashed_answer)
        return registry.make("ranker", Ranker, model(**{**own, **known}), **run)

    return make_ranker


def test_all_rankers_are_tested_here() -> None:
    assert set(registry.names("ranker")) == {"captions-lexical", "captions-llm", "clip", "vqa"}


def test_scores_do_not_depend_on_the_batch(make: Make, images: ImageSet) -> None:
    scores = [
        make(batch_size=size).score(hypotheses(*TEXTS), images, CAPTIONS) for size in (1, 3, 8)
    ]
    assert scores[0].shape == (len(TEXTS), len(images))
    assert scores[0].dtype == np.float32
    for other in scores[1:]:
        np.testing.assert_allclose(scores[0], other, atol=1e-6)
    assert np.isfinite(scores[0]).any(axis=1).all()


def test_scores_do_not_depend_on_the_order(make: Make, images: ImageSet) -> None:
    order = np.random.default_rng(0).permutation(len(images))
    forward = make().score(hypotheses(*TEXTS), images, CAPTIONS)
    permuted = make().score(hypotheses(*TEXTS), images.subset(order), [CAPTIONS[i] for i in order])
    np.testing.assert_allclose(forward[:, order], permuted, atol=1e-6)


def test_empty_inputs_give_empty_arrays(make: Make, images: ImageSet) -> None:
    assert make().score([], images, CAPTIONS).shape == (0, 9)
    no_images = images.subset([])
    assert make().score(hypotheses("a"), no_images, []).shape == (1, 0)


def test_identity_excludes_device_and_batch_size(make: Make) -> None:
    assert make().identity == make(batch_size=3, device="auto").identity


def test_second_run_takes_the_scores_from_the_cache(
    make: Make, images: ImageSet, tmp_path: Path
) -> None:
    with Cache(tmp_path) as cache:
        first = make(runtime=Runtime(cache)).score(hypotheses(*TEXTS), images, CAPTIONS)
        again = make(runtime=Runtime(cache))
        llm = getattr(again, "llm", None) or getattr(getattr(again, "_answers", None), "llm", None)
        np.testing.assert_array_equal(again.score(hypotheses(*TEXTS), images, CAPTIONS), first)
        assert llm is None or not llm.requests
        # Only the new hypothesis is asked about; each keeps its score in another order.
        more = again.score(hypotheses("new", *reversed(TEXTS)), images, CAPTIONS)
        np.testing.assert_array_equal(more[1:], first[::-1])


def test_directions_of_a_text_have_equal_scores(make: Make, images: ImageSet) -> None:
    both = [Hypothesis("a dog", "A", "test"), Hypothesis("a dog", "B", "test")]
    scores = make().score(both, images, CAPTIONS)
    np.testing.assert_array_equal(scores[0], scores[1])


def test_clip_scores_are_cosines(clip: Path, images: ImageSet) -> None:
    ranker = ClipRanker(str(clip), None, device="cpu")
    scores = ranker.score(hypotheses(*TEXTS), images)
    texts = ranker.encoder.encode_texts(TEXTS)
    features = ranker.features(images)
    assert features.shape == (9, 16)
    np.testing.assert_allclose(scores, texts @ features.T, atol=1e-6)
    assert np.abs(scores).max() <= 1 + 1e-6


def test_clip_second_run_loads_no_model(clip: Path, images: ImageSet, tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "runtime": Runtime(Cache(tmp_path))}
    first = ClipRanker(str(clip), None, **options).score(hypotheses(*TEXTS), images)
    again = ClipRanker(str(clip), None, batch_size=2, **options)
    np.testing.assert_array_equal(again.score(hypotheses(*TEXTS), images), first)
    assert again.encoder._ready is None  # not even loaded


def test_clip_template_changes_texts_only(clip: Path, images: ImageSet, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    options: dict[str, Any] = {"device": "cpu", "runtime": Runtime(cache)}
    plain = ClipRanker(str(clip), None, **options)
    scores = plain.score(hypotheses("dog"), images)
    with_template = ClipRanker(str(clip), None, template="a photo of {}", **options)
    entries = cache.stats()["entries"]
    other = with_template.score(hypotheses("dog"), images)
    assert cache.stats()["entries"] == entries + 1
    assert not np.allclose(scores, other)
    np.testing.assert_array_equal(other, plain.score(hypotheses("a photo of dog"), images))
    with pytest.raises(InputError, match=r"one \{\}"):
        ClipRanker(template="a photo")


def test_clip_unreadable_images_are_nan(clip: Path, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "set", 4)
    (folder / "002.png").write_text("no image")
    images = ImageSet.open(folder)
    ranker = ClipRanker(str(clip), None, device="cpu")
    scores = ranker.score(hypotheses("a dog", "a cat"), images)
    assert np.isnan(scores).tolist() == [[False, False, True, False]] * 2
    assert np.isnan(ranker.features(images)).any(axis=1).tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_clip_without_a_readable_image(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    images = ImageSet.open(tmp_path)
    ranker = ClipRanker(str(clip), None, device="cpu")
    assert np.isnan(ranker.score(hypotheses("x"), images)).all()
    assert ranker.features(images).shape == (1, 16)


def test_clip_too_long_hypothesis_is_unscored_with_a_warning(
    clip: Path, images: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a very long hypothesis about nothing much"
    scores = ClipRanker(str(clip), None, device="cpu").score(
        hypotheses("a dog", long), images, None
    )
    assert np.isnan(scores).any(axis=1).tolist() == [False, True]
    assert long in caplog.text


def test_clip_equal_images_have_equal_scores(clip: Path) -> None:
    # Rank statistics depend on ties: equal images must have equal scores.
    one = pictures(1)[0]
    images = ImageSet.open([one, *pictures(6, seed=3), one.copy()])
    scores = ClipRanker(str(clip), None, device="cpu").score(hypotheses(*TEXTS), images, None)
    np.testing.assert_array_equal(scores[:, 0], scores[:, -1])


def lexical_score(text: str, caption: str) -> float:
    images = ImageSet.open(pictures(1))
    return float(CaptionsLexicalRanker().score(hypotheses(text), images, [caption])[0, 0])


@pytest.mark.parametrize(
    ("text", "caption", "expected"),
    [
        ("a dog", "two dogs on the grass", 1),
        ("dogs", "a dog", 1),
        ("running dog", "a dog runs", 0.75),
        ("a man running", "the man runs", 1),
        ("baked potatoes", "someone baking a potato", 1),
        ("people", "a person", 1),
        ("women in hats", "a woman in a hat", 1),
        ("red car", "a red car", 1),
        ("red car", "a car next to a red dog", 0.75),
        ("red car", "a blue car", 0.5),
        ("red car", "a blue boat", 0),
        ("a dog on the grass", "dog on grass", 1),
        ("sand dunes", "sand dunes in the desert", 1),
        ("sand dunes", "sdunes", 0),
        ("grand piano", "a grand piano", 1),
        ("husband and wife", "a husband and his wife", 1),
        ("husband and wife", "a husbwife", 0),
        ("a cap", "a superhero in a cape", 0),
        ("a car", "someone caring for a cat", 0),
        ("a ring", "a string", 0),
        ("king", "a kite", 0),
        ("a bus", "two buses", 1),
        ("a glass", "glasses", 1),
        ("eyes", "yes", 0),
        ("no people", "a street with people", 0.5),
        ("DOG!", "A Dog.", 1),
        ("of the", "out of the box", 1),
        ("striped shirt", "a shirt with stripes", 0.75),
        ("T-shirt", "a man in a t-shirt", 1),
    ],
)
def test_lexical_scores(text: str, caption: str, expected: float) -> None:
    assert lexical_score(text, caption) == expected


def test_lexical_missing_captions_are_unscored() -> None:
    images = ImageSet.open(pictures(3))
    scores = CaptionsLexicalRanker().score(hypotheses("dog", "!?"), images, [None, " ", "a dog"])
    np.testing.assert_array_equal(scores, [[np.nan, np.nan, 1], [np.nan] * 3])
    for wrong in (None, ["a dog"]):
        with pytest.raises(InputError, match="3 images"):
            CaptionsLexicalRanker().score(hypotheses("dog"), images, wrong)


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("cities", "city"),
        ("leaves", "leaf"),
        ("knives", "knife"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("horses", "horse"),
        ("sitting", "sit"),
        ("falling", "fall"),
        ("riding", "ride"),
        ("carried", "carry"),
        ("standing", "stand"),
        ("firemen", "fireman"),
        ("dressed", "dress"),
        ("opened", "open"),
    ],
)
def test_base_forms_of_inflections(word: str, base: str) -> None:
    assert base in base_forms(word)


@pytest.mark.parametrize("word", ["grass", "bus", "red", "bed", "king", "tennis", "seed", "is"])
def test_base_forms_of_other_words(word: str) -> None:
    assert base_forms(word) == {word}
