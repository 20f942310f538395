"""Tests of the preflight: planted confounds are flagged, identical distributions are not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from visdiff.cache import Cache
from visdiff.comparison.image_properties import measure
from visdiff.comparison.preflight import MAX_Q, MIN_EFFECT, Confound, Preflight, preflight
from visdiff.imageset import ImageSet

N = 30
Draw = Callable[[np.random.Generator], Image.Image]


def scene(rng: np.random.Generator) -> Image.Image:
    """Returns a coloured scene whose brightness, colours and size vary from image to image."""
    width, height = rng.integers(48, 80, 2)
    low = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(low).resize((int(width), int(height)), Image.Resampling.BICUBIC)
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.1))


def build(
    folder: Path, seed: int, draw: Draw = scene, suffix: str = ".jpg", **options: Any
) -> ImageSet:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    options.setdefault("quality", 85) if suffix == ".jpg" else None
    for number in range(N):
        draw(rng).save(folder / f"{number:02d}{suffix}", **options)
    return ImageSet.open(folder)


def flagged(found: Preflight) -> dict[str, Confound]:
    return {confound.name: confound for confound in found.confounds if confound.flagged}


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_identical_distributions_are_not_flagged(tmp_path: Path, seed: int) -> None:
    found = preflight(build(tmp_path / "a", seed), build(tmp_path / "b", seed + 1))
    assert found.warnings() == []
    assert {"pixels", "brightness", "colourfulness", "file_size"} <= {
        confound.name for confound in found.confounds
    }


def brighter(rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(scene(rng)).enhance(1.5)


def larger(rng: np.random.Generator) -> Image.Image:
    image = scene(rng)
    return image.resize((image.width * 2, image.height * 2))


def wider(rng: np.random.Generator) -> Image.Image:
    image = scene(rng)
    return image.resize((image.width * 2, image.height))


def grey(rng: np.random.Generator) -> Image.Image:
    return scene(rng).convert("L").convert("RGB")


PLANTED: dict[str, tuple[str, dict[str, Any], float, str]] = {
    # Planted confound: property, construction of B, side of 0.5, words of the sentence.
    "brightness": ("brightness", {"draw": brighter}, 0, "The images of B are brighter than"),
    "size": ("pixels", {"draw": larger}, 0, "The images of B are larger than"),
    "aspect": ("aspect", {"draw": wider}, 0, "wider for their height"),
    "greyscale": ("greyscale", {"draw": grey}, 0, "0% of the images of A are greyscale, and 100%"),
    "colour": ("colourfulness", {"draw": grey}, 1, "The images of A are more colourful"),
    "format": ("format: JPEG", {"suffix": ".png"}, 1, "100% of the images of A are JPEG files"),
    "quality": ("jpeg_quality", {"quality": 40}, 1, "a JPEG quality of 85, B"),
}


@pytest.mark.parametrize("planted", list(PLANTED))
def test_planted_confound_is_flagged(tmp_path: Path, planted: str) -> None:
    name, options, side, words = PLANTED[planted]
    found = preflight(build(tmp_path / "a", 1), build(tmp_path / "b", 2, **options))
    confound = flagged(found)[name]
    assert abs(confound.auroc - side) <= 0.5 - MIN_EFFECT
    assert confound.q_value <= MAX_Q
    assert words.replace("a JPEG", "an estimated JPEG") in confound.sentence
    assert confound.sentence in found.warnings()
    # Swapping the sets mirrors the result.
    mirror = flagged(preflight(ImageSet.open(tmp_path / "b"), ImageSet.open(tmp_path / "a")))
    assert mirror[name].auroc == pytest.approx(1 - confound.auroc)


def test_only_the_planted_confound_is_flagged(tmp_path: Path) -> None:
    found = preflight(build(tmp_path / "a", 1), build(tmp_path / "b", 2, quality=40))
    assert set(flagged(found)) == {"jpeg_quality", "file_size"}


def test_two_formats_are_one_property_and_three_are_three(tmp_path: Path) -> None:
    a, b = build(tmp_path / "a", 1), build(tmp_path / "b", 2, suffix=".png")
    names = {confound.name for confound in preflight(a, b).confounds}
    assert {name for name in names if name.startswith("format")} == {"format: JPEG"}
    # B has no JPEG: its quality cannot be compared.
    assert "jpeg_quality" not in names
    Image.new("RGB", (50, 50), "red").save(tmp_path / "b" / "x.bmp")
    confounds = preflight(a, ImageSet.open(tmp_path / "b")).confounds
    assert sum(confound.name.startswith("format") for confound in confounds) == 3


def test_duplicates_are_counted_and_paired(tmp_path: Path) -> None:
    a, b = build(tmp_path / "a", 1), build(tmp_path / "b", 2)
    data = (tmp_path / "a" / "00.jpg").read_bytes()
    for name in ("a/copy.jpg", "b/one.jpg", "b/two.jpg", "b/three.jpg"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "a" / "other.jpg").write_bytes((tmp_path / "a" / "01.jpg").read_bytes())
    found = preflight(ImageSet.open(tmp_path / "a"), ImageSet.open(tmp_path / "b"))
    assert (found.duplicates_within_a, found.duplicates_within_b) == (2, 2)
    assert {name for name, _ in found.cross_duplicates} == {"00.jpg", "copy.jpg"}
    assert {name for _, name in found.cross_duplicates} == {"one.jpg", "two.jpg", "three.jpg"}
    warnings = " ".join(found.warnings())
    assert "2 images of A are in B as well, byte for byte: 00.jpg = one.jpg" in warnings
    assert "2 images of A are copies of another in the same set." in warnings
    assert preflight(a, b).cross_duplicates == []


def test_set_against_itself(tmp_path: Path) -> None:
    a = build(tmp_path / "a", 1)
    found = preflight(a, a)
    assert found.cross_duplicates == [(name, name) for name in a.ids]
    assert flagged(found) == {}


@pytest.mark.parametrize("cached", [False, True])
def test_unreadable_images_are_counted_and_named(tmp_path: Path, cached: bool) -> None:
    build(tmp_path / "a", 1)
    (tmp_path / "a" / "zero.jpg").write_bytes(b"")
    data = (tmp_path / "a" / "00.jpg").read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(data[: len(data) // 2])
    a, b = ImageSet.open(tmp_path / "a"), build(tmp_path / "b", 2)
    (tmp_path / "b" / "05.jpg").unlink()
    with Cache(tmp_path / "cache", mode="rw" if cached else "off") as cache:
        for _ in range(2):
            found = preflight(a, b, cache=cache)
            assert [name for name, _ in found.unreadable_a] == ["cut.jpg", "zero.jpg"]
            assert [name for name, _ in found.unreadable_b] == ["05.jpg"]
            assert all(reason for _, reason in found.unreadable_a + found.unreadable_b)
            assert any("cut.jpg, zero.jpg" in warning for warning in found.warnings())
        # Failures are not cached: a repaired file is measured.
        (tmp_path / "a" / "zero.jpg").write_bytes((tmp_path / "a" / "01.jpg").read_bytes())
        assert len(preflight(a, b, cache=cache).unreadable_a) == 1


def test_measurements_come_from_the_cache_and_are_the_same(tmp_path: Path) -> None:
    a, b = build(tmp_path / "a", 1), build(tmp_path / "b", 2)
    with Cache(tmp_path / "cache") as cache:
        first = preflight(a, b, cache=cache)
        assert (cache.hits, cache.misses) == (0, 2 * N)
        assert preflight(a, b, cache=cache) == first == preflight(a, b)
        assert cache.hits == 2 * N
    # A replay measures again, because that needs no model.
    with Cache(tmp_path / "none", mode="replay") as cache:
        assert preflight(a, b, cache=cache) == first


def test_digests_are_known_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = build(tmp_path / "a", 1), build(tmp_path / "b", 2)
    preflight(a, b)

    def refuse(*_: Any) -> None:
        raise AssertionError("a file was read twice")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    assert len(a.split(0.5)[0]) + len(b.split(0.5)[0]) > 0


def test_pillow_images_have_no_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = ImageSet.open([scene(rng) for _ in range(N)])
    b = ImageSet.open([brighter(rng) for _ in range(N)])
    found = preflight(a, b)
    assert "brightness" in flagged(found)
    assert "file_size" not in {confound.name for confound in found.confounds}


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_to_compare(tmp_path: Path, count: int) -> None:
    a, b = build(tmp_path / "a", 1), build(tmp_path / "b", 2)
    assert preflight(a.subset(range(count)), b).confounds == []


def test_to_dict_is_json(tmp_path: Path) -> None:
    found = preflight(build(tmp_path / "a", 1), build(tmp_path / "b", 2, draw=brighter))
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["warnings"] == found.warnings() != []
    assert written["confounds"][0]["name"] == found.confounds[0].name


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_jpeg_quality_is_estimated(tmp_path: Path, quality: int) -> None:
    scene(np.random.default_rng(0)).save(tmp_path / "x.jpg", quality=quality)
    data, image = ImageSet.open([tmp_path / "x.jpg"]).raw(0)
    assert measure(data, image, "x")["jpeg_quality"] == pytest.approx(quality, abs=2)


def test_measurements_of_known_images() -> None:
    white = measure(None, Image.new("RGB", (200, 100), "white"), "x")
    assert (white["pixels"], white["aspect"], white["brightness"]) == (20_000, 2.0, 1.0)
    assert (white["greyscale"], white["colourfulness"]) == (True, 0.0)
    assert (white["file_size"], white["format"], white["jpeg_quality"]) == (None, None, None)
    red = measure(None, Image.new("RGB", (8, 8), "red"), "x")
    assert red["brightness"] == pytest.approx(0.299)
    assert red["greyscale"] is False
    # The EXIF rotation is applied.
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.new("RGB", (200, 100))
    sideways.info["exif"] = exif.tobytes()
    assert measure(None, sideways, "x")["aspect"] == 0.5
