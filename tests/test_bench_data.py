"""VisDiffBench in its layouts, on small folders: ids, splits, missing images and invalid files."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from visdiff.bench.pairs import Benchmark, Pair
from visdiff.bench.visdiffbench import CHANGES, PAIRED, RENDITIONS, load
from visdiff.errors import InputError

PER_SPLIT, IMAGES = 2, 3


def truths(split: str, line: int) -> tuple[str, str]:
    return f"{split} dogs {line}", f"{split} cats {line}"


def touch(files: Iterable[Path]) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(file).encode())


def numbered(folder: str, n: int = IMAGES) -> list[str]:
    return [f"{folder}/{i + 1:06d}.jpg" for i in range(n)]


def jsonl(path: Path, rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def line(split: str, number: int, images: bool) -> dict:
    a, b = truths(split, number)
    row: dict = {"set1": a, "set2": b, "difference": f"pet ({a} vs {b})"}
    if images:
        row["set1_images"] = numbered(f"{split}/{number}_1")
        row["set2_images"] = numbered(f"{split}/{number}_2")
        row["set1_images_url"] = []
    return row


def released(root: Path) -> Path:
    """Writes the unzipped release."""
    for split in PAIRED:
        jsonl(root / f"{split}.jsonl", [line(split, i, True) for i in range(PER_SPLIT)])
        touch(
            root / name
            for i in range(PER_SPLIT)
            for side in "12"
            for name in numbered(f"{split}/{i}_{side}")
        )
    return root


def table(base: int = 1) -> pd.DataFrame:
    """Returns PairedImageSets.csv, with the errors of the real one in its column difficulty."""
    difficulty = {"easy": "easy", "medium": "easy", "hard": "medium"}
    rows = [
        (name, path, f"pet {i}", difficulty[split])
        for split in PAIRED
        for i in range(PER_SPLIT)
        for side, name in zip("ab", truths(split, i), strict=True)
        for path in numbered(f"./data/VisDiffBench/{split}/{i + base}_{side}")
    ]
    return pd.DataFrame(rows, columns=pd.Index(["group_name", "path", "difference", "difficulty"]))


def repository(root: Path, base: int = 1, on_disk: str = "letters") -> Path:
    """Writes the repository, with its images unzipped in data/VisDiffBench."""
    data = root / "data"
    data.mkdir(parents=True)
    table(base).to_csv(data / "PairedImageSets.csv", index=False)
    for split in PAIRED:
        for i in range(PER_SPLIT):
            for side, digit in zip("ab", "12", strict=True):
                folder = f"{i + base}_{side}" if on_disk == "letters" else f"{i}_{digit}"
                touch(data / "VisDiffBench" / name for name in numbered(f"{split}/{folder}"))
    return root


def webcrawl(root: Path) -> None:
    for split in PAIRED:
        rows = [line(split, i, False) for i in range(PER_SPLIT)]
        jsonl(root / "data/pairedimagesets/webcrawl" / f"{split}.jsonl", rows)


def check_complete(benchmark: Benchmark) -> None:
    assert [p.id for p in benchmark.pairs] == [f"{s}/{i}" for s in PAIRED for i in range(PER_SPLIT)]
    assert benchmark.splits == dict.fromkeys(PAIRED, PER_SPLIT)
    assert benchmark.missing == ()
    for pair in benchmark.pairs:
        number = int(pair.id.rpartition("/")[2])
        assert (pair.a, pair.b) == truths(pair.split, number)
        for files, others in ((pair.images_a, pair.images_b), (pair.images_b, pair.images_a)):
            assert len(files) == IMAGES
            assert all(file.is_file() and file.is_absolute() for file in files)
            # All images are of one set, and of the right split.
            assert {file.parent.parent.name for file in files} == {pair.split}
            assert not set(files) & set(others)
        assert pair.images_a[0].parent.name[-1] in "1a"
        assert pair.images_b[0].parent.name[-1] in "2b"


# --- layouts ------------------------------------------------------------------------------------


def test_the_released_zip(tmp_path: Path) -> None:
    benchmark = load(released(tmp_path / "VisDiffBench"))
    check_complete(benchmark)
    assert benchmark.name == "VisDiffBench"
    assert benchmark.notes == ()
    assert benchmark.pairs[0].difference.startswith("pet")


def test_the_folder_above_the_released_zip(tmp_path: Path) -> None:
    released(tmp_path / "VisDiffBench")
    check_complete(load(tmp_path))


@pytest.mark.parametrize("subfolder", ["", "data"])
@pytest.mark.parametrize("with_jsonl", [True, False], ids=["jsonl", "csv-only"])
@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("on_disk", ["letters", "digits"])
def test_the_repository(
    tmp_path: Path, subfolder: str, with_jsonl: bool, base: int, on_disk: str
) -> None:
    root = repository(tmp_path / "VisDiff", base, on_disk)
    if with_jsonl:
        webcrawl(root)
    benchmark = load(root / subfolder)
    check_complete(benchmark)
    # 2 pairs × 2 sets × 3 images, medium and hard.
    (note,) = benchmark.notes
    assert f"{2 * PER_SPLIT * 2 * IMAGES} of {3 * PER_SPLIT * 2 * IMAGES} rows" in note
    assert ("jsonl" in note) == with_jsonl


def test_both_layouts_have_the_same_pairs(tmp_path: Path) -> None:
    one = load(released(tmp_path / "zip"))
    two = load(repository(tmp_path / "VisDiff"))

    def described(b: Benchmark) -> list[tuple[str, str, str, str]]:
        return [(p.id, p.split, p.a, p.b) for p in b.pairs]

    assert described(one) == described(two)


@pytest.mark.parametrize("on_disk", ["letters", "digits"])
def test_bare_jsonl_uses_all_images_of_the_folders(tmp_path: Path, on_disk: str) -> None:
    root = repository(tmp_path / "VisDiff", 1, on_disk)
    webcrawl(root)
    (root / "data/PairedImageSets.csv").unlink()
    check_complete(load(root))


def test_images_elsewhere(tmp_path: Path) -> None:
    root = released(tmp_path / "zip")
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    for split in PAIRED:
        shutil.move(root / split, elsewhere / split)
    with pytest.raises(InputError, match="got none of them"):
        load(root)
    check_complete(load(root, elsewhere))


def test_without_names_the_split_follows_from_the_order_of_the_pairs(tmp_path: Path) -> None:
    root = repository(tmp_path / "VisDiff", on_disk="digits")
    frame = table()
    number = {s: i for i, s in enumerate(PAIRED)}
    frame["path"] = [
        path.replace(f"/{s}/", "/all/").replace(f"/{n}_", f"/{int(n) + PER_SPLIT * number[s]}_")
        for path in frame["path"]
        for s in [path.split("/")[3]]
        for n in [path.split("/")[4].partition("_")[0]]
    ]
    frame.to_csv(root / "data/PairedImageSets.csv", index=False)
    benchmark = load(root)
    assert [p.id for p in benchmark.pairs] == [f"{s}/{i}" for s in PAIRED for i in range(PER_SPLIT)]
    assert [p.a for p in benchmark.pairs] == [truths(p.split, int(p.id[-1]))[0]
                                             for p in benchmark.pairs]  # fmt: skip
    assert "order of its pairs" in benchmark.notes[0]


def test_all_187_pairs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    paired, star, rendered = [], [], []
    for split in PAIRED:
        for i in range(50):
            for side in "ab":
                path = f"./data/VisDiffBench/{split}/{i}_{side}/1.jpg"
                paired.append((f"{split} {i} {side}", path, "easy"))
    for group in ("imagenet", "misc", *RENDITIONS):
        rendered.append((group, f"./data/VisDiffBench/imagenetr/{group}/n1_{group}_1.jpg", "dog"))
    for group in ("base", *CHANGES):
        folder = group.replace(" ", "_")
        star.append((group, f"./data/VisDiffBench/imagenetstar/{folder}/n1_1.jpg", ""))
    for name, rows, third in (
        ("PairedImageSets", paired, "difficulty"),
        ("ImageNetR", rendered, "target"),
        ("ImageNetStar", star, "none"),
    ):
        frame = pd.DataFrame(rows, columns=pd.Index(["group_name", "path", third]))
        frame.to_csv(data / f"{name}.csv", index=False)
        touch(tmp_path / row[1] for row in rows)
    benchmark = load(data)
    assert len(benchmark.pairs) == 187
    assert benchmark.splits == {
        "easy": 50, "medium": 50, "hard": 50, "imagenet-r": 14, "imagenet-star": 23,
    }  # fmt: skip
    assert benchmark.missing == ()
    by_id = {pair.id: pair for pair in benchmark.pairs}
    assert (by_id["imagenet-r/art"].a, by_id["imagenet-r/art"].b) == ("art", "imagenet")
    assert by_id["imagenet-star/at night"].b == "base"
    assert any("'misc'" in note for note in benchmark.notes)
    assert "imagenet-r/misc" not in by_id


def test_a_custom_benchmark_with_null_pairs(tmp_path: Path) -> None:
    root = released(tmp_path / "mini")
    (root / "benchmark.json").write_text('{"name": "MiniDiffBench"}')
    jsonl(
        root / "null.jsonl",
        [{"set1": "dogs", "set2": "dogs", "difference": "", "set1_images": numbered("null/0_1"),
          "set2_images": numbered("null/0_2")}],
    )  # fmt: skip
    touch(root / name for side in "12" for name in numbered(f"null/0_{side}"))
    benchmark = load(root)
    assert benchmark.name == "MiniDiffBench"
    assert list(benchmark.splits) == [*PAIRED, "null"]
    assert benchmark.pairs[-1].id == "null/0"


# --- missing images -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["released", "repository"])
def test_a_missing_image_is_named_and_counted(tmp_path: Path, layout: str) -> None:
    if layout == "released":
        root = released(tmp_path / "zip")
        gone, name = root / "medium/1_2/000002.jpg", "medium/1_2/000002.jpg"
    else:
        root = repository(tmp_path / "VisDiff")
        gone = root / "data/VisDiffBench/medium/2_b/000002.jpg"
        name = "./data/VisDiffBench/medium/2_b/000002.jpg"
    gone.unlink()
    benchmark = load(root)
    assert benchmark.missing == (name,)
    (pair,) = [p for p in benchmark.pairs if p.missing]
    assert pair.id == "medium/1"
    assert (len(pair.images_a), len(pair.images_b)) == (IMAGES, IMAGES - 1)


def test_a_missing_folder_is_counted_and_not_replaced_by_another_split(tmp_path: Path) -> None:
    root = repository(tmp_path / "VisDiff")
    shutil.rmtree(root / "data/VisDiffBench/hard/1_a")
    # A folder of this name outside a split's folder may belong to any split.
    touch(root / "data/VisDiffBench" / name for name in numbered("1_a"))
    benchmark = load(root)
    (pair,) = [p for p in benchmark.pairs if p.missing]
    assert pair.id == "hard/0"
    assert pair.images_a == ()
    assert len(pair.missing) == IMAGES


def test_a_gap_in_a_listed_folder_is_missing(tmp_path: Path) -> None:
    root = repository(tmp_path / "VisDiff")
    webcrawl(root)
    (root / "data/PairedImageSets.csv").unlink()
    (root / "data/VisDiffBench/easy/1_a/000002.jpg").unlink()
    shutil.rmtree(root / "data/VisDiffBench/easy/2_b")
    missing = load(root).missing
    assert "easy/1_a/000002.jpg" in missing
    assert any("whole folder" in name and "easy/1_2" in name for name in missing)
    assert len(missing) == 2


# --- invalid benchmarks -------------------------------------------------------------------------


def test_a_folder_without_a_benchmark_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"PairedImageSets\.csv.*unzipped release"):
        load(tmp_path)
    with pytest.raises(InputError, match="which is not a folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"set1": "a", "difference": "x"}, "line 1 of"),
        ({"set1": "a", "set2": "b", "set1_images": ["easy/0_1/1.jpg"]}, "line 1 of"),
        ({"set1": "", "set2": "b"}, "line 1 of"),
    ],
    ids=["no-set2", "one-list", "empty"],
)
def test_an_invalid_line_is_named(tmp_path: Path, row: dict, message: str) -> None:
    jsonl(tmp_path / "easy.jsonl", [row])
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_a_csv_in_another_layout_is_rejected(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["x/y.jpg"], "group_name": ["dogs"]})
    frame.to_csv(tmp_path / "PairedImageSets.csv", index=False)
    with pytest.raises(InputError, match="Expected paths like"):
        load(tmp_path)
    frame.drop(columns="group_name").to_csv(tmp_path / "PairedImageSets.csv", index=False)
    with pytest.raises(InputError, match="'group_name'"):
        load(tmp_path)


def test_incomplete_pairs_and_missing_groups_are_named(tmp_path: Path) -> None:
    frame = table()
    frame[~frame["path"].str.contains("/1_b/")].to_csv(tmp_path / "PairedImageSets.csv")
    with pytest.raises(InputError, match="got only 'easy dogs 0'"):
        load(tmp_path)
    (tmp_path / "PairedImageSets.csv").unlink()
    pd.DataFrame({"path": ["a/b/c.jpg"], "group_name": ["art"]}).to_csv(tmp_path / "ImageNetR.csv")
    with pytest.raises(InputError, match="'imagenet', 'cartoon'"):
        load(tmp_path)


# --- parts --------------------------------------------------------------------------------------


def test_a_part_of_a_benchmark(tmp_path: Path) -> None:
    benchmark = load(released(tmp_path))
    assert [p.id for p in benchmark.only(["hard"]).pairs] == ["hard/0", "hard/1"]
    assert [p.id for p in benchmark.only(limit=1).pairs] == ["easy/0", "medium/0", "hard/0"]
    with pytest.raises(InputError, match=r"easy, medium, hard.*'heard'"):
        benchmark.only(["heard"])
    with pytest.raises(InputError, match="limit"):
        benchmark.only(limit=0)


def test_pairs_with_the_same_id_are_rejected() -> None:
    pair = Pair("x/0", "x", "a", "b", "", (), ())
    with pytest.raises(InputError, match="distinct"):
        Benchmark("B", (pair, pair))
