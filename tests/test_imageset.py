"""All sources of images behave alike, and every invalid input has a clear error message."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from visdiff.errors import InputError, UnreadableImageError
from visdiff.imageset import ImageSet

N = 40


def save(path: Path, seed: int, **options: Any) -> Path:
    """Writes a small image of random pixels, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """N images in the folders a and b; sorting by path gives the order of the seeds."""
    root = tmp_path_factory.mktemp("photos")
    for seed in range(N):
        save(root / f"{'ab'[seed // (N // 2)]}" / f"{seed:02d}.png", seed)
    return root


def relative(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def table(folder: Path) -> pd.DataFrame:
    return pd.DataFrame(
        {"path": relative(folder), "group_name": ["x", "y"] * (N // 2), "seed": range(N)}
    )


def write(kind: str, folder: Path) -> Path:
    path = folder / f"manifest.{kind}"
    frame = table(folder)
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


SOURCES: dict[str, Callable[[Path], Any]] = {
    "folder": lambda folder: folder,
    "folder as text": str,
    "glob": lambda folder: str(folder / "**" / "*.png"),
    "csv": lambda folder: write("csv", folder),
    "tsv": lambda folder: write("tsv", folder),
    "parquet": lambda folder: write("parquet", folder),
    "jsonl": lambda folder: write("jsonl", folder),
    "frame": lambda folder: table(folder).assign(
        path=[str(folder / name) for name in relative(folder)]
    ),
    "list of paths": lambda folder: [folder / name for name in relative(folder)],
    "list of text": lambda folder: [str(folder / name) for name in relative(folder)],
    "list of PIL": lambda folder: [Image.open(folder / name) for name in relative(folder)],
    "ImageSet": ImageSet.open,
}
MANIFESTS = ["csv", "tsv", "parquet", "jsonl", "frame"]


@pytest.fixture(params=list(SOURCES))
def images(request: pytest.FixtureRequest, folder: Path) -> ImageSet:
    return ImageSet.open(SOURCES[request.param](folder))


class TestEverySource:
    """The contract of all sources."""

    def test_ids_are_unique_and_match_the_frame(self, images: ImageSet) -> None:
        assert len(images) == N == len(set(images.ids)) == len(images.frame)
        assert images.frame["id"].tolist() == list(images.ids)
        assert {"id", "path"} <= set(images.frame.columns)
        assert images.name
        assert f"{N} images" in repr(images)

    def test_pixels_are_those_of_the_files_in_order(self, images: ImageSet) -> None:
        for index in (0, 7, N - 1):
            image = images.image(index)
            expected = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), expected)

    def test_digest_is_of_content(self, images: ImageSet) -> None:
        digests = [images.digest(index) for index in range(N)]
        assert len(set(digests)) == N
        path = images.path(3)
        if path is not None:
            assert digests[3] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert images.subset([3]).digest(0) == digests[3]

    def test_path_is_in_the_frame(self, images: ImageSet) -> None:
        path = images.path(0)
        value = images.frame["path"].tolist()[0]
        assert value is None if path is None else Path(value) == path

    def test_subset_keeps_the_requested_order(self, images: ImageSet) -> None:
        some = images.subset([5, 2])
        assert some.ids == (images.ids[5], images.ids[2])
        assert some.frame["id"].tolist() == list(some.ids)
        mask = np.arange(N) < 3
        assert images.subset(mask).ids == images.ids[:3]

    @pytest.mark.parametrize("bad", [[-1], [N], [0, 0], [0.5], [[0]], [True]])
    def test_invalid_positions_are_rejected(self, images: ImageSet, bad: Any) -> None:
        with pytest.raises(InputError, match="Expected"):
            images.subset(bad)

    def test_split_is_a_partition_near_the_fraction(self, images: ImageSet) -> None:
        first, second = images.split(0.5)
        assert sorted(first.ids + second.ids) == sorted(images.ids)
        # 40 fair coins: below 8 or above 32 once in 10,000, and the files are fixed.
        assert 8 <= len(first) <= 32
        none, all_images = images.split(0)[0], images.split(1)[0]
        assert (len(none), len(all_images)) == (0, N)

    def test_smaller_fraction_is_within_the_larger(self, images: ImageSet) -> None:
        assert set(images.split(0.2)[0].ids) <= set(images.split(0.6)[0].ids)

    def test_sample(self, images: ImageSet) -> None:
        one = images.sample(10, np.random.default_rng(0))
        assert one.ids == images.sample(10, np.random.default_rng(0)).ids
        assert list(one.ids) == [name for name in images.ids if name in set(one.ids)]
        assert len(one) == 10
        assert images.sample(N + 1, np.random.default_rng(0)).ids == images.ids
        with pytest.raises(InputError, match="at least 1"):
            images.sample(0, np.random.default_rng(0))

    def test_unknown_column_lists_the_existing_ones(self, images: ImageSet) -> None:
        with pytest.raises(InputError, match=r"'grp'.*columns are 'id', 'path'"):
            ImageSet.open(images, where={"grp": "x"})
        with pytest.raises(InputError, match="'grp'"):
            images.split(0.5, key=["grp"])

    def test_changing_the_frame_does_not_change_the_set(self, images: ImageSet) -> None:
        frame = images.frame
        frame["id"] = "gone"
        assert images.frame["id"].tolist() == list(images.ids)


@pytest.mark.parametrize("kind", MANIFESTS)
class TestEveryManifest:
    """The features of tables."""

    @pytest.mark.parametrize("seed", [3, "3", 3.0, np.int64(3)])
    def test_where_compares_typed_and_as_text(self, folder: Path, kind: str, seed: Any) -> None:
        images = ImageSet.open(SOURCES[kind](folder), where={"seed": seed})
        assert [Path(name).name for name in images.ids] == ["03.png"]

    def test_conditions_are_combined_and_a_list_is_any_of(self, folder: Path, kind: str) -> None:
        source = SOURCES[kind](folder)
        images = ImageSet.open(source, where={"group_name": "x", "seed": ["2", 3, 4]})
        assert images.frame["seed"].tolist() == [2, 4]
        assert images.where == {"group_name": "x", "seed": "2 or 3 or 4"}
        assert images.name == "x 2 or 3 or 4"
        assert ImageSet.open(source, where={"group_name": "x"}, name="mine").name == "mine"

    def test_no_matching_row_lists_the_existing_values(self, folder: Path, kind: str) -> None:
        with pytest.raises(InputError, match=r"group_name = 'X'.*'x', 'y'"):
            ImageSet.open(SOURCES[kind](folder), where={"group_name": "X"})

    def test_column_names_are_case_sensitive_with_a_hint(self, folder: Path, kind: str) -> None:
        with pytest.raises(InputError, match="did you mean 'group_name'"):
            ImageSet.open(SOURCES[kind](folder), where={"groupname": "x"})

    def test_split_by_key_keeps_pairs_together(self, folder: Path, kind: str) -> None:
        images = ImageSet.open(SOURCES[kind](folder))
        first, second = images.split(0.5, key=["group_name"])
        assert {len(first), len(second)} <= {0, N // 2, N}
        assert not set(first.frame["group_name"]) & set(second.frame["group_name"])

    def test_metadata_is_typed(self, folder: Path, kind: str) -> None:
        assert pd.api.types.is_integer_dtype(ImageSet.open(SOURCES[kind](folder)).frame["seed"])


def test_ids_are_relative_names(folder: Path) -> None:
    names = relative(folder)
    for kind in ("folder", "glob", "csv", "jsonl"):
        assert list(ImageSet.open(SOURCES[kind](folder)).ids) == names
    assert ImageSet.open(SOURCES["list of PIL"](folder)).ids[:2] == ("image-0001", "image-0002")


def test_split_does_not_depend_on_the_source(folder: Path) -> None:
    halves = [
        {Path(name).name for name in ImageSet.open(SOURCES[kind](folder)).split(0.5)[0].ids}
        for kind in ("folder", "glob", "csv", "parquet", "list of paths")
    ]
    assert all(half == halves[0] for half in halves)


def test_split_is_stable_when_images_are_added_or_reordered(folder: Path) -> None:
    paths = [folder / name for name in relative(folder)]
    few, many = ImageSet.open(paths[::2]), ImageSet.open(paths[::-1])
    assert set(few.split(0.5)[0].ids) == set(many.split(0.5)[0].ids) & set(few.ids)


def test_duplicates_are_in_the_same_part_within_and_across_sets(tmp_path: Path) -> None:
    for seed in range(20):
        original = save(tmp_path / "a" / f"{seed}.png", seed)
        for copy in (tmp_path / "a" / f"copy-{seed}.png", tmp_path / "b" / f"{100 - seed}.png"):
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(original.read_bytes())
    halves = [ImageSet.open(tmp_path / name).split(0.5) for name in "ab"]
    digests = [
        {half.digest(index) for half in side for index in range(len(half))}
        for side in zip(*halves, strict=True)
    ]
    assert not digests[0] & digests[1]
    assert len(digests[0] | digests[1]) == 20


def test_pairs_stay_together_across_sets_of_different_types(tmp_path: Path) -> None:
    # One side's seeds are integers, the other's floats because of an empty cell in the column.
    names = [save(tmp_path / f"{seed}.png", seed).name for seed in range(12)]
    rows = "".join(f"{name},a prompt,{seed}\n" for seed, name in enumerate(names))
    (tmp_path / "a.csv").write_text("path,prompt,seed\n" + rows)
    frame = pd.read_csv(tmp_path / "a.csv").astype({"seed": float}).iloc[::-1]
    frame.to_parquet(tmp_path / "b.parquet")
    key = ["prompt", "seed"]
    one = ImageSet.open(tmp_path / "a.csv").split(0.5, key)[0]
    other = ImageSet.open(tmp_path / "b.parquet").split(0.5, key)[0]
    assert set(one.ids) == set(other.ids)
    assert 0 < len(one) < 12


def test_original_visdiff_csv_opens_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The original has data/Examples.csv with paths relative to the repository's root.
    for seed, name in enumerate(("set_a/1.jpg", "set_a/2.jpg", "set_b/1.jpg")):
        save(tmp_path / "data" / "examples" / name, seed)
    text = "group_name,path\n" + "".join(
        f"{name.split('/')[0]},./data/examples/{name}\n"
        for name in ("set_a/1.jpg", "set_a/2.jpg", "set_b/1.jpg")
    )
    csv = tmp_path / "data" / "Examples.csv"
    csv.write_text(text)
    for cwd, source in ((tmp_path, "data/Examples.csv"), (Path("/"), str(csv))):
        monkeypatch.chdir(cwd)
        images = ImageSet.open(source, where={"group_name": "set_a"})
        assert images.ids == ("data/examples/set_a/1.jpg", "data/examples/set_a/2.jpg")
        assert images.name == "set_a"
        assert images.image(1).size == (16, 12)


def test_paths_are_relative_to_the_manifest_before_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "set" / "1.png", 1)
    save(tmp_path / "1.png", 2)
    (tmp_path / "set" / "m.csv").write_text("path\n1.png\n")
    monkeypatch.chdir(tmp_path)
    assert ImageSet.open("set/m.csv").path(0) == tmp_path / "set" / "1.png"


def test_a_manifest_opens_without_its_images_and_errors_name_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "m.csv").write_text("path\ngone/1.png\n")
    images = ImageSet.open(tmp_path / "m.csv")
    assert len(images.split(0.5)[0]) in (0, 1)
    with pytest.raises(UnreadableImageError, match=r"gone/1\.png.*no file there"):
        images.image(0)
    with pytest.raises(UnreadableImageError, match=r"gone/1\.png"):
        images.digest(0)


@pytest.mark.parametrize(
    ("cells", "wanted", "found"),
    [
        (["007", "7"], "007", ["007"]),
        (["007", "8"], 7, ["007"]),
        (["1.10", "1.1"], "1.10", ["1.10"]),
        (["1.4", "2.1"], 1.4, [1.4]),
        (["NA", "None"], "NA", ["NA"]),
        (["True", "False"], True, ["True"]),
        (["true", "no"], True, ["true"]),
        (["1", ""], 1, [1]),
        (["1e5", "2"], "100000", [100000.0]),
    ],
)
def test_csv_cells_are_not_altered(
    tmp_path: Path, cells: list[str], wanted: Any, found: Any
) -> None:
    rows = "".join(f"{number}.png,{cell}\n" for number, cell in enumerate(cells))
    (tmp_path / "m.csv").write_text("path,value\n" + rows)
    images = ImageSet.open(tmp_path / "m.csv", where={"value": wanted})
    assert images.frame["value"].tolist() == found


def test_empty_cell_is_missing_and_can_be_selected(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,caption\n1.png,\n2.png,a dog\n")
    images = ImageSet.open(tmp_path / "m.csv", where={"caption": None})
    assert images.ids == ("1.png",)
    assert images.frame["caption"].isna().tolist() == [True]


def test_path_listed_twice_is_two_images_with_two_ids(tmp_path: Path) -> None:
    save(tmp_path / "1.png", 0)
    (tmp_path / "m.csv").write_text("path\n1.png\n./1.png\n1.png\n1.png#2\n")
    images = ImageSet.open(tmp_path / "m.csv")
    assert images.ids == ("1.png", "1.png#3", "1.png#4", "1.png#2")
    assert images.digest(0) == images.digest(1)


def test_byte_order_mark_and_blanks_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,group_name\na b.png,“é”\n".encode("utf-8-sig"))
    assert ImageSet.open(tmp_path / "m.csv", where={"group_name": "“é”"}).ids == ("a b.png",)


class TestDecoding:
    """The images that models receive."""

    def one(self, path: Path) -> Image.Image:
        return ImageSet.open([path]).image(0)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_rotation(self, tmp_path: Path, orientation: int) -> None:
        upright = Image.new("RGB", (30, 20), "white")
        upright.paste((255, 0, 0), (0, 0, 15, 10))
        # The stored image, which the orientation tag turns upright.
        undo = {
            2: [Image.Transpose.FLIP_LEFT_RIGHT],
            3: [Image.Transpose.ROTATE_180],
            4: [Image.Transpose.FLIP_TOP_BOTTOM],
            5: [Image.Transpose.TRANSPOSE],
            6: [Image.Transpose.ROTATE_90],
            7: [Image.Transpose.TRANSVERSE],
            8: [Image.Transpose.ROTATE_270],
        }
        stored = upright
        for step in undo.get(orientation, []):
            stored = stored.transpose(step)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(tmp_path / "photo.png", exif=exif)
        assert self.one(tmp_path / "photo.png").tobytes() == upright.tobytes()
        in_memory = ImageSet.open([Image.open(tmp_path / "photo.png")])
        assert in_memory.image(0).tobytes() == upright.tobytes()

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_transparency_is_white(self, tmp_path: Path, mode: str) -> None:
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
        image.putpixel((0, 0), (0, 0, 0, 255))
        image.convert(mode).save(tmp_path / "x.png")
        pixels = np.asarray(self.one(tmp_path / "x.png"))
        assert pixels[0, 0].tolist() == [0, 0, 0]
        assert pixels[3, 3].tolist() == [255, 255, 255]

    def test_half_transparent_black_on_white_is_grey(self, tmp_path: Path) -> None:
        Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "x.png")
        assert self.one(tmp_path / "x.png").getpixel((0, 0)) == (127, 127, 127)

    def test_sixteen_bits_are_scaled_not_clipped(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "x.png")
        assert np.asarray(self.one(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 128, 255]

    @pytest.mark.parametrize(
        ("name", "mode"),
        [
            ("x.jpg", "CMYK"),
            ("x.png", "1"),
            ("x.gif", "P"),
            ("x.bmp", "L"),
            ("x.webp", "RGB"),
            ("x.tiff", "RGB"),
            ("x.ppm", "RGB"),
            ("x.JPEG", "L"),
        ],
    )
    def test_formats_and_modes_become_rgb(self, tmp_path: Path, name: str, mode: str) -> None:
        Image.new("L", (5, 4), 0).convert(mode).save(tmp_path / name)
        assert ImageSet.open(tmp_path).image(0).size == (5, 4)
        assert ImageSet.open(tmp_path).image(0).mode == "RGB"

    def test_image_is_a_copy(self) -> None:
        original = Image.new("RGB", (2, 2), "red")
        ImageSet.open([original]).image(0).putpixel((0, 0), (0, 0, 0))
        assert original.getpixel((0, 0)) == (255, 0, 0)

    def test_floating_point_pixels_are_rejected(self) -> None:
        with pytest.raises(UnreadableImageError, match=r"image-0001.*range is not defined"):
            ImageSet.open([Image.new("F", (2, 2))]).image(0)


def break_file(path: Path, how: str) -> Path:
    save(path, 0)
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "zero-byte":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "corrupt":
        path.write_bytes(data[:60] + b"\0" * 40 + data[100:])
    elif how == "text":
        path.write_text("<html>404</html>")
    elif how == "postscript":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "how", ["missing", "zero-byte", "truncated", "corrupt", "text", "postscript", "folder"]
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_broken_image_is_named_and_the_others_are_kept(
    tmp_path: Path, how: str, suffix: str
) -> None:
    if how == "corrupt" and suffix != ".png":
        pytest.skip("only PNG has checksums: in other formats a changed byte is a valid image")
    good, bad = save(tmp_path / "good.png", 1), break_file(tmp_path / f"bad{suffix}", how)
    images = ImageSet.open([good, bad])
    with pytest.raises(UnreadableImageError, match="Expected a readable image at") as caught:
        images.image(1)
    assert str(bad) in str(caught.value)
    assert images.image(0).size == (16, 12)
    assert sum(len(half) for half in images.split(0.5)) == 2


def test_too_many_pixels_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "bomb.png", 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UnreadableImageError, match=r"bomb\.png.*too many pixels"):
        ImageSet.open([path]).image(0)


def test_image_overwritten_in_place_has_another_digest(tmp_path: Path) -> None:
    path = save(tmp_path / "1.png", 1)
    images = ImageSet.open(tmp_path)
    before = images.digest(0)
    save(path, 2)
    assert images.digest(0) == hashlib.sha256(path.read_bytes()).hexdigest() != before
    assert images.image_of(0, images.digest(0)).size == images.image(0).size
    with pytest.raises(UnreadableImageError, match="has changed during the run"):
        images.image_of(0, before)


def test_pil_digest_is_of_the_decoded_pixels() -> None:
    rgb = Image.new("RGB", (4, 6), "red")
    palette = rgb.convert("P")
    images = ImageSet.open([rgb, palette, rgb.resize((6, 4)), Image.new("RGB", (4, 6), "blue")])
    digests = [images.digest(index) for index in range(4)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_folder_ignores_hidden_and_other_files_and_follows_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    save(root / "1.png", 1)
    save(root / ".hidden" / "2.png", 2)
    save(root / "._1.png", 3)
    (root / "notes.txt").write_text("no image")
    save(tmp_path / "elsewhere" / "3.png", 4)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    assert ImageSet.open(root).ids == ("1.png", "linked/3.png")


def test_existing_name_with_wildcards_is_not_a_pattern(tmp_path: Path) -> None:
    save(tmp_path / "set[1]" / "1.png", 1)
    assert ImageSet.open(str(tmp_path / "set[1]")).ids == ("1.png",)


BAD_FILES: Sequence[tuple[str, bytes, str]] = [
    ("empty.csv", b"", "got an empty file"),
    ("no-path.csv", b"file,x\n1.png,2\n", r"column `path`.*'file', 'x'.*rename"),
    ("no-rows.csv", b"path,x\n", "got none"),
    ("blank.csv", b"path,x\n1.png,1\n,2\n", "row 2"),
    ("ragged.csv", b"path\n1.png\n2.png,3,4\n5,6,7,8\n", "cannot be read"),
    ("ids.csv", b"path,id\n1.png,x\n2.png,x\n", "unique `id`"),
    ("remote.csv", b"path\nhttps://x.org/1.png\n", "download"),
    ("bad.parquet", b"PAR1 not really", "cannot be read"),
    ("bad.jsonl", b'{"path": "1.png"}\n{path}\n', "line 2"),
    ("list.jsonl", b"[1]\n", "line 1"),
    ("empty.jsonl", b"\n", "empty file"),
    ("number.jsonl", b'{"path": 3}\n', "row 1"),
    ("notes.txt", b"1.png", "folder, an image or a manifest"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES, ids=[row[0] for row in BAD_FILES])
def test_bad_file_is_one_clear_sentence(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        ImageSet.open(tmp_path / name)
    text = str(caught.value)
    assert name in text
    assert "expected" in text.lower()
    assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "got 'nowhere', where there is nothing"),
        ("*.png", "0 files"),
        ("s3://bucket/x", "download them first"),
        ([], "empty one"),
        ([3], "position 1"),
        (3, "got int"),
        (b"photos", "got bytes"),
        (None, "got NoneType"),
    ],
)
def test_bad_source_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        ImageSet.open(source)
    assert "Expected" in str(caught.value)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an empty folder"):
        ImageSet.open(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="1 other file"):
        ImageSet.open(tmp_path)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fraction_out_of_range_is_rejected(folder: Path, fraction: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        ImageSet.open(folder).split(fraction)


@pytest.mark.parametrize("key", ["seed", []])
def test_split_key_is_a_list_of_columns(folder: Path, key: Any) -> None:
    with pytest.raises(InputError, match="list of column names"):
        ImageSet.open(SOURCES["csv"](folder)).split(0.5, key=key)


def test_twenty_thousand_images_open_quickly_and_small(tmp_path: Path) -> None:
    with (tmp_path / "big.csv").open("w") as file:
        file.write("path,group_name,prompt\n")
        file.writelines(f"images/{i:05d}.png,{i % 2},prompt {i}\n" for i in range(20_000))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000.png").touch()
    code = """
import json, resource, sys, time
from visdiff.imageset import ImageSet
ImageSet.open(["x.png"]).frame
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
images = ImageSet.open(sys.argv[1], where={"group_name": 1})
seconds = time.process_time() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(images), seconds, after - before]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.csv")],
        capture_output=True,
        text=True,
        check=True,
    )
    count, seconds, kilobytes = json.loads(done.stdout)
    assert count == 10_000
    assert seconds < 5
    # Linux counts kilobytes, macOS bytes.
    assert kilobytes < 100_000 * (1024 if sys.platform == "darwin" else 1)
