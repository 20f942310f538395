"""Tests of clusters: images that show the same thing count as one observation."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from scipy.sparse.csgraph import connected_components
from typer.testing import CliRunner

import visdiff
from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.clusters import first_part, join_labels, label_clusters
from visdiff.comparison.findings import test_hypotheses as run_tests
from visdiff.comparison.null import shuffle_labels
from visdiff.comparison.split import split, split_pair
from visdiff.config import Config, StatisticsConfig
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.imageset.copies import MIN_CORRELATION, SIDE, near_copies, small_copy
from visdiff.results import DifferenceReport, Hypothesis


def photo(rng: np.random.Generator, side: int = 96) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def labels_of(images: list[Image.Image]) -> list[int]:
    return near_copies(np.stack([small_copy(image) for image in images])).tolist()


# --- near copies ----------------------------------------------------------------------------


def test_changed_versions_are_near_copies_and_other_photographs_are_not() -> None:
    rng = np.random.default_rng(0)
    photos = [photo(rng) for _ in range(60)]
    for image in photos[:20]:
        side = image.width
        changed = [
            saved_again(image, 30),
            image.resize((61, 61)),
            image.resize((200, 150)),
            ImageEnhance.Brightness(image).enhance(0.7),
            ImageEnhance.Contrast(image).enhance(1.2),
            image.crop((2, 2, side - 2, side - 2)),
        ]
        assert set(labels_of([image, *changed])) == {0}
    assert labels_of(photos) == list(range(60))


def test_near_copies_in_blocks_equal_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    photos = [photo(rng) for _ in range(12)]
    images = [*photos, *(saved_again(p, 60) for p in photos), *photos[::-1]]
    whole = labels_of(images)
    assert whole == [*range(12), *range(12), *range(11, -1, -1)]
    monkeypatch.setattr("visdiff.imageset.copies._BLOCK", 5)
    assert labels_of(images) == whole


@pytest.mark.parametrize("noise", [0, 12, 20, 30])
def test_near_copies_equal_those_of_all_pairs(noise: float) -> None:
    """No pair is missed by the bound that rules pairs out, with few or many copies."""
    rng = np.random.default_rng(2)
    originals = np.stack([small_copy(photo(rng)) for _ in range(40)])
    chosen = originals[rng.integers(0, len(originals), 150)]
    small = (chosen + rng.normal(0, noise, chosen.shape)).clip(0, 255).astype(np.uint8)
    sides = [small.reshape(150, SIDE // 2, 2, SIDE // 2, 2, 3).mean(axis=(2, 4)), small]
    alike = np.ones((150, 150), bool)
    for values, least in zip(sides, MIN_CORRELATION, strict=True):
        steps = [np.diff(values.astype(float), axis=axis).reshape(150, -1) for axis in (2, 1)]
        vectors = np.concatenate(steps, axis=1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        alike &= vectors @ vectors.T >= least
    components = connected_components(alike)[1]
    firsts = [int(np.flatnonzero(components == c)[0]) for c in components]
    assert near_copies(small).tolist() == firsts


def test_images_without_structure_are_no_near_copies() -> None:
    plain = [Image.new("RGB", (40, 40), (n, n, 100)) for n in range(20)]
    assert labels_of(plain) == list(range(20))
    assert near_copies(np.zeros((0, 16, 16, 3), np.uint8)).tolist() == []


# --- labels and splits ----------------------------------------------------------------------


def table(photos: list[int], column: list[object] | None = None, name: str = "s") -> ImageSet:
    """Returns a set of images in memory, equal for equal numbers, with a column ``photo``."""
    images = [Image.new("RGB", (2, 2), (n % 256, n // 256, 9)) for n in photos]
    opened = ImageSet.open(images, name=name)
    if column is not None:
        opened._frame["photo"] = column
    return opened


def test_clusters_join_copies_and_equal_values_across_the_sets() -> None:
    a = table([1, 1, 2, 3], ["x", "y", None, "z"])
    b = table([4, 2, 5], ["y", "", "w"])
    labels = label_clusters(a, b, "photo").tolist()
    # The copies are of x and y, and y is in both sets; 2 is in both sets; z and w are alone.
    assert labels[0] == labels[1] == labels[4]
    assert labels[2] == labels[5]
    assert len(set(labels)) == 4
    assert len(set(label_clusters(a, b).tolist())) == 5
    with pytest.raises(InputError, match="photo"):
        label_clusters(table([1]), table([2]), "photo")


def test_clusters_of_pairs() -> None:
    a, b = table([1, 2, 3, 4], [1, 1, 2, 3]), table([11, 12, 13, 11], [1, 1, 2, 3])
    labels = label_clusters(a, b, paired=True)
    assert (labels[:4] == labels[4:]).all()
    assert labels[0] == labels[3]  # the images of B are copies
    assert len(set(labels.tolist())) == 3
    assert len(set(label_clusters(a, b, "photo", paired=True).tolist())) == 2


def test_near_copies_cluster_pairs_only_if_they_are_in_both_sets() -> None:
    rng = np.random.default_rng(2)
    small = np.stack([small_copy(photo(rng)) for _ in range(4)])
    # Pairs 0 and 1 are alike in A and in B, pair 2 is like them in A only.
    of_a, of_b = small[[0, 0, 0, 1]], small[[2, 2, 3, 1]]
    a, b = table([1, 2, 3, 4]), table([5, 6, 7, 8])
    labels = label_clusters(a, b, None, np.concatenate([of_a, of_b]), paired=True)
    assert labels[0] == labels[1]
    assert len(set(labels.tolist())) == 3


def test_joined_partitions_are_connected_components() -> None:
    labels = join_labels([np.array([0, 0, 1, 2, 3]), np.array([5, 6, 6, 7, 8])])
    assert labels[0] == labels[1] == labels[2]
    assert len(set(labels.tolist())) == 3


@pytest.mark.parametrize("fraction", [0.29, 0.5, 0.7])
def test_splits_keep_clusters_whole_and_have_exact_sizes(fraction: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        clusters = rng.integers(0, 60, 150)
        is_a = rng.random(150) < 0.6
        numbers = rng.permutation(150).tolist()
        first = first_part(numbers, clusters, is_a, fraction)
        assert not set(clusters[first]) & set(clusters[~first])
        count_a, count_b = stats.count_clusters(clusters, is_a)
        first_a, first_b = stats.count_clusters(clusters[first], is_a[first])
        assert abs(first_a - fraction * count_a) <= 1
        assert abs(first_b - fraction * count_b) <= 1
        order = rng.permutation(150)
        again = first_part([numbers[i] for i in order], clusters[order], is_a[order], fraction)
        assert (again == first[order]).all()


def test_halves_need_enough_clusters() -> None:
    a, b = table(list(range(25)) * 2), table(list(range(100, 150)))
    assert split(a, b, fraction=0.5, min_scored=20).double_dipped
    halves = split(a, b, fraction=0.5, min_scored=12)
    assert halves.n_effective == (13, 25)
    assert (len(halves.scoring_a), len(halves.scoring_b)) == (26, 25)


def test_cross_fitting_needs_two_halves_to_test_on() -> None:
    a, b = table(list(range(40))), table(list(range(100, 145)))
    crossed = split(a, b, fraction=0.5, min_scored=20, cross_fit=True)
    assert crossed.first is not None
    assert not crossed.double_dipped
    assert crossed.n_effective == (40, 45)
    assert crossed.n_tested == (20, 22)
    assert split(a, b, fraction=0.3, min_scored=20, cross_fit=True).first is None
    config = Config.of("miniature")
    assert split_pair(a, b, config).halves.first is not None
    assert split_pair(a, b, config.changed(statistics__cross_fit="never")).halves.first is None
    own = config.changed(proposer={"backend": "manual", "hypotheses": ["x"]})
    assert split_pair(a, b, own).halves.first is None
    large = table(list(range(200))), table(list(range(300, 500)))
    assert split_pair(*large, config).halves.first is None


# --- statistics -----------------------------------------------------------------------------


def test_without_clusters_the_results_are_those_of_independent_images() -> None:
    rng = np.random.default_rng(4)
    scores, is_a = rng.integers(0, 9, (5, 70)).astype(float), np.arange(70) < 30
    scores[2, [3, 40]] = np.nan
    alone = np.arange(70)
    np.testing.assert_allclose(
        stats.clustered_auroc(scores, is_a, alone), stats.auroc(scores, is_a), atol=1e-12
    )
    np.testing.assert_allclose(
        stats.clustered_interval(scores, is_a, alone),
        stats.delong_interval(scores, is_a),
        atol=1e-9,
    )
    p = stats.clustered_rank_test(scores, is_a, alone)
    np.testing.assert_allclose(p, stats.mann_whitney(scores, is_a), atol=0.02)


def test_listing_images_again_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    scores, is_a = rng.normal(size=(4, 40)), np.arange(40) < 18
    times = rng.integers(1, 5, 40)
    more, members = np.repeat(scores, times, axis=1), np.repeat(is_a, times)
    labels, alone = np.repeat(np.arange(40), times), np.arange(40)
    for function in (stats.clustered_auroc, stats.clustered_rank_test, stats.clustered_interval):
        np.testing.assert_allclose(
            function(more, members, labels), function(scores, is_a, alone), atol=1e-12
        )


def clustered(
    rng: np.random.Generator, h: int, sizes: np.ndarray, shift: np.ndarray, within: float
) -> np.ndarray:
    """Draws scores with an effect per cluster and noise per image."""
    of_cluster = np.repeat(rng.normal(size=(h, len(sizes))) + shift, sizes, axis=1)
    return of_cluster + within * rng.normal(size=of_cluster.shape)


@pytest.mark.parametrize("sizes_a", [3, 1])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_test_of_clusters_keeps_its_level_and_the_interval_covers(
    sizes_a: int, mixed: bool
) -> None:
    rng = np.random.default_rng(6)
    sizes = np.repeat([sizes_a, 3], [25, 35])
    scores = clustered(rng, 1000, sizes, np.zeros(60), 0.5)
    labels = np.repeat(np.arange(60), sizes)
    is_a = labels < 25
    if mixed:
        is_a = rng.random(len(labels)) < 0.4
    p = stats.clustered_rank_test(scores, is_a, labels)
    for level in (0.05, 0.01):
        assert np.mean(p <= level) <= level + 3 * np.sqrt(level / len(p))
    assert np.mean(p <= 0.05) >= 0.025
    low, high = stats.clustered_interval(scores, is_a, labels).T
    assert 0.92 <= np.mean((low <= 0.5) & (high >= 0.5)) <= 0.985
    # Counted as independent, the same scores are significant far too often.
    if not mixed and sizes_a == 3:
        assert np.mean(stats.mann_whitney(scores, is_a) <= 0.05) > 0.12


def test_the_test_of_clusters_has_the_power_of_the_test_of_its_clusters() -> None:
    rng = np.random.default_rng(7)
    shift = np.where(np.arange(60) < 30, 0.7, 0.0)
    scores = clustered(rng, 500, np.full(60, 3), shift, 0.01)
    labels = np.repeat(np.arange(60), 3)
    power = np.mean(stats.clustered_rank_test(scores, labels < 30, labels) <= 0.05)
    alone = np.mean(stats.mann_whitney(scores[:, ::3], np.arange(60) < 30) <= 0.05)
    assert abs(power - alone) < 0.03


def test_the_ends_of_the_statistics_of_clusters() -> None:
    is_a, labels = np.array([True, True, False, False]), np.array([0, 0, 1, 2])
    scores = np.array([[1.0, 1, 1, 1], [np.nan, np.nan, 1, 2], [2, 2, 0, 1]])
    np.testing.assert_equal(stats.clustered_auroc(scores, is_a, labels), [0.5, np.nan, 1])
    p = stats.clustered_rank_test(scores, is_a, labels)
    assert p[0] == 1
    assert np.isnan(p[1])
    assert 0 < p[2] < 1
    low, high = stats.clustered_interval(scores, is_a, labels)[2]
    assert (low, high) == pytest.approx((0.025, 1))
    with pytest.raises(ValueError, match="one cluster per image"):
        stats.clustered_auroc(scores, is_a, [0, 1])


def test_separability_does_not_recognise_an_image_by_its_copy() -> None:
    rng = np.random.default_rng(8)
    features = np.repeat(rng.normal(size=(60, 30)), 4, axis=0)
    labels, is_a = np.repeat(np.arange(60), 4), np.repeat(np.arange(60) < 30, 4)
    assert stats.separability(features, is_a, np.random.default_rng(0)) > 0.8
    apart = [
        stats.separability(features, is_a, np.random.default_rng(k), clusters=labels)
        for k in range(5)
    ]
    assert 0.3 < np.mean(apart) < 0.7


def test_repeated_pairs_keep_the_level() -> None:
    rng = np.random.default_rng(9)
    pairs = np.repeat(np.arange(30), 4)
    of_a, of_b = (rng.normal(size=(800, 30))[:, pairs] for _ in range(2))
    is_a = np.arange(240) < 120
    hypotheses = [Hypothesis(str(i), "A", "test") for i in range(800)]
    prompts = np.arange(120).astype(str)
    scores = np.hstack([of_a, of_b])
    settings = StatisticsConfig(permutations=999, resamples=100)
    rates = [
        np.mean(
            run_tests(
                hypotheses, scores, is_a, settings, rng, groups=prompts, clusters=clusters
            ).p_value
            <= 0.05
        )
        for clusters in (np.tile(pairs, 2), None)
    ]
    assert rates[0] <= 0.075
    assert rates[1] > 0.15


def test_shuffled_clusters_stay_whole() -> None:
    rng = np.random.default_rng(10)
    labels = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 5])
    is_a = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 0], bool)
    counts = set()
    for _ in range(50):
        new, order = shuffle_labels(is_a, rng, paired=False, clusters=labels)
        assert sorted(order.tolist()) == list(range(10))
        assert new[order[: new.sum()]].all()
        assert new[8] != new[9]
        for cluster in range(5):
            assert len(set(new[labels == cluster].tolist())) == 1
        assert stats.count_clusters(labels, new) == (4, 3)
        counts.add(int(new.sum()))
    assert len(counts) > 1


# --- whole comparisons ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns two manifests: fifty photographs each, twice, and brighter the second time."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(11)
    manifests = []
    for name, places in (("A", ["wall", "wall", "sea"]), ("B", ["grass", "grass", "sea"])):
        rows = []
        for number in range(50):
            image, caption = photo(rng, 48), f"a cook by the {places[number % 3]}"
            for version, factor in (("one", 1.0), ("two", 1.1)):
                path = folder / f"{name}-{number}-{version}.jpg"
                ImageEnhance.Brightness(image).enhance(factor).save(path, quality=90)
                rows.append({"path": path.name, "caption": caption, "photo": number // 2})
        manifest = folder / f"{name}.csv"
        pd.DataFrame(rows).to_csv(manifest, index=False)
        manifests.append(manifest)
    return manifests[0], manifests[1]


def test_near_copies_are_found_and_reported(photos: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {"captioner": "manifest", "ranker": "captions-lexical", "progress": False}
    with Cache(tmp_path / "cache") as cache:
        report = visdiff.compare(*photos, cache=cache, **settings)
        again = visdiff.compare(*photos, cache=cache, **settings)
        alone = visdiff.compare(*photos, cache=cache, statistics__near_copies=False, **settings)
        grouped = visdiff.compare(*photos, cache=cache, group_by="photo", **settings)
    assert (report.set_a.n_scored, report.set_a.n_effective) == (100, 50)
    assert {d.direction for d in report.confirmed} == {"A", "B"}
    assert again.differences == report.differences
    text = "The 100 scored images of A count as 50 observations"
    assert any(text in w for w in report.warnings)
    for page in (report.to_markdown(), report.to_html()):
        assert text in page
        assert "independent observations: 50 and 50" in page
    assert DifferenceReport.from_json(report.to_json()) == report
    assert alone.set_a.n_effective == 100
    # Of 25 groups, fewer than 20 are left to test on.
    assert grouped.double_dipped
    assert grouped.set_a.n_effective == 25
    best, best_alone = report.differences[0], alone.differences[0]
    assert best.text == best_alone.text
    assert best.ci_high - best.ci_low > best_alone.ci_high - best_alone.ci_low


def test_old_reports_have_no_effective_number(photos: tuple[Path, Path], tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        report = visdiff.compare(
            *photos, captioner="manifest", ranker="captions-lexical", cache=cache, progress=False
        )
    data = report.to_dict()
    del data["set_a"]["n_effective"], data["set_b"]["n_effective"], data["cross_fitted"]
    old = DifferenceReport.from_json(json.dumps(data))
    assert old.set_a.n_effective is None
    assert "independent observations" not in old.to_markdown()


@pytest.mark.parametrize("command", ["compare", "rank", "compare many"])
def test_the_commands_group_by_a_column(command: str, photos: tuple[Path, Path]) -> None:
    from visdiff.cli.app import app

    arguments = [
        *command.split(),
        *map(str, photos),
        "--captioner",
        "manifest",
        "--dry-run",
        "--json",
    ]
    arguments += ["--ranker", "captions-lexical"]
    arguments += ["--hypotheses", "a cook"] if command == "rank" else []
    alone = CliRunner().invoke(app, arguments)
    found = CliRunner().invoke(app, [*arguments, "--group-by", "photo"])
    assert (alone.exit_code, found.exit_code) == (0, 0), found.output
    # The files have not been decoded, so that without the column 100 images are compared.
    dipped = [int(json.loads(ran.stdout)["double_dipped"]) for ran in (alone, found)]
    assert dipped == [0, 1]
