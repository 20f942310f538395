"""Tests of the split: halves are disjoint, and partners and copies stay together."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import write_set
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visdiff.comparison.split import Halves, open_pair, pair_up, split
from visdiff.errors import InputError
from visdiff.imageset import ImageSet


def plain(numbers: list[int]) -> ImageSet:
    """Returns a set of images; equal numbers give equal images."""
    return ImageSet.open([Image.new("RGB", (2, 1), (n % 256, n // 256, 7)) for n in numbers])


def keyed(prompts: list[str], seeds: list[int], name: str) -> ImageSet:
    frame = pd.DataFrame(
        {
            "path": [f"{name}-{i}.png" for i in range(len(prompts))],
            "prompt": prompts,
            "seed": seeds,
        }
    )
    return ImageSet.open(frame, name=name)


def digests(images: ImageSet) -> set[str]:
    return {images.digest(i) for i in range(len(images))}


def keys(images: ImageSet) -> list[tuple[str, int]]:
    return list(images.frame[["prompt", "seed"]].itertuples(index=False, name=None))


def test_every_image_is_in_exactly_one_half() -> None:
    a, b = plain(list(range(200))), plain(list(range(200, 500)))
    halves = split(a, b, fraction=0.3, min_scored=20)
    assert not halves.double_dipped
    for whole, discovery, scoring in (
        (a, halves.discovery_a, halves.scoring_a),
        (b, halves.discovery_b, halves.scoring_b),
    ):
        assert sorted([*discovery.ids, *scoring.ids]) == sorted(whole.ids)
    assert (len(halves.discovery_a), len(halves.discovery_b)) == (60, 90)
    assert halves.groups is None


@settings(max_examples=8)
@given(
    st.lists(st.integers(0, 40), min_size=50, max_size=60),
    st.lists(st.integers(0, 40), min_size=50, max_size=60),
)
def test_copies_are_in_the_same_half(in_a: list[int], in_b: list[int]) -> None:
    halves = split(plain(in_a), plain(in_b), fraction=0.5, min_scored=2)
    if halves.double_dipped:
        return
    proposing = digests(halves.discovery_a) | digests(halves.discovery_b)
    testing = digests(halves.scoring_a) | digests(halves.scoring_b)
    assert not proposing & testing


def test_the_halves_depend_on_the_contents_and_not_on_their_order() -> None:
    numbers = list(range(100))
    a, b = plain(numbers), plain(list(range(100, 201)))
    halves = split(a, b, fraction=0.5, min_scored=2)
    assert (len(halves.scoring_a), len(halves.scoring_b)) == (50, 51)
    shuffled = split(plain(numbers[::-1]), b, fraction=0.5, min_scored=2)
    assert digests(shuffled.scoring_a) == digests(halves.scoring_a)
    assert shuffled.scoring_b.ids == halves.scoring_b.ids
    exchanged = split(b, a, fraction=0.5, min_scored=2)
    assert exchanged.scoring_b.ids == halves.scoring_a.ids
    # Without some images, at most as many others change their half.
    fewer = split(a.subset(range(4, 100)), b, fraction=0.5, min_scored=2)
    assert len(digests(fewer.scoring_a) - digests(halves.scoring_a)) <= 4


def test_too_few_images_are_used_in_both_halves_and_flagged() -> None:
    a, b = plain(list(range(30))), plain(list(range(100, 400)))
    halves = split(a, b, fraction=0.5, min_scored=20)
    assert halves.double_dipped
    assert halves.discovery_a is halves.scoring_a is a
    assert halves.discovery_b is halves.scoring_b is b
    assert len(halves.scoring_is_a) == 330


def test_the_minimum_applies_to_the_scoring_half() -> None:
    a, b = plain(list(range(40))), plain(list(range(200, 260)))
    assert not split(a, b, fraction=0.5, min_scored=20).double_dipped
    assert split(a, b, fraction=0.5, min_scored=21).double_dipped


def test_an_empty_discovery_half_means_too_few() -> None:
    same = plain([1] * 50)
    # All copies are in the same half.
    assert split(same, same, fraction=0.5, min_scored=2).double_dipped


def test_membership_lists_a_first() -> None:
    halves = Halves(plain([1]), plain([2, 3]), plain([4, 5]), plain([6]), False)
    assert halves.scoring_is_a.tolist() == [True, True, False]


def test_pair_up_moves_partners_to_equal_positions_and_counts_the_rest() -> None:
    rng = np.random.default_rng(0)
    pairs = [(f"a {w}", s) for w in ("cat", "dog", "cow") for s in range(40)]
    in_a = [pairs[i] for i in rng.permutation(120)[:100]]
    in_b = [pairs[i] for i in rng.permutation(120)[:90]]
    a, b = (
        keyed([p for p, _ in k], [s for _, s in k], n)
        for k, n in ((in_a, "before"), (in_b, "after"))
    )
    aligned_a, aligned_b, left_out = pair_up(a, b, ("prompt", "seed"))
    assert keys(aligned_a) == keys(aligned_b)
    assert set(keys(aligned_a)) == set(in_a) & set(in_b)
    assert left_out == 190 - 2 * len(aligned_a)


def test_partners_stay_at_equal_positions_after_the_split() -> None:
    pairs = [(f"a {w}", s) for w in ("cat", "dog", "cow") for s in range(40)]
    order = np.random.default_rng(1).permutation(len(pairs))
    a = keyed([p for p, _ in pairs], [s for _, s in pairs], "before")
    b = keyed([pairs[i][0] for i in order], [pairs[i][1] for i in order], "after")
    a, b, left_out = pair_up(a, b, ("prompt", "seed"))
    assert left_out == 0
    halves = split(a, b, fraction=0.5, min_scored=20, paired_by=("prompt", "seed"))
    assert not halves.double_dipped
    assert keys(halves.scoring_a) == keys(halves.scoring_b)
    assert keys(halves.discovery_a) == keys(halves.discovery_b)
    assert not set(keys(halves.scoring_a)) & set(keys(halves.discovery_a))
    # The bootstrap resamples prompts, not seeds.
    assert halves.groups is not None
    assert halves.groups.tolist() == [prompt for prompt, _ in keys(halves.scoring_a)]


def test_pair_up_matches_integers_and_floats() -> None:
    # A column with a missing value is read as floats; 7 and 7.0 are the same seed.
    a = keyed(["x", "x"], [7, 8], "before")
    frame = pd.DataFrame({"path": ["p", "q"], "prompt": ["x", "x"], "seed": [8.0, 7.0]})
    b = ImageSet.open(frame, name="after")
    _, aligned_b, left_out = pair_up(a, b, ("prompt", "seed"))
    assert left_out == 0
    assert aligned_b.frame["seed"].tolist() == [7, 8]


def test_a_key_that_occurs_twice() -> None:
    a = keyed(["x", "x", "y"], [1, 1, 1], "before")
    b = keyed(["x", "y"], [1, 1], "after")
    with pytest.raises(InputError, match=r"each \(prompt, seed\) once in before, got .*'x'"):
        pair_up(a, b, ("prompt", "seed"))
    with pytest.raises(InputError, match="once in before"):
        pair_up(b, a, ("prompt", "seed"))


def test_a_missing_column() -> None:
    a, b = keyed(["x"], [1], "before"), keyed(["x"], [1], "after")
    with pytest.raises(InputError, match=r"in before to pair .*got .*prompt, seed; add step") as e:
        pair_up(a, b, ("prompt", "step"))
    assert "\n" not in str(e.value)


def test_nothing_in_common() -> None:
    a, b = keyed(["x"], [1], "before"), keyed(["y"], [1], "after")
    with pytest.raises(InputError, match="none in common"):
        pair_up(a, b, ("prompt", "seed"))


def test_open_pair_gives_distinct_names(tmp_path: Path) -> None:
    one = write_set(tmp_path / "wall" / "m", ["a"] * 2, seed=1).parent
    two = write_set(tmp_path / "grass" / "m", ["a"] * 2, seed=2).parent
    assert [s.name for s in open_pair(one, two)] == ["wall", "grass"]
    manifests = one / "manifest.csv", two / "manifest.csv"
    assert len({s.name for s in open_pair(*manifests)}) == 2
    assert [s.name for s in open_pair(one, one)] == ["m (A)", "m (B)"]
    assert [s.name for s in open_pair(one, two, name_a="x", name_b="y")] == ["x", "y"]
    lists = [Image.new("RGB", (2, 2))] * 2
    assert [s.name for s in open_pair(lists, lists)] == ["images (A)", "images (B)"]
