"""kohya's dataset configuration is read as far as it maps; the rest is named."""

from pathlib import Path

import pytest
from PIL import Image

from editing.personalize.kohya import KohyaSettings, read_dataset_config
from visdiff.errors import InputError

FULL = """
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 0
enable_bucket = true

[[datasets]]
resolution = [768, 512]
batch_size = 4
bucket_reso_steps = 32
validation_split = 0.1

  [[datasets.subsets]]
  image_dir = "subject"
  class_tokens = "zwx red fox"
  num_repeats = 10
  flip_aug = true
  caption_prefix = "a photo of"
  tpyo = 1

  [[datasets.subsets]]
  is_reg = true
  image_dir = "reg"
  class_tokens = "fox"
  num_repeats = 2
"""


def images(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images(tmp_path / "subject", "a.png", "b.png")
    images(tmp_path / "reg", "r.png", "s.png")
    (tmp_path / "subject" / "a.txt").write_text("zwx red fox on a hill")
    (tmp_path / "reg" / "r.txt").write_text("a small fox in the snow")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "data.toml").write_text(text)
    return folder / "data.toml"


def test_subjects_regularisation_and_settings(folder: Path) -> None:
    found = read_dataset_config(write(folder, FULL))
    (subject,), (regularization,) = found.subjects, found.regularization
    assert (subject.identifier, subject.noun, subject.repeats) == ("zwx", "red fox", 10)
    assert subject.captions == (
        "a photo of zwx red fox on a hill",
        "a photo of a zwx red fox",
    )
    assert regularization.captions == ("a small fox in the snow", "fox")
    assert regularization.repeats == 2
    assert found.settings == KohyaSettings(
        resolution=(768, 512), batch_size=4, flip=True, buckets=True, bucket_step=32
    )


def test_masks_are_no_regularisation_images(folder: Path) -> None:
    images(folder / "reg", "r_mask.png")
    (regularization,) = read_dataset_config(write(folder, FULL)).regularization
    assert regularization.images.ids == ("r.png", "s.png")


def test_settings_that_do_not_map_are_named(folder: Path) -> None:
    notes = "\n".join(read_dataset_config(write(folder, FULL)).notes)
    assert "shuffle_caption = True is not used: captions are sentences" in notes
    assert "validation_split = 0.1 is not used" in notes
    assert "tpyo = 1 is not used: the setting is unknown" in notes
    assert "1 images have no caption" in notes
    assert "keep_tokens" not in notes  # off, as here


def test_names_can_be_replaced(folder: Path) -> None:
    subject = read_dataset_config(write(folder, FULL), identifier="<olis>").subjects[0]
    assert subject.captions[0] == "a photo of <olis> red fox on a hill"
    assert subject.phrase == "a <olis> red fox"


def test_one_class_token_is_the_noun(folder: Path) -> None:
    text = FULL.replace("zwx red fox", "fox")
    found = read_dataset_config(write(folder, text))
    assert found.subjects[0].phrase == "a olis fox"
    assert "it is the class noun, and 'olis' is the identifier" in "".join(found.notes)


def test_each_subset_is_a_subject_and_the_first_settings_hold(folder: Path) -> None:
    images(folder / "other", "c.png", "sub/d.png")
    text = FULL + (
        '\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "other"\n'
        'class_tokens = "a ktn cat"\n'
    )
    found = read_dataset_config(write(folder, text))
    assert [s.phrase for s in found.subjects] == ["a zwx red fox", "a ktn cat"]
    assert found.subjects[1].repeats == 1
    assert found.settings.resolution == (768, 512)
    notes = "\n".join(found.notes)
    assert "resolution differs between subsets ((768, 512), (512, 512))" in notes
    assert "1 images are in subfolders (first: sub/d.png)" in notes


def test_a_caption_extension_is_no_file_that_was_left_out(folder: Path) -> None:
    (folder / "subject" / "a.tags").write_text("zwx red fox, hill")
    (folder / "subject" / "b.tags").write_text("a red fox")
    text = FULL.replace('".txt"', '"tags"')
    found = read_dataset_config(write(folder, text))
    assert found.subjects[0].captions == (
        "a photo of zwx red fox, hill",
        "a photo of a zwx red fox",
    )
    assert any("1 files are no images and were left out (a.txt)" in n for n in found.notes)


REG_ONLY = FULL.replace('class_tokens = "zwx red fox"', "is_reg = true")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[datasets", "Expected TOML in"),
        ("", "with the subject's images in .*, got none"),
        ("datasets = 5", "got another structure"),
        ("[[datasets]]\nsubsets = 5", r"Expected \[\[datasets.subsets\]\]"),
        ("[[datasets]]\n[[datasets.subsets]]", "Expected image_dir"),
        (FULL.replace('"subject"', '"nowhere"'), "got 'nowhere', which does not exist"),
        (FULL.replace("= 10", "= 0"), "num_repeats of at least 1"),
        (FULL.replace("= 10", "= true"), "Expected num_repeats as a whole number"),
        (FULL.replace("[768, 512]", '"big"'), "Expected resolution as a number of pixels"),
        (FULL.replace("batch_size = 4", "batch_size = 0"), "Expected batch_size as a whole number"),
        (FULL.replace("flip_aug = true", "flip_aug = 1"), "Expected flip_aug as true or false"),
        (REG_ONLY, "class_tokens or a caption|regularisation images alone"),
        (FULL.replace('class_tokens = "fox"', ""), "got 1 images without"),
        (FULL.replace("zwx red fox", "zwx cat"), "the class noun 'cat'|identifier 'zwx'"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, text: str, message: str) -> None:
    if "zwx cat" in text:
        (folder / "subject" / "a.txt").write_text("a fox")
    with pytest.raises(InputError, match=message):
        read_dataset_config(write(folder, text))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Expected a dataset configuration"):
        read_dataset_config(tmp_path / "none.toml")
