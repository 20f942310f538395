"""Measures: known properties on arrays, and the adapters on models with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image
from scipy import stats

from editing.audits.metrics import load_measures, measure_all
from editing.metrics.detectors import LabelDetector, NudeNetDetector, Q16Detector
from editing.metrics.distances import fid, kid
from editing.metrics.drift import drift
from editing.metrics.features import image_features
from editing.metrics.proportions import proportion
from editing.metrics.ratios import delta, delta_floor, mean_delta
from editing.metrics.similarity import clip_score
from visdiff.encoders.zero_shot import nearest_text
from visdiff.errors import InputError, MissingBackendError
from visdiff.imageset import ImageSet
from visdiff.stats import clopper_pearson, wilson


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- proportions


@pytest.mark.parametrize("n", [10, 40, 200])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.95])
def test_wilson_has_its_level_on_average_over_nearby_shares(n: int, share: float) -> None:
    # The coverage of any interval for a binomial share jumps with the share; its mean over a
    # neighbourhood does not (Brown, Cai and DasGupta 2001).
    shares = np.clip(rng().normal(share, 0.02, 4000), 0.001, 0.999)
    counts = rng(1).binomial(n, shares)
    low, high = np.transpose([wilson(k, n) for k in range(n + 1)])[:, counts]
    assert 0.93 <= ((low <= shares) & (shares <= high)).mean() <= 0.99


def test_wilson_agrees_with_scipy_and_contains_the_observed_share() -> None:
    for count, n in [(0, 5), (5, 5), (3, 7), (50, 400)]:
        low, high = wilson(count, n, 0.9)
        expected = stats.binomtest(count, n).proportion_ci(0.9, "wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert low <= count / n <= high


@pytest.mark.parametrize(("count", "n", "level"), [(1, 0, 0.95), (3, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_invalid_counts_and_levels(count: int, n: int, level: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        wilson(count, n, level)


def test_clopper_pearson_agrees_with_scipy() -> None:
    for n in (1, 7, 400):
        low, high = clopper_pearson(np.arange(n + 1), n, 0.9)
        found = [stats.binomtest(k, n).proportion_ci(0.9, "exact") for k in range(n + 1)]
        assert low == pytest.approx([c.low for c in found], abs=1e-12)
        assert high == pytest.approx([c.high for c in found], abs=1e-12)


def test_an_unsafe_rate_needs_booleans_and_at_least_one() -> None:
    assert proportion([True, False, False, False]).value == 0.25
    for bad in ([], [0.2, 0.9], [[True]]):
        with pytest.raises(InputError, match="boolean"):
            proportion(bad)


# --- ratios


def test_exact_ratios_have_delta_zero() -> None:
    assert delta([50, 50], [0.5, 0.5]).value == 0
    assert delta([10, 20, 70], [0.1, 0.2, 0.7]).value == pytest.approx(0, abs=1e-12)
    exact = delta([50, 50], [0.5, 0.5])
    assert exact.low == 0 < exact.high


def test_two_genders_are_the_published_formula() -> None:
    # |P(F) − 0.5| / 0.5, of TIME and UCE.
    assert delta([90, 10], [0.5, 0.5]).value == pytest.approx(abs(0.1 - 0.5) / 0.5)
    assert delta([100, 0], [0.5, 0.5]).value == pytest.approx(1)


def test_delta_does_not_depend_on_the_order_of_attributes() -> None:
    one, other = delta([3, 5, 12], [0.2, 0.3, 0.5]), delta([12, 3, 5], [0.5, 0.2, 0.3])
    assert (one.value, one.low, one.high, one.floor) == pytest.approx(
        (other.value, other.low, other.high, other.floor)
    )


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.8, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2]])
def test_the_interval_of_delta_covers_the_true_value(shares: list[float]) -> None:
    wanted = np.full(len(shares), 1 / len(shares))
    true = np.mean(np.abs(np.array(shares) - wanted) / wanted)
    counts = rng().multinomial(60, shares, size=600)
    found = [delta(row, wanted) for row in counts]
    coverage = np.mean([d.low - 1e-12 <= true <= d.high + 1e-12 for d in found])
    assert coverage >= 0.93
    assert all(d.low <= d.value <= d.high for d in found)


def test_the_floor_is_the_mean_delta_of_a_balanced_model() -> None:
    wanted = np.array([0.45, 0.25, 0.15, 0.1, 0.05])
    simulated = [delta(row, wanted).value for row in rng().multinomial(40, wanted, size=2000)]
    assert delta_floor(40, wanted) == pytest.approx(np.mean(simulated), rel=0.03)
    assert delta_floor(100, [0.5, 0.5]) == pytest.approx(0.8 / 10, rel=0.02)


def test_the_interval_of_the_mean_covers_a_balanced_model() -> None:
    # A bootstrap of Δ would not cover it, since each Δ is above 0 by chance.
    covered = []
    for seed in range(100):
        counts = rng(seed).multinomial(30, [0.5, 0.5], size=16)
        found = mean_delta(counts, [0.5, 0.5])
        assert found.value == pytest.approx(np.mean([delta(c, [0.5, 0.5]).value for c in counts]))
        covered.append(found.low <= 0.02)
    assert np.mean(covered) >= 0.95


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([0, 0], [0.5, 0.5]),
        ([1, 2], [0.5, 0.6]),
        ([1, 2], [0.0, 1.0]),
        ([1, -2], [0.5, 0.5]),
        ([1.5, 2], [0.5, 0.5]),
        ([1, 2, 3], [0.5, 0.5]),
        ([5], [1.0]),
    ],
)
def test_invalid_ratios_are_refused(counts: list[float], wanted: list[float]) -> None:
    with pytest.raises(InputError):
        delta(counts, wanted)


# --- drift


def world(prompts: int, seeds: int, d: int = 16, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Returns features with one centre per prompt and noise per seed, and their prompts."""
    centres = 5 * rng(seed).normal(size=(prompts, 1, d))
    features = centres + rng(seed + 1).normal(size=(prompts, seeds, d))
    names = [f"prompt {p}" for p in range(prompts) for _ in range(seeds)]
    return features.reshape(-1, d), names


def test_an_edit_that_changes_nothing_has_drift_exactly_zero() -> None:
    features, names = world(6, 5)
    found = drift(features, features.copy(), names, rng())
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert set(found.by_prompt.values()) == {0.0}


def test_another_seed_has_drift_one() -> None:
    centres = 5 * rng(9).normal(size=(40, 1, 16))
    one = (centres + rng(1).normal(size=(40, 6, 16))).reshape(-1, 16)
    other = (centres + rng(2).normal(size=(40, 6, 16))).reshape(-1, 16)
    names = [f"prompt {p}" for p in range(40) for _ in range(6)]
    found = drift(one, other, names, rng())
    assert found.value == pytest.approx(1, abs=0.05)
    assert found.low <= 1 <= found.high
    assert drift(one, one + 0.1 * (other - one), names, rng()).value == pytest.approx(0.1, abs=0.01)


def test_drift_does_not_depend_on_order_scale_or_position() -> None:
    features, names = world(5, 4)
    edited = features + rng(3).normal(size=features.shape)
    found = drift(features, edited, names, rng())
    order = rng(4).permutation(len(names))
    again = drift(features[order], edited[order], [names[i] for i in order], rng())
    assert again.value == pytest.approx(found.value)
    assert again.by_prompt == pytest.approx(found.by_prompt)
    moved = drift(3 * features + 7, 3 * edited + 7, names, rng())
    assert moved.value == pytest.approx(found.value)


def test_drift_needs_two_different_seeds_per_prompt() -> None:
    features, names = world(3, 2)
    with pytest.raises(InputError, match="2 or more seeds"):
        drift(features[:-1], features[:-1], names[:-1], rng())
    still = np.repeat(features[::2], 2, axis=0)
    with pytest.raises(InputError, match="its own seed"):
        drift(still, still, names, rng())
    with pytest.raises(InputError, match="as many"):
        drift(features, features[:-1], names, rng())


# --- similarity


def test_clip_score_of_the_same_direction_is_100_and_of_the_opposite_0() -> None:
    vectors = rng().normal(size=(5, 8))
    assert clip_score(vectors, 3 * vectors) == pytest.approx(100)
    assert clip_score(vectors, -vectors) == pytest.approx(0)
    vectors[2] = 0
    assert np.isnan(clip_score(vectors, vectors)[2])


def test_the_nearest_text_is_found_for_all_or_for_each() -> None:
    texts = np.eye(4)
    chosen = np.array([2, 0, 3, 3, 1])
    images = texts[chosen] + 0.1 * rng().normal(size=(5, 4))
    assert nearest_text(images, texts).tolist() == chosen.tolist()
    each = np.stack([np.roll(texts, shift, axis=0) for shift in range(5)])
    found = nearest_text(images, each)
    assert found.tolist() == [(c + s) % 4 for s, c in enumerate(chosen)]
    # The norm of a text vector has no effect.
    assert nearest_text(images, texts * [[1], [9], [1], [1]]).tolist() == chosen.tolist()


# --- distances, on torch-fidelity


def test_kid_of_two_samples_of_one_distribution_is_unbiased_around_zero() -> None:
    values = [
        kid(rng(s).normal(size=(60, 8)), rng(1000 + s).normal(size=(60, 8)), rng()).value
        for s in range(60)
    ]
    mean, error = np.mean(values), np.std(values) / np.sqrt(len(values))
    assert abs(mean) < 3.5 * error
    assert min(values) < 0 < max(values)
    shifted = kid(rng(1).normal(size=(60, 8)), 1 + rng(2).normal(size=(60, 8)), rng())
    assert shifted.value > 10 * max(values)


def test_distances_do_not_depend_on_order() -> None:
    a, b = rng(1).normal(size=(40, 6)), rng(2).normal(0.5, 1, size=(40, 6))
    order = rng(3).permutation(40)
    assert kid(a[order], b, rng()).value == pytest.approx(kid(a, b, rng()).value)
    assert fid(a[order], b) == pytest.approx(fid(a, b))
    assert fid(a, b) == pytest.approx(fid(b, a))


def test_fid_of_normal_samples_is_the_closed_form() -> None:
    a = rng(1).normal(size=(20_000, 3))
    b = rng(2).normal(size=(20_000, 3)) * 2 + [1, 0, 0]
    # |Δμ|² + Σ(σ₁ − σ₂)²
    assert fid(a, b) == pytest.approx(1 + 3, rel=0.03)
    assert fid(a, a) == pytest.approx(0, abs=1e-6)


def test_features_that_do_not_match_are_refused() -> None:
    a = rng().normal(size=(5, 3))
    for measure in (fid, lambda x, y: kid(x, y, rng())):
        with pytest.raises(InputError, match="one width"):
            measure(a, a[:, :2])
        with pytest.raises(InputError, match="at least 2"):
            measure(a, a[:1])
        with pytest.raises(InputError, match="finite"):
            measure(a, np.where(a > 0, np.nan, a))


# --- adapters


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from visdiff.encoders.open_clip import OpenClipEncoder

    return OpenClipEncoder(str(tiny.save_open_clip(tmp_path_factory.mktemp("clip"))), device="cpu")


def test_features_need_an_image(encoder: Any) -> None:
    with pytest.raises(InputError, match="got none"):
        image_features(encoder, [])


def test_q16_compares_two_learned_prompts(encoder: Any, tmp_path: Path) -> None:
    images = tiny.pictures(6)
    features = image_features(encoder, images)
    # The prompts are the features of two images; each is closest to itself.
    detector = Q16Detector(encoder, features[[0, 1]])
    assert detector(images)[:2].tolist() == [False, True]
    np.save(tmp_path / "prompts.npy", features[[1, 0]])
    turned = Q16Detector(encoder, tmp_path / "prompts.npy")
    assert turned(images).tolist() == (~detector(images)).tolist()
    with pytest.raises(MissingBackendError, match="Q16"):
        Q16Detector(encoder, tmp_path / "none.npy")
    with pytest.raises(InputError, match="2 learned prompts"):
        Q16Detector(encoder, features)
    with pytest.raises(InputError, match="ViT-L/14"):
        Q16Detector(encoder, np.ones((2, 5)))(images)


class FakeNudeNet:
    """A fake NudeNet whose scores are the red level of a BGR image."""

    def detect(self, image: np.ndarray) -> list[dict[str, Any]]:
        label = "BELLY_EXPOSED" if image[0, 0, 1] else "FEMALE_BREAST_EXPOSED"
        return [{"class": label, "score": image[0, 0, 2] / 255, "box": [0, 0, 1, 1]}]


def test_nudenet_counts_exposed_parts_above_the_threshold() -> None:
    images = [Image.new("RGB", (8, 8), c) for c in [(255, 0, 0), (255, 9, 0), (100, 0, 255)]]
    assert NudeNetDetector(0.6, backend=FakeNudeNet())(images).tolist() == [True, False, False]
    assert NudeNetDetector(0.2, backend=FakeNudeNet())(images).tolist() == [True, False, True]
    every = NudeNetDetector(0.6, labels=["BELLY_EXPOSED"], backend=FakeNudeNet())
    assert every(images).tolist() == [False, True, False]


def test_a_missing_nudenet_is_an_error() -> None:
    try:
        import nudenet  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(MissingBackendError, match="pip install nudenet"):
            NudeNetDetector()
    else:
        pytest.skip("nudenet is installed")


def test_labels_of_any_classifier_make_a_detector() -> None:
    def classify(images: Any) -> list[str]:
        return ["bomb" if np.asarray(i)[0, 0, 0] > 127 else "dog" for i in images]

    images = [Image.new("RGB", (2, 2), (v, 0, 0)) for v in (200, 10, 250)]
    detector = LabelDetector(classify, {"bomb", "dagger"})
    assert detector(images).tolist() == [True, False, True]
    assert "bomb" in detector.name
    with pytest.raises(InputError, match="got none"):
        LabelDetector(classify, ())


def test_the_bundled_classifier_does_not_depend_on_the_batch() -> None:
    from editing.metrics.classifiers import TransformersClassifier

    images = tiny.pictures(5)
    classifier = TransformersClassifier("miniature", batch_size=2)
    found = classifier(images)
    assert set(found) <= set(classifier.labels)
    assert found == TransformersClassifier("miniature", batch_size=5)(iter(images))
    assert classifier([]) == []


def test_lpips_is_zero_for_equal_images_and_grows_with_noise() -> None:
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    from editing.metrics.perceptual import Lpips

    network = lpips._NoTrainLpips(net="alex", pretrained=False, pnet_rand=True)
    # The heads of LPIPS are not negative; random heads are.
    for parameter in network.lins.parameters():
        parameter.abs_()
    measure = Lpips(64, network=network)
    images = tiny.pictures(5)
    assert measure(images, images, batch_size=2).tolist() == [0] * 5

    def noisy(amount: int) -> list[Image.Image]:
        noise = rng().integers(-amount, amount + 1, (32, 32, 3))
        return [
            Image.fromarray(np.clip(np.asarray(i) + noise, 0, 255).astype(np.uint8)) for i in images
        ]

    little, much = measure(images, noisy(10)), measure(images, noisy(100))
    assert (little > 0).all()
    assert (little < much).all()
    order = [3, 1, 0, 4, 2]
    again = measure([images[i] for i in order], [noisy(10)[i] for i in order])
    assert again == pytest.approx(little[order], rel=1e-4)
    with pytest.raises(InputError, match="different numbers"):
        measure(images, images[:-1])
    with pytest.raises(InputError, match="64 pixels or more"):
        Lpips(32, network=network)


def test_an_audit_computes_additional_measures(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    images = ImageSet.open(tiny.pictures(6))
    features = rng().normal(size=(12, 4))
    measures = load_measures(["fid", "kid"])
    found, missing = measure_all(measures, images, images, features)
    assert not missing
    assert found == {
        "FID of the ranker's features": fid(features[:6], features[6:]),
        "KID of the ranker's features": kid(features[:6], features[6:], rng()).value,
    }
    found, missing = measure_all(measures, images, images, None)
    assert not found
    assert all("a ranker with image features" in missing[name] for name in ("fid", "kid"))
    one = images.subset([0])
    found, missing = measure_all(measures, one, one, features[:2])
    assert not found
    assert all("at least 2 images per set, got 1 and 1" in missing[name] for name in measures)
    for unknown in ("psnr", "q16", "lpips:x"):
        with pytest.raises(InputError, match="lpips, clip, nudenet, q16:FILE, fid, kid"):
            load_measures([unknown])


def test_an_audit_reports_the_unsafe_rate_of_both_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("editing.metrics.detectors._nudenet", FakeNudeNet)
    images = [ImageSet.open([Image.new("RGB", (8, 8), (r, 0, 0))] * 2) for r in (200, 0)]
    measure = load_measures(["nudenet"])["nudenet"]
    shares = measure(images[0], images[1], None)
    assert list(shares) == ["NudeNet ≥ 0.6, original", "NudeNet ≥ 0.6, edited"]
    assert shares["NudeNet ≥ 0.6, original"] > shares["NudeNet ≥ 0.6, edited"]


def test_an_audit_reports_the_clip_score_of_both_sets(
    encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editing.audits.metrics.OpenClipEncoder", lambda *_: encoder)
    pictures, prompts = tiny.pictures(3), ["a", "b", "a"]
    rows = [f"{i}.png,{prompt}" for i, prompt in enumerate(prompts)]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "manifest.csv").write_text("\n".join(["path,prompt", *rows]))
    images = ImageSet.open(tmp_path / "manifest.csv")
    measure = load_measures(["clip"])["clip"]
    expected = clip_score(image_features(encoder, pictures), encoder.encode_texts(prompts)).mean()
    found = measure(images, images, None)
    assert found["CLIP score, original"] == pytest.approx(expected, abs=1e-3)
    assert found["CLIP score, original"] == found["CLIP score, edited"]
