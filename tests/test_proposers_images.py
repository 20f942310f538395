"""Tests of the proposer of a vision-language model: grids, labels, separate images."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import folder_of_pictures

from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm import Picture, Request
from visdiff.llm.scripted import ScriptedChat
from visdiff.proposers import Evidence
from visdiff.proposers.images_vlm import ImagesVlmProposer, draw_grid, grid_columns

NOTHING = json.dumps({"hypotheses": []})
RED, BLUE = (255, 0, 0), (0, 0, 255)


def plain(n: int, colour: tuple[int, int, int], size: tuple[int, int] = (40, 20)) -> ImageSet:
    # Slightly different shades make the images distinct.
    shades = [(max(colour[0] - i, 0), colour[1], max(colour[2] - i, 0)) for i in range(n)]
    return ImageSet.open([Image.new("RGB", size, shade) for shade in shades])


def requests_of(a: ImageSet, b: ImageSet, **settings: Any) -> list[Request]:
    llm = ScriptedChat([NOTHING, NOTHING])
    proposer = ImagesVlmProposer(lambda: llm, **settings)
    proposer.propose(Evidence(a, b), rng=np.random.default_rng(0))
    return llm.requests


def decode(part: Any) -> Image.Image:
    assert isinstance(part, Picture)
    image = Image.open(io.BytesIO(part.data))
    assert f"image/{(image.format or '').lower()}" == part.media_type
    return image.convert("RGB")


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.all(np.abs(pixels.astype(int) - colour) < 60, axis=-1, keepdims=True)[..., 0]


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 1), (3, 1), (5, 8), (20, 20), (7, 0)])
def test_grid_has_as_many_rows_as_needed(n_a: int, n_b: int) -> None:
    columns = grid_columns(max(n_a, n_b))
    tiles = [[Image.new("RGB", (64, 64), c)] * n for c, n in ((RED, n_a), (BLUE, n_b))]
    sheet = draw_grid((("Group A", tiles[0]), ("Group B", tiles[1])), 64, columns)
    pixels = np.asarray(sheet)
    assert near(pixels, RED).sum() == n_a * 64 * 64
    assert near(pixels, BLUE).sum() == n_b * 64 * 64
    rows = -(-n_a // columns) + -(-n_b // columns)
    assert sheet.height == 10 + 2 * (24 + 10) + rows * 74
    assert 1 <= columns <= max(n_a, n_b)
    if n_a and n_b:
        # All images of A are above those of B.
        assert (
            np.flatnonzero(near(pixels, RED).any(1)).max()
            < np.flatnonzero(near(pixels, BLUE).any(1)).min()
        )


def test_grid_of_twenty_per_set_is_nearly_square() -> None:
    tiles = [Image.new("RGB", (64, 64), RED)] * 20
    sheet = draw_grid((("Group A", tiles), ("Group B", tiles)), 64, grid_columns(20))
    assert 0.7 < sheet.width / sheet.height < 1.4


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (30, 10), (10, 30)])
def test_aspect_ratio_is_kept_and_images_are_not_enlarged(size: tuple[int, int]) -> None:
    sheet = draw_grid((("Group A", [Image.new("RGB", size, RED)]),), 100, 1)
    rows, columns = (np.flatnonzero(near(np.asarray(sheet), RED).any(axis)) for axis in (1, 0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(width, height) == min(100, max(size))
    assert width / height == pytest.approx(size[0] / size[1], rel=0.1)


def test_headings_are_drawn() -> None:
    for heading in ("Group A", "Group B"):
        bar = np.asarray(draw_grid(((heading, []),), 100, 3))[10:34]
        assert (bar > 200).any()  # white letters on a black bar
        assert (bar < 50).mean() > 0.5
    a, b = (np.asarray(draw_grid(((h, []),), 100, 3)) for h in ("Group A", "Group B"))
    assert (a != b).any()


def test_grid_question_has_one_picture_and_the_numbers_of_images() -> None:
    requests = requests_of(plain(7, RED), plain(3, BLUE), sample_size=5, tile=32)
    for request, numbers in zip(requests, ((5, 3), (3, 5)), strict=True):
        text, picture = request.messages[-1].parts
        assert isinstance(text, str)
        upper, lower = (text.index(f"{n} images of Group {g}") for n, g in zip(numbers, "AB"))  # noqa: B905
        assert upper < lower
        assert "20 images" not in text
        decode(picture)
    # The sets are swapped in the second question.
    tops = [
        np.flatnonzero(near(np.asarray(decode(r.messages[-1].parts[1])), RED).any(1)).min()
        for r in requests
    ]
    assert tops[0] < tops[1]


def test_separate_images_each_after_its_label() -> None:
    first, second = requests_of(plain(2, RED), plain(3, BLUE), layout="images", tile=16)
    parts = first.messages[-1].parts
    labels = [p for p in parts[:-1] if isinstance(p, str)]
    assert labels == [f"Group A, image {i}:" for i in (1, 2)] + [
        f"Group B, image {i}:" for i in (1, 2, 3)
    ]
    shown = [decode(p) for p in parts if isinstance(p, Picture)]
    assert [image.size for image in shown] == [(16, 8)] * 5
    assert [bool(near(np.asarray(image), RED).all()) for image in shown] == [True] * 2 + [False] * 3
    assert "2 images of Group A" in str(parts[-1])
    others = [decode(p) for p in second.messages[-1].parts if isinstance(p, Picture)]
    assert [bool(near(np.asarray(i), RED).all()) for i in others] == [False] * 3 + [True] * 2


def test_model_without_vision_is_rejected() -> None:
    text_only = ScriptedChat([], vision=False)
    with pytest.raises(InputError, match=r"a chat model with vision.*captions-llm"):
        ImagesVlmProposer(lambda: text_only)


@pytest.mark.parametrize("settings", [{"layout": "heap"}, {"tile": 3}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"proposer\.layout"):
        ImagesVlmProposer(lambda: ScriptedChat([]), **settings)


def test_damaged_image_is_left_out_and_damaged_set_is_a_failure(tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "a", 4)
    (folder / "001.png").write_bytes(b"no image")
    images = ImageSet.open(folder)
    text = requests_of(images, plain(2, BLUE))[0].messages[-1].parts[0]
    assert "3 images of Group A" in str(text)
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    llm = ScriptedChat([])
    found = ImagesVlmProposer(lambda: llm).propose(
        Evidence(images, plain(2, BLUE)), rng=np.random.default_rng(0)
    )
    assert not found.hypotheses
    assert len(found.failures) == 1
    assert ".png" in found.failures[0]
    assert not llm.requests


def test_images_are_not_changed() -> None:
    one = Image.new("RGB", (900, 300), RED)
    requests_of(ImageSet.open([one]), plain(1, BLUE), tile=16)
    assert one.size == (900, 300)
