"""What one sample of personalisation is: image, crop, flip, mask, caption, sizes, noise."""

from typing import Any

import numpy as np
import pytest
import subjects
import tiny_pipelines as tiny
import torch
from PIL import Image

from editing.personalize import data
from editing.personalize.augment import both, far_or_near, side_by_side
from editing.personalize.data import Bounded, Item, Mixing, Pictures, Sampler, fixed_caption
from editing.personalize.framing import Framing, view
from editing.personalize.loss import NoiseLevels
from editing.personalize.objective import Objective
from editing.personalize.priors import _with_dropout
from editing.personalize.regularization import Pools, class_prompts
from editing.personalize.settings import PersonalizeConfig
from editing.personalize.trained import Whole
from editing.personalize.training_subjects import pictures_of
from editing.pipelines.denoiser import Denoiser
from editing.training import generator
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

WIDE, HIGH = (48, 24), (24, 48)


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny.sdxl()


def pictures(*sizes: tuple[int, int], phrase: str = "a olis dog", **more: Any) -> Pictures:
    images = [subjects.images(1, size, seed=i)[0] for i, size in enumerate(sizes)]
    captions = [fixed_caption(f"{phrase} {i}") for i in range(len(sizes))]
    return Pictures(ImageSet.open(images), captions, phrase, **more)


def sampler(pipe: Any, framing: Framing | None = None, **mixing: Any) -> Sampler:
    denoiser = Denoiser(pipe)
    levels = NoiseLevels.of(pipe.scheduler, denoiser.prediction)
    return Sampler(denoiser, levels, framing or Framing(denoiser.size), Mixing(**mixing))


def same(a: Item, b: Item) -> bool:
    return (
        np.array_equal(a.view.pixels, b.view.pixels)
        and (a.view.sizes, a.text, a.level) == (b.view.sizes, b.text, b.level)
        and torch.equal(a.noise, b.noise)
        and torch.equal(a.posterior, b.posterior)
    )


@pytest.mark.parametrize("mixing", [{}, {"scaled": True}, {"pasted": 0.5}, {"empty": 0.5}])
def test_a_sample_is_determined_by_its_seed_step_and_number(sdxl: Any, mixing: Any) -> None:
    drawn = sampler(sdxl, Framing((32, 32), 0.75, True), **mixing)
    again = sampler(sdxl, Framing((32, 32), 0.75, True), **mixing)
    sets, others = ([pictures(WIDE, HIGH), pictures(WIDE, phrase="a <x> cat")] for _ in range(2))
    keys = [(0, step, i) for step in range(3) for i in range(2)] + [(1, 0, 0)]
    # In another order, as a resumed training draws them from new objects.
    found = {key: drawn.draw(sets, generator(*key)) for key in keys}
    for key in reversed(keys):
        assert same(found[key], again.draw(others, generator(*key)))
    assert len({item.noise.sum().item() for item in found.values()}) == len(keys)
    assert len({item.view.pixels.tobytes() for item in found.values()}) > 3


def test_crops_are_drawn_anew_each_step(sdxl: Any) -> None:
    drawn, sets = sampler(sdxl, Framing((32, 32), 0.75)), [pictures((64, 64))]
    items = [drawn.draw(sets, generator(0, step, 0)) for step in range(20)]
    corners = {item.view.sizes[2:4] for item in items}
    assert len(corners) > 10
    for item in items:
        height, width, top, left, *target = item.view.sizes
        assert target == [32, 32]
        assert 32 <= height == width <= round(32 / 0.75)
        assert 0 <= top <= height - 32 and 0 <= left <= width - 32  # noqa: PT018
        assert item.view.key is None
    centre = sampler(sdxl).draw(sets, generator(0, 0, 0)).view
    assert centre.sizes == (32, 32, 0, 0, 32, 32)
    assert centre.key is not None


def test_the_crop_shows_what_its_sizes_tell() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 2).astype(np.uint8), (64, 1))).convert("RGB")
    found = view(ramp, None, Framing((32, 32), 0.5), False, np.random.default_rng(3))
    height, width, _, left, *_ = found.sizes
    assert (height, width) == (round(64 * width / 128), width)
    across = (found.pixels[0, 16] + 1) * 127.5 / 2 * width / 128
    np.testing.assert_allclose(across, left + np.arange(32), atol=1.5)


@pytest.mark.parametrize("size", [(207, 103), (214, 214), (214, 3000), (501, 502), (3000, 417)])
def test_the_largest_box_of_an_image_is_never_larger_than_it(size: tuple[int, int]) -> None:
    # 512 / (512 / 214) is above 214 in floating point; Pillow refuses a box that begins below 0.
    cut = view(Image.new("RGB", size), None, Framing((512, 512)), False, np.random.default_rng(0))
    assert cut.pixels.shape == (3, 512, 512)


def test_images_of_the_class_have_their_own_sizes_and_crops(sdxl: Any) -> None:
    """The published scripts condition them on the sizes of the subject's image."""
    denoiser = Denoiser(sdxl)
    seen: list[torch.Tensor] = []
    hook = sdxl.unet.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["added_cond_kwargs"]["time_ids"]),
        with_kwargs=True,
    )
    objective = Objective(
        denoiser, Whole(sdxl, ["unet.conv_out.weight"]), [subjects.subject()],
        [pictures((64, 64))], [pictures(WIDE, phrase="a dog")], False,
        PersonalizeConfig(crop=0.75), Framing(denoiser.size, 0.75),
    )  # fmt: skip
    with torch.no_grad():
        for step in range(3):
            objective({}, [generator(0, step, i) for i in range(2)])
    hook.remove()
    for rows in seen:
        own, classes = rows[:2], rows[2:]
        assert (own[:, 0] == own[:, 1]).all()
        assert ((classes[:, 1] - 2 * classes[:, 0]).abs() <= 1).all()
    assert len(torch.cat(seen)[:, :4].unique(dim=0)) == 12


def test_flips_move_the_mask() -> None:
    image, mask = Image.new("RGB", (32, 32)), Image.new("L", (32, 32))
    image.paste((255, 255, 255), (0, 0, 8, 32))
    mask.paste(255, (0, 0, 8, 32))
    framing, rng = Framing((16, 16), flip=True), np.random.default_rng(0)
    views = [view(image, mask, framing, framing.mirrored(rng), rng) for _ in range(20)]
    left = [v.mask is not None and v.mask[:, :4].all() for v in views]
    assert 4 < sum(left) < 16
    for found in views:
        assert found.mask is not None
        assert found.mask.mean() == 0.25
        np.testing.assert_allclose(found.pixels[0] > 0, found.mask > 0.5)
    assert {v.key for v in views} == {(False, 16, 16), (True, 16, 16)}
    cropped = view(image, mask, Framing((16, 16), 0.5), False, rng)
    assert cropped.mask is not None
    np.testing.assert_allclose(cropped.pixels[0] > 0, cropped.mask > 0.5)


def test_an_image_takes_the_bucket_of_its_shape(sdxl: Any) -> None:
    framing = Framing((32, 32), buckets=((24, 48), (48, 24), (32, 32)))
    assert framing.sizes == ((32, 32), (24, 48), (48, 24))
    assert [framing.size_for(*size) for size in (WIDE, HIGH, (30, 31))] == [
        (24, 48), (48, 24), (32, 32),
    ]  # fmt: skip
    drawn = sampler(sdxl, framing)
    items = [drawn.draw([pictures(WIDE, HIGH)], generator(0, 0, i)) for i in range(8)]
    for item in items:
        assert tuple(4 * s for s in item.noise.shape[1:]) == item.view.pixels.shape[1:]
    assert {item.noise.shape for item in items} == {(4, 6, 12), (4, 12, 6)}
    with pytest.raises(InputError, match=r"crop in \(0, 1\], got 0"):
        Framing((32, 32), 0)


def test_far_and_near_images_say_so_and_know_where_they_are() -> None:
    image, mask = Image.new("RGB", (40, 30), (255, 255, 255)), Image.new("L", (40, 30), 255)
    mask.paste(0, (0, 0, 20, 30))
    rng = np.random.default_rng(0)
    views = [far_or_near(image, mask, (32, 32), rng) for _ in range(60)]
    shares = []
    for found, prefix in views:
        assert found.shown is not None
        assert found.mask is not None
        np.testing.assert_array_equal(found.pixels[0] > 0, found.shown > 0)
        assert set(np.unique(found.shown)) <= {0, 1}
        assert (found.mask[found.shown == 0] == 0).all()
        share = found.shown.mean() ** 0.5
        shares.append(share)
        # The right half of the image is the subject, wherever the image is.
        if share < 1:
            assert 0.3 < found.mask.sum() / found.shown.sum() < 0.7
            assert (prefix in ("a far away ", "very small ")) == (share < 0.6) or share > 0.55
        assert found.sizes == (32, 32, 0, 0, 32, 32)
        assert found.key is None
    assert min(shares) < 0.45
    assert {p for f, p in views if f.shown is not None and f.shown.all()} >= {
        "zoomed in ", "close up ",
    }  # fmt: skip


def test_far_and_near_images_keep_their_proportions() -> None:
    # A square in the middle of a wide image, shown in a wide format.
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (34, 14, 46, 26))
    rng = np.random.default_rng(0)
    for _ in range(8):
        found, _ = far_or_near(image, None, (64, 128), rng)
        rows, columns = np.nonzero(found.pixels[0] > 0)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert abs(height - width) <= 3


def test_scaled_images_are_mirrored_if_asked_for() -> None:
    image = Image.new("RGB", (32, 32), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 16, 32))
    mask = Image.new("L", (32, 32), 255)
    mask.paste(0, (0, 0, 16, 32))
    own = Pictures(ImageSet.open([image]), [fixed_caption("")], "", [mask])
    rights = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found, _ = own.scaled(0, Framing((32, 32), flip=True), rng)
        assert found.mask is not None
        assert found.shown is not None
        bright = np.nonzero(found.pixels[0] > 0)[1].mean()
        rights.append(bright > np.nonzero(found.shown)[1].mean())
        assert abs(np.nonzero(found.mask > 0.5)[1].mean() - bright) < 1
    assert set(rights) == {True, False}


def test_two_subjects_side_by_side() -> None:
    rng, framing = np.random.default_rng(0), Framing((32, 16))
    left, right = (view(image, None, framing, False, rng) for image in subjects.images(2))
    masked = view(subjects.images(1)[0], Image.new("L", (24, 20)), framing, False, rng)
    found = side_by_side(left, right)
    np.testing.assert_array_equal(found.pixels[:, :, :16], left.pixels)
    np.testing.assert_array_equal(found.pixels[:, :, 16:], right.pixels)
    assert found.mask is None
    half = side_by_side(left, masked).mask
    assert half is not None
    assert half[:, :16].all() and not half[:, 16:].any()  # noqa: PT018
    texts = {both("a <x> dog", "a <y> cat", rng) for _ in range(20)}
    assert texts == {
        "a photo of a <x> dog on the left and a <y> cat on the right",
        "a photo of a <x> dog and a <y> cat",
    }


def test_pasted_images_need_two_subjects(sdxl: Any) -> None:
    drawn = sampler(sdxl, pasted=1.0)
    two = [pictures(WIDE, phrase="a <x> dog"), pictures(HIGH, phrase="a <y> cat")]
    items = [drawn.draw(two, generator(0, 0, i)) for i in range(8)]
    assert all("<x> dog" in i.text and "<y> cat" in i.text and i.source is None for i in items)
    assert drawn.draw(two[:1], generator(0, 0, 0)).source is not None


def test_a_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_CACHE_BYTES", 10)
    made: list[int] = []

    def value(key: int) -> int:
        return cache.get(key, lambda: made.append(key) or key)

    cache: Bounded[int, int] = Bounded(lambda size: size)
    assert [value(k) for k in (4, 5, 4, 5)] == [4, 5, 4, 5]
    assert made == [4, 5]
    value(3)  # 12 bytes: 4 was used longest ago.
    assert [value(5), value(3)] == [5, 3]
    assert made == [4, 5, 3]
    value(4)
    assert made == [4, 5, 3, 4]
    value(99)  # Larger than the cache, which holds it alone.
    value(99)
    assert made == [4, 5, 3, 4, 99]


def test_captions_of_the_class_lose_words_at_each_step() -> None:
    pools = Pools.of("living")
    (prompt,) = class_prompts("dog", pools, 1, np.random.default_rng(0), [])
    rng = np.random.default_rng(1)
    texts = {_with_dropout(prompt, 0.5)(rng) for _ in range(40)}
    assert len(texts) > 2
    assert all("dog" in text for text in texts)
    assert _with_dropout(prompt, 0.0)(rng) == prompt.text


def test_templates_are_for_images_without_a_caption() -> None:
    taught = subjects.subject("<x>").with_captions(["a <x> dog", "a <x> dog on grass", "a <x> dog"])
    config = PersonalizeConfig(templates=("a photo of {}", "{} here"))
    found = pictures_of([taught], config)
    rng = np.random.default_rng(0)
    assert {found.caption(0, rng) for _ in range(20)} == {"a photo of a <x> dog", "a <x> dog here"}
    assert {found.caption(1, rng) for _ in range(20)} == {"a <x> dog on grass"}


def test_folders_of_one_subject_are_drawn_by_their_repeats() -> None:
    from dataclasses import replace

    many = replace(subjects.subject(seed=1), repeats=3)
    found = pictures_of([subjects.subject(), many], PersonalizeConfig())
    assert len(found) == 6
    rng = np.random.default_rng(0)
    drawn = [found.draw(rng) for _ in range(400)]
    assert 0.68 < np.mean([index >= 3 for index in drawn]) < 0.82
    assert not np.array_equal(np.asarray(found.image(0)), np.asarray(found.image(3)))
