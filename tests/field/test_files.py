"""Files, folders and manifests as people have them: read, or refused in one sentence, at once."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from field.odd_files import (
    DEEP,
    PROMPTS,
    REFUSED,
    SETS,
    Maker,
    folder,
    image,
    manifest,
    picture,
    write,
)

from editing.generate.prompts import read_prompts
from visdiff.comparison.measurements import _card
from visdiff.errors import InputError, UnreadableImageError
from visdiff.files import LIMIT_VARIABLE, read_text, read_whole
from visdiff.imageset import ImageSet

pytestmark = pytest.mark.timeout(10)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def is_one_sentence(error: object) -> bool:
    text = str(error)
    return text.startswith("Expected ") and text.endswith(".") and "; " in text


def read_all(images: ImageSet) -> tuple[int, list[str]]:
    """Returns the number of readable images, and the reasons of the others."""
    reasons: list[str] = []
    for index in range(len(images)):
        try:
            images.image(index)
            images.digest(index)
        except UnreadableImageError as error:
            reasons.append(str(error))
    assert all(map(is_one_sentence, reasons))
    return len(images) - len(reasons), reasons


@pytest.mark.parametrize(("make", "readable", "unreadable"), SETS.values(), ids=SETS)
def test_what_is_readable_is_read(root: Path, make: Maker, readable: int, unreadable: int) -> None:
    found, reasons = read_all(ImageSet.open(make(root)))
    assert (found, len(reasons)) == (readable, unreadable), reasons


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_the_rest_is_refused_in_one_sentence(root: Path, make: Maker, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ImageSet.open(make(root))
    assert is_one_sentence(caught.value)


@pytest.mark.parametrize(("make", "expected"), PROMPTS.values(), ids=PROMPTS)
def test_prompt_files(root: Path, make: Maker, expected: int | str) -> None:
    path = make(root)
    if isinstance(expected, int):
        assert len(read_prompts(path)) == expected
        return
    with pytest.raises(InputError, match=expected) as caught:
        read_prompts(path)
    assert is_one_sentence(caught.value)


def test_what_is_left_out_is_counted_by_suffix(root: Path) -> None:
    for k in range(3):
        image(root / f"{k}.jpg", k, "JPEG")
        write(root / "sub" / f"{k}.HEIC", b"\0\0\0\x18ftypheic")
    write(root / "film.MOV", b"x")
    write(root / "LICENSE", "text")
    images = ImageSet.open(root)
    assert images.left_out == {".heic": 3, ".mov": 1, "(no suffix)": 1}
    note, advice = images.notes
    assert "5 files" in note
    assert "3 .heic, 1 (no suffix), 1 .mov" in note
    assert "visdiff[heif]" in advice
    assert images.subset([0]).renamed("x").left_out == images.left_out
    assert images.joined(images).left_out == {".heic": 6, ".mov": 2, "(no suffix)": 2}


def test_a_heic_photo_by_name_says_what_reads_it(root: Path) -> None:
    photo = write(root / "a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    with pytest.raises(UnreadableImageError, match="HEIC"):
        ImageSet.open([photo]).image(0)


def test_a_folder_behind_two_links_is_read_once_under_its_own_name(root: Path) -> None:
    image(root / "set" / "own" / "a.png")
    for name in ("again", "zero"):
        (root / "set" / name).symlink_to(root / "set" / "own")
    images = ImageSet.open(root / "set")
    assert images.ids == ("own/a.png",)
    assert images.left_out == {"(folder linked twice)": 2}


def test_a_path_of_another_machine_is_found_and_noted(root: Path) -> None:
    text = "path\nD:\\p\\images\\a.png\nD:\\p\\images\\b.png\n"
    images = ImageSet.open(manifest("m.csv", text)(root))
    assert images.path(1) == root / "images" / "b.png"
    assert images.notes == (
        f"Images of {root / 'm.csv'} were found in {root} by the last 2 parts of their paths.",
    )
    # Ids do not depend on where the files were found.
    assert images.ids == ("D:\\p\\images\\a.png", "D:\\p\\images\\b.png")


def test_one_file_by_chance_does_not_choose_the_folder(root: Path) -> None:
    rows = "".join(f"/gone/{k}.png\n" for k in range(5))
    image(root / "0.png")
    images = ImageSet.open(write(root / "m.csv", "path\n" + rows))
    assert read_all(images)[0] == 0
    assert str(root) in images.tried


def test_root_and_path_column(root: Path) -> None:
    for name in ("left", "right"):
        image(root / "elsewhere" / f"{name}.png")
    path = write(root / "m.csv", "path,other\nC:\\x\\left.png,C:\\x\\right.png\n")
    assert read_all(ImageSet.open(path))[0] == 0
    images = ImageSet.open(path, root=root / "elsewhere")
    assert images.path(0) == root / "elsewhere" / "left.png"
    images = ImageSet.open(path, root=root / "elsewhere", path_column="other")
    assert images.path(0) == root / "elsewhere" / "right.png"
    with pytest.raises(InputError, match=r"'othr'.*did you mean 'other'"):
        ImageSet.open(path, path_column="othr")
    with pytest.raises(InputError, match="as root"):
        ImageSet.open(path, root=root / "nowhere")


def test_bytes_in_a_table_are_the_same_image_as_the_file(root: Path) -> None:
    import pandas as pd

    rows = [{"bytes": picture(k), "path": f"{k}.png"} for k in range(3)]
    pd.DataFrame({"image": rows, "label": [0, 1, 1]}).to_parquet(root / "t.parquet")
    stored = ImageSet.open(root / "t.parquet", where={"label": 1})
    file = ImageSet.open(image(root / "f" / "2.png", 2).parent)
    assert stored.ids == ("1.png", "2.png")
    assert stored.digest(1) == file.digest(0)
    assert stored.raw(1)[0] == picture(2)
    assert stored.path(1) is None
    assert list(stored.frame.columns) == ["id", "path", "label"]
    assert stored.split(1)[0].ids == stored.ids


def test_cp1252_is_noted(root: Path) -> None:
    images = ImageSet.open(manifest("m.csv", "path\nimages/é.png\n".encode("cp1252"))(root))
    assert read_all(images) == (1, [])
    assert "Windows-1252" in images.notes[0]


def test_a_file_above_the_limit_is_not_read_and_the_limit_can_be_raised(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageSet.open(folder("a.png", "b.png")(root))
    monkeypatch.setenv(LIMIT_VARIABLE, "0.00001")
    with pytest.raises(UnreadableImageError, match=LIMIT_VARIABLE):
        images.image(0)
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    assert images.image(0).size == (8, 8)
    monkeypatch.setenv(LIMIT_VARIABLE, "many")
    with pytest.raises(InputError, match=LIMIT_VARIABLE):
        images.image(1)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs the /proc of Linux")
def test_the_limit_holds_for_files_without_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_whole("/proc/self/maps")
    monkeypatch.setenv(LIMIT_VARIABLE, "0.0001")
    with pytest.raises(OSError, match=LIMIT_VARIABLE):
        read_whole("/proc/self/maps")


READERS: dict[str, Callable[[Path], Any]] = {}


def _reader(name: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def add(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        READERS[name] = function
        return function

    return add


@_reader("configuration")
def _configuration(path: Path) -> Any:
    from visdiff.config import Config

    return Config.read(path)


@_reader("requests")
def _requests(path: Path) -> Any:
    from editing.requests.toml import read_requests

    return read_requests(path)


@_reader("concepts")
def _concepts(path: Path) -> Any:
    from editing.requests.toml import read_lines

    return read_lines(path)


@_reader("hypotheses")
def _hypotheses(path: Path) -> Any:
    from visdiff.proposers.manual import ManualProposer

    return ManualProposer(file=str(path))


@_reader("phrases")
def _phrases(path: Path) -> Any:
    from visdiff.proposers.concepts import read_bank

    return read_bank(str(path))


@_reader("sheet of a human judge")
def _sheet(path: Path) -> Any:
    from visdiff.judges.human import read_sheet

    return read_sheet(path)


@_reader("results of a benchmark")
def _results(path: Path) -> Any:
    from visdiff.bench.store import Results

    return Results.read(path)


@_reader("report")
def _report(path: Path) -> Any:
    from visdiff.results import DifferenceReport

    return DifferenceReport.from_json(read_text(path, "a report"))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "deep", "binary"])
@pytest.mark.parametrize("reader", READERS)
def test_other_files_are_read_or_refused_at_once(root: Path, reader: str, kind: str) -> None:
    path = root / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "deep":
        path.write_text(("a = " if reader in ("configuration", "requests") else "") + DEEP)
    else:
        path.write_bytes(bytes(range(256)) * 4)
    if kind == "deep" and reader in ("concepts", "hypotheses", "phrases"):
        READERS[reader](path)  # lines of any text
        return
    with pytest.raises(InputError, match=r"^Expected ") as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a command line in this process: exit status, stdout and stderr."""
    from visdiff.cli.app import main

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["visdiff", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        shown = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), shown.out, shown.err

    return command


CAPTIONED = (
    "--captioner", "manifest", "--proposer", "ngrams", "--ranker", "captions-lexical",
    "--where-a", "kind=x", "--where-b", "kind=y", "--cache", "off",
)  # fmt: skip


def captioned(root: Path, write_path: Callable[[str], str], name: Callable[[int], str]) -> Path:
    """A manifest of 24 images with captions."""
    rows = []
    for k in range(24):
        image(root / name(k), k)
        kind = "xy"[k % 2]
        rows.append({"path": write_path(name(k)), "kind": kind, "caption": f"a {kind} thing"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return write(root / "m.jsonl", text)


def test_notes_are_in_the_plan_the_report_and_json(root: Path, run: Callable[..., Any]) -> None:
    path = captioned(root, lambda name: f"E:\\all\\{name}", lambda k: f"{k}.png")
    note = f"Images of {path} were found in {root} by base name."
    code, out, _ = run("compare", path, path, *CAPTIONED, "--dry-run", "--json")
    assert (code, json.loads(out)["notes"]) == (0, [note])
    code, out, _ = run("compare", path, path, *CAPTIONED, "--json", "--out", root / "r")
    assert code == 0
    assert note in json.loads(out)["warnings"]
    assert "by base name" in (root / "r" / "report.html").read_text()


def test_left_out_files_are_in_the_plan_and_the_card(root: Path, run: Callable[..., Any]) -> None:
    for name in ("a", "b"):
        for k in range(3):
            image(root / name / f"{k}.png", k)
        write(root / name / "film.mov", b"x")
    arguments = ("compare", root / "a", root / "b", "--preset", "miniature", "--dry-run")
    _, out, _ = run(*arguments)
    assert out.count("1 .mov") == 2
    _, out, _ = run(*arguments, "--json")
    assert [note.count("1 .mov") for note in json.loads(out)["notes"]] == [1, 1]
    images = ImageSet.open(root / "a")
    assert _card(images, images, images, 0, 3).left_out == {".mov": 1}


def test_when_nothing_is_found_path_reason_and_folders_are_named(
    root: Path, run: Callable[..., Any]
) -> None:
    text = "".join(
        json.dumps({"path": f"./data/{k}.png", "kind": "xy"[k % 2], "caption": "a"}) + "\n"
        for k in range(8)
    )
    path = write(root / "m.jsonl", text)
    code, _, err = run("compare", path, path, *CAPTIONED)
    assert code == 2
    message = err.strip().splitlines()[-1]
    assert f"{root}/data/0.png, got no file there" in message
    assert f"tried the folders {root}, {Path.cwd()}, {root.parent}" in message
    assert message.endswith("name the folder of the images with --root.")


def test_names_that_are_not_utf8_go_through_a_comparison(
    root: Path, run: Callable[..., Any]
) -> None:
    path = captioned(root, lambda name: name, lambda k: os.fsdecode(b"caf\xe9%d.png" % k))
    write(root / "caf.txt", "")
    code, out, _ = run("compare", path, path, *CAPTIONED, "--json", "--out", root / "r")
    assert code == 0
    assert "\\udce9" in out
    shown = json.loads(out)["differences"][0]["evidence_a"][0]
    assert os.fsencode(shown).startswith(b"caf\xe9")
    assert "caf\\udce9" in (root / "r" / "report.html").read_text("utf-8")
    code, out, _ = run("compare", path, path, *CAPTIONED)
    assert code == 0


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_captions_of_names_that_are_not_utf8_are_written_and_read(root: Path, suffix: str) -> None:
    from visdiff.captioners import table

    images = ImageSet.open(folder(os.fsdecode(b"caf\xe9.png"), "b.png")(root))
    out = root / "set" / f"m{suffix}"
    table.write(table.table(images, ["une fenêtre", None], out.parent), out)
    again = ImageSet.open(out)
    assert again.ids == images.ids
    assert read_all(again) == (2, [])
    assert set(again.frame["caption"].dropna()) == {"une fenêtre"}


def test_audits_pair_by_the_columns_of_other_tools(root: Path) -> None:
    from editing.audits.grouping import check_columns

    sets = []
    for model, seed in (("base", "evaluation_seed"), ("uce", "sd_seed")):
        rows = "".join(f"{model}/{k}_0.png,a church {k},{4000 + k}\n" for k in range(3))
        for k in range(3):
            image(root / model / f"{k}_0.png", k)
        path = write(root / f"{model}.csv", f"path,Prompt,{seed}\n{rows}")
        sets.append(ImageSet.open(path))
    original, edited = check_columns(*sets)
    for images in (original, edited):
        assert images.frame["seed"].tolist() == [4000, 4001, 4002]
        assert images.frame["prompt"].tolist() == ["a church 0", "a church 1", "a church 2"]
    with pytest.raises(InputError, match="columns path, prompt and seed"):
        check_columns(ImageSet.open(root / "base"), edited)
