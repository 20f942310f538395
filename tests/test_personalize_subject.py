"""A subject is read from the layouts that people have."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from editing.personalize.subject import Subject
from visdiff.errors import InputError


def write_images(folder: Path, *names: str, size: tuple[int, int] = (16, 12)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40 * i, 20, 30)).save(folder / name)
    return folder


def test_a_folder_of_images(tmp_path: Path) -> None:
    subject = Subject.open(write_images(tmp_path, "a.png", "b.png"), noun="dog")
    assert subject.captions == ("a olis dog", "a olis dog")
    assert subject.masks == (None, None)
    assert subject.notes == ()


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_sidecar_captions_take_the_identifier(tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / f"a{suffix}").write_text("a dog on a red couch\n", "utf-8")
    subject = Subject.open(tmp_path, "olis", "dog")
    assert subject.captions == ("a olis dog on a red couch", "a olis dog")
    assert subject.notes == ("1 images have no caption; 'a olis dog' is used for them.",)


def test_the_placeholder_of_a_caption_is_replaced(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("a photo of [identifier] dog")
    assert Subject.open(tmp_path, "zwx", "dog").captions[0] == "a photo of zwx dog"


def test_files_that_are_no_images_are_counted_and_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "notes.md").write_text("…")
    (tmp_path / "sub").mkdir()
    subject = Subject.open(tmp_path, noun="dog")
    assert subject.notes == ("1 files are no images and were left out (notes.md).",)


def test_masks_are_no_images_and_lone_ones_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "a_mask.png", "gas-mask.png")
    write_images(tmp_path / "masks", "a.png", "b.png")
    subject = Subject.open(tmp_path, noun="dog")
    assert subject.images.ids == ("a.png",)
    assert subject.masks[0] is not None
    assert subject.notes[0].startswith("3 files are no images and were left out (")
    assert "gas-mask.png: a mask that is not used" in subject.notes[0]


def test_a_folder_named_masks_may_hold_the_images(tmp_path: Path) -> None:
    subject = Subject.open(write_images(tmp_path / "masks", "a.png", "b.png"), noun="mask")
    assert subject.images.ids == ("a.png", "b.png")


def test_one_image_is_allowed_and_noted(tmp_path: Path) -> None:
    subject = Subject.open(write_images(tmp_path, "a.png"), noun="dog")
    assert len(subject) == 1
    assert "one image" in subject.notes[0]


def test_a_kohya_folder_names_repeats_identifier_and_noun(tmp_path: Path) -> None:
    subject = Subject.open(write_images(tmp_path / "10_zwx red fox", "a.png", "b.png"))
    assert (subject.repeats, subject.identifier, subject.noun) == (10, "zwx", "red fox")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_an_image_folder_of_datasets(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "a.png", "b.png")
    if name.endswith("jsonl"):
        rows = [
            {"file_name": "b.png", "text": "a dog on grass"},
            {"file_name": "a.png", "text": "a dog"},
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        (tmp_path / name).write_text("file_name,text\nb.png,a dog on grass\na.png,a dog\n")
    subject = Subject.open(tmp_path, noun="dog")
    assert dict(zip(subject.images.ids, subject.captions, strict=True)) == {
        "b.png": "a olis dog on grass",
        "a.png": "a olis dog",
    }


def test_a_manifest_with_masks(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    Image.new("L", (16, 12), 255).save(tmp_path / "m.png")
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,caption,mask\na.png,a dog,m.png\nb.png,a dog,\n")
    masks = Subject.open(manifest, noun="dog").masks
    assert masks[0] is not None
    assert masks[0].getextrema() == (255, 255)
    assert masks[1] is None


@pytest.mark.parametrize("name", ["a_mask.png", "a.mask.png", "masks/a.png"])
def test_masks_of_a_folder_are_no_images_of_the_subject(tmp_path: Path, name: str) -> None:
    subject = Subject.open(write_images(tmp_path, "a.png", "b.png", name), noun="dog")
    assert subject.images.ids == ("a.png", "b.png")
    assert subject.masks[0] is not None
    assert subject.masks[1] is None


def test_a_dataset_object() -> None:
    rows = [{"image": Image.new("RGB", (8, 8)), "caption": "a dog in a box"}] * 2

    class Rows(list[dict[str, Any]]):
        column_names = ("image", "caption")
        features = SimpleNamespace()

    assert Subject.open(Rows(rows), noun="dog").captions == ("a olis dog in a box",) * 2


def test_given_captions_come_first(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("a dog")
    subject = Subject.open(tmp_path, noun="dog", captions={"a.png": "a dog on a hill"})
    assert subject.captions[0] == "a olis dog on a hill"


def no_images(folder: Path) -> None:
    folder.mkdir()


def wrong_mask(folder: Path) -> None:
    write_images(folder, "a.png", "b.png")
    Image.new("L", (4, 4)).save(folder / "a_mask.png")


def foreign_caption(folder: Path) -> None:
    write_images(folder, "a.png")
    (folder / "a.txt").write_text("a cat")


def no_utf8(folder: Path) -> None:
    write_images(folder, "a.png")
    (folder / "a.txt").write_bytes(b"a dog \xff\xfe")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_images, "images"),
        (wrong_mask, r"Expected a mask of 16×12 pixels for a\.png, got 4×4"),
        (foreign_caption, r"the class noun 'dog', .*, got none of them in a\.png \('a cat'\);"),
        (no_utf8, "Expected a caption in UTF-8"),
    ],
)
def test_bad_folders_are_one_sentence(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "s")
    with pytest.raises(InputError, match=message):
        Subject.open(tmp_path / "s", noun="dog")


@pytest.mark.parametrize(
    ("identifier", "noun", "message"),
    [("olis", None, "Expected a class noun"), ("two words", "dog", "identifier without spaces")],
)
def test_bad_names_are_one_sentence(
    tmp_path: Path, identifier: str, noun: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Subject.open(write_images(tmp_path, "a.png"), identifier, noun)


def test_captions_of_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got one of 'c\.png'"):
        Subject.open(write_images(tmp_path, "a.png"), noun="dog", captions={"c.png": "a dog"})


def test_as_many_captions_as_images(tmp_path: Path) -> None:
    subject = Subject.open(write_images(tmp_path, "a.png"), noun="dog")
    assert subject.with_captions(["a dog at sea"]).captions == ("a olis dog at sea",)
    with pytest.raises(InputError, match="one caption for each of 1 images, got 2"):
        subject.with_captions(["a dog", "a dog"])


def with_mask(folder: Path, caption: str = "a dog on a hill") -> Subject:
    write_images(folder, "a.png", "b.png")
    Image.new("L", (16, 12), 255).save(folder / "a_mask.png")
    (folder / "a.txt").write_text(caption)
    return Subject.open(folder, noun="dog")


def test_another_identifier_takes_captions_and_masks_along(tmp_path: Path) -> None:
    subject = with_mask(tmp_path)
    renamed = subject.renamed("<olis>")
    assert renamed.phrase == "a <olis> dog"
    assert renamed.captions == ("a <olis> dog on a hill", "a <olis> dog")
    assert renamed.notes == ("1 images have no caption; 'a <olis> dog' is used for them.",)
    assert renamed.masks == subject.masks
    assert renamed.renamed("olis").captions == subject.captions
    with pytest.raises(InputError, match="identifier without spaces"):
        subject.renamed("two words")


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    subject = with_mask(tmp_path / "a")
    assert subject.digest == with_mask(tmp_path / "copy").digest
    others = [
        subject.renamed("zwx"),
        subject.with_captions(["a dog", "a dog"]),
        with_mask(tmp_path / "b", "a dog on a rock"),
        Subject.open(write_images(tmp_path / "c", "a.png", "b.png"), noun="dog"),
    ]
    assert len({subject.digest, *(other.digest for other in others)}) == 5


def test_files_of_masks_are_known(tmp_path: Path) -> None:
    assert with_mask(tmp_path).mask_files == (tmp_path / "a_mask.png", None)


def test_captions_without_noun_and_identifier_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("a cat")
    with pytest.raises(InputError, match=r"in a\.png \('a cat'\) and 1 more; edit the captions"):
        Subject.open(tmp_path, noun="dog")
