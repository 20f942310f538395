"""Odd folders, manifests and prompt files, each as a function that makes one in an empty folder."""

import json
import os
import socket
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

Maker = Callable[[Path], Any]


def picture(number: int = 0, form: str = "PNG") -> bytes:
    """Returns the bytes of a small image."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (40 * number % 256, 90, 200)).save(buffer, form)
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def image(path: Path, number: int = 0, form: str = "PNG") -> Path:
    return write(path, picture(number, form))


def folder(*names: str, form: str = "PNG") -> Maker:
    """A folder with images of these names."""

    def make(root: Path) -> Path:
        for k, name in enumerate(names):
            image(root / "set" / name, k, form)
        return root / "set"

    return make


def folder_with(files: Mapping[str, bytes | str]) -> Maker:
    """A folder with one image and other files."""

    def make(root: Path) -> Path:
        image(root / "set" / "a.png")
        for name, data in files.items():
            write(root / "set" / name, data)
        return root / "set"

    return make


def folder_then(change: Callable[[Path], object]) -> Maker:
    """A folder with two images, changed by a function."""

    def make(root: Path) -> Path:
        made = folder("a.png", "b.png")(root)
        change(made)
        return made

    return make


def manifest(name: str, data: bytes | str) -> Maker:
    """A manifest beside two images, a.png and b.png, in the folder `images`."""

    def make(root: Path) -> Path:
        image(root / "images" / "a.png", 1)
        image(root / "images" / "b.png", 2)
        image(root / "images" / "é.png", 3)
        return write(root / name, data)

    return make


def parquet(columns: Mapping[str, Any]) -> Maker:
    def make(root: Path) -> Path:
        image(root / "images" / "a.png", 1)
        pd.DataFrame(dict(columns)).to_parquet(root / "m.parquet")
        return root / "m.parquet"

    return make


def names(name: str) -> Maker:
    """A manifest whose second row names something that is no file."""

    def make(root: Path) -> Path:
        image(root / "images" / "a.png")
        os.mkfifo(root / "pipe")
        (root / "zero").symlink_to("/dev/zero")
        with (root / "large").open("wb") as file:
            file.truncate(10**13)
        return write(root / "m.jsonl", f'{{"path": "images/a.png"}}\n{{"path": "{name}"}}\n')

    return make


def link_many(root: Path) -> None:
    """Eight folders that each link to all the others: 8! ways through them."""
    places = [root / f"folder{k}" for k in range(8)]
    for place in places:
        place.mkdir()
    for place in places:
        for other in places:
            (place / f"to-{other.name}").symlink_to(other)


def link_mutually(root: Path) -> None:
    for one, other in (("x", "y"), ("y", "x")):
        (root / one).mkdir()
        (root / one / "link").symlink_to(root / other)


def bind_socket(root: Path) -> None:
    here = os.getcwd()
    os.chdir(root)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.png")
    finally:
        os.chdir(here)


def nest(root: Path, depth: int = 100) -> None:
    image(root / "/".join(["d"] * depth) / "deep.png", 5)


DEEP = "[" * 100_000
PNG, CSV = picture(), "path,label\nimages/a.png,x\nimages/b.png,y\n"
TEXT = "path,caption\nimages/é.png,une fenêtre\n"
STORED = {"bytes": PNG, "path": "a.png"}

# Name: how it is made, the number of readable images, and of unreadable ones.
SETS: dict[str, tuple[Maker, int, int]] = {
    **{
        f"suffix .{suffix}": (folder(f"a.{suffix}", form=form), 1, 0)
        for suffix, form in {
            "png": "PNG", "apng": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "JPG": "JPEG",
            "jpe": "JPEG", "jfif": "JPEG", "webp": "WEBP", "avif": "AVIF",
            "gif": "GIF", "bmp": "BMP", "dib": "DIB", "tif": "TIFF", "tiff": "TIFF", "ppm": "PPM",
            "pnm": "PPM", "ico": "ICO", "tga": "TGA", "jp2": "JPEG2000", "pcx": "PCX", "sgi": "SGI",
            "dds": "DDS",
        }.items()
    },
    **{
        f"{form} without a suffix": (folder("0123abc", form=form), 1, 0)
        for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000")
    },
    "webp named jpg": (folder("a.jpg", form="WEBP"), 1, 0),
    "empty file": (folder_with({"b.png": b""}), 1, 1),
    "text named png": (folder_with({"b.png": "<html>404</html>"}), 1, 1),
    "truncated": (folder_with({"b.png": PNG[:-30]}), 1, 1),
    "cut header": (folder_with({"b.png": PNG[:12]}), 1, 1),
    "postscript named png": (folder_with({"b.png": "%!PS-Adobe-3.0 EPSF-3.0\n"}), 1, 1),
    "noise named tga": (folder_with({"b.tga": bytes(range(256))}), 1, 1),
    "sidecars": (folder_with({"a.txt": "a caption", "a.json": "{}", "Thumbs.db": b"\0"}), 1, 0),
    "hidden files": (folder_with({".DS_Store": b"\0", "._a.png": b"\0", ".h/b.png": PNG}), 1, 0),
    "script without a suffix": (folder_with({"Makefile": "all:\n"}), 1, 0),
    "folder named like an image": (folder("a.png", "b.png/c.png"), 2, 0),
    "name with a line break": (folder("a\nb.png", "c.png"), 2, 0),
    "name with quotes": (folder("a\"'.png", "<b>.png"), 2, 0),
    "name with wildcards": (folder("a[1]*.png", "b?.png"), 2, 0),
    "name with 240 letters": (folder("x" * 240 + ".png"), 1, 0),
    "name that is not UTF-8": (folder(os.fsdecode(b"caf\xe9.png"), "b.png"), 2, 0),
    "folder that is not UTF-8": (folder(os.fsdecode(b"d\xe9/a.png")), 1, 0),
    "name of emoji and other scripts": (folder("😀.png", "猫.png", "e\u0301.png"), 3, 0),
    "a hundred folders deep": (folder_then(nest), 3, 0),
    "broken link": (folder_then(lambda f: (f / "c.png").symlink_to("gone.png")), 2, 1),
    "link to itself": (folder_then(lambda f: (f / "c.png").symlink_to("c.png")), 2, 1),
    "link to itself without a suffix": (folder_then(lambda f: (f / "c").symlink_to("c")), 2, 0),
    "link to the parent": (folder_then(lambda f: (f / "up").symlink_to(f.parent)), 2, 0),
    "link to the root": (folder_then(lambda f: (f / "here").symlink_to(f)), 2, 0),
    "folders that link to each other": (folder_then(link_mutually), 2, 0),
    "eight folders that link to each other": (folder_then(link_many), 2, 0),
    "pipe named like an image": (folder_then(lambda f: os.mkfifo(f / "c.png")), 2, 0),
    "link to a pipe": (
        folder_then(lambda f: (os.mkfifo(f / "p"), (f / "c.png").symlink_to(f / "p"))), 2, 1
    ),
    "link to /dev/zero": (folder_then(lambda f: (f / "c.png").symlink_to("/dev/zero")), 2, 1),
    "socket named like an image": (folder_then(bind_socket), 2, 0),
    "glob through linked folders": (
        lambda root: str(folder_then(link_many)(root) / "**" / "*.png"), 2, 0
    ),
    "glob of one level": (lambda root: str(folder("a.png", "x/b.png")(root) / "*"), 1, 0),
    "glob of two levels": (lambda root: str(folder("a.png", "x/b.png")(root) / "*/*.png"), 1, 0),
    "glob of all levels": (lambda root: str(folder("a.png", "x/y/b.png")(root) / "**"), 2, 0),
    "glob with a pipe": (
        lambda root: str(folder_then(lambda f: os.mkfifo(f / "c.png"))(root) / "*.png"), 2, 1
    ),
    "one image without a suffix": (lambda root: image(root / "0123"), 1, 0),
    **{
        f"{encoding} with {name}": (
            manifest("m.csv", TEXT.replace(",", separator).encode(encoding)), 1, 0
        )
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252")
        for name, separator in (("commas", ","), ("semicolons", ";"), ("tabs", "\t"))
    },
    "bars": (manifest("m.csv", CSV.replace(",", "|")), 2, 0),
    "tsv with semicolons": (manifest("m.tsv", CSV.replace(",", ";")), 2, 0),
    "a line that names the separator": (
        manifest("m.csv", "sep=;\r\n" + CSV.replace(",", ";").replace("\n", "\r\n")), 2, 0
    ),
    "line ends of Windows": (manifest("m.csv", CSV.replace("\n", "\r\n")), 2, 0),
    "line ends of old Macs": (manifest("m.csv", CSV.replace("\n", "\r")), 2, 0),
    "blank lines": (manifest("m.csv", CSV.replace("\n", "\n\n")), 2, 0),
    "line breaks in quotes": (manifest("m.csv", 'path,c\nimages/a.png,"x\ny"\n'), 1, 0),
    "separator at the end of lines": (manifest("m.csv", "path,c\nimages/a.png,x,\n"), 1, 0),
    "short rows": (manifest("m.csv", "path,c,d\nimages/a.png\nimages/b.png,x\n"), 2, 0),
    "index column of pandas": (manifest("m.csv", ",path\n0,images/a.png\n"), 1, 0),
    "column given twice": (manifest("m.csv", "path,c,c\nimages/a.png,x,y\n"), 1, 0),
    "capital letters and blanks": (manifest("m.csv", " Path ,c\nimages/a.png,x\n"), 1, 0),
    "column file_name": (manifest("m.csv", "file_name,c\nimages/a.png,x\n"), 1, 0),
    "column image": (manifest("m.csv", "image,c\nimages/a.png,x\n"), 1, 0),
    "backslashes": (manifest("m.csv", CSV.replace("/", "\\")), 2, 0),
    "paths of another Windows": (
        manifest("m.csv", "path\nC:\\Users\\k\\images\\a.png\nC:\\Users\\k\\images\\b.png\n"), 2, 0
    ),
    "paths of a server of Windows": (manifest("m.csv", "path\n\\\\nas\\x\\images\\a.png\n"), 1, 0),
    "paths of another Linux": (manifest("m.csv", "path\n/mnt/u/proj/images/a.png\n"), 1, 0),
    "names beside the manifest": (manifest("images/m.csv", "path\n/x/a.png\n/x/b.png\n"), 2, 0),
    "base names that are not unique": (manifest("images/m.csv", "path\n1/a.png\n2/a.png\n"), 0, 2),
    "path that is not UTF-8": (
        lambda root: (
            image(root / os.fsdecode(b"caf\xe9.png")),
            write(root / "m.csv", b"path,c\ncaf\xe9.png,\xc3\xa9\n"),
        )[1], 1, 0
    ),
    "path whose bytes are Windows-1252": (
        lambda root: (
            image(root / os.fsdecode(b"caf\xe9.png")), write(root / "m.csv", b"path\ncaf\xe9.png\n")
        )[1], 1, 0
    ),
    "images that are gone": (manifest("m.csv", "path\ngone/a.png\ngone/b.png\n"), 0, 2),
    "a cell of 2 MB": (manifest("m.csv", f"path,c\nimages/a.png,{'x' * 2_000_000}\n"), 1, 0),
    "path with a null byte": (manifest("m.jsonl", '{"path": "images/a.png\\u0000"}\n'), 0, 1),
    "path of 5,000 letters": (manifest("m.csv", f"path\n{'x' * 5000}.png\n"), 0, 1),
    "path of an unknown user": (manifest("m.csv", "path\n~nobody-here/a.png\n"), 0, 1),
    "path of a folder": (manifest("m.csv", "path\nimages\nimages/a.png\n"), 1, 1),
    "path of the manifest": (manifest("m.csv", "path\nm.csv\nimages/a.png\n"), 1, 1),
    "path of a pipe": (names("pipe"), 1, 1),
    "path of /dev/zero": (names("/dev/zero"), 1, 1),
    "path of a link to /dev/zero": (names("zero"), 1, 1),
    "path of /dev/stdin": (names("/dev/tty"), 1, 1),
    "path of a file of 10 TB": (names("large"), 1, 1),
    "path of a file of the kernel": (names("/proc/self/cmdline"), 1, 1),
    "jsonl": (manifest("m.jsonl", '{"path": "images/a.png"}\n\n'), 1, 0),
    "jsonl in UTF-16": (manifest("m.jsonl", '{"path": "images/a.png"}\n'.encode("utf-16")), 1, 0),
    "jsonl of `datasets`": (manifest("m.jsonl", '{"file_name": "images/a.png"}\n'), 1, 0),
    "jsonl with other line separators": (
        manifest("m.jsonl", '{"path": "images/a.png", "c": "x\u2028y"}\n'), 1, 0
    ),
    "jsonl with a lone surrogate": (
        manifest("m.jsonl", '{"path": "images/a.png", "c": "\\udce9"}\n'), 1, 0
    ),
    "jsonl with NaN": (manifest("m.jsonl", '{"path": "images/a.png", "c": NaN}\n'), 1, 0),
    "jsonl with nested cells": (
        manifest("m.jsonl", '{"path": "images/a.png", "c": {"d": [1]}}\n'), 1, 0
    ),
    "bytes in Parquet": (parquet({"image": [STORED, STORED], "label": [0, 1]}), 2, 0),
    "bytes without a path": (parquet({"image": [{"bytes": PNG, "path": None}]}), 1, 0),
    "bytes that are no image": (parquet({"image": [{"bytes": b"x", "path": "a"}, STORED]}), 1, 1),
    "bytes as a column": (parquet({"image": [PNG]}), 1, 0),
    "paths in the layout of bytes": (
        parquet({"image": [{"bytes": None, "path": "images/a.png"}]}), 1, 0
    ),
    "paths in Parquet": (parquet({"path": ["images/a.png"]}), 1, 0),
}  # fmt: skip

# Name: how it is made, and what the message says.
REFUSED: dict[str, tuple[Maker, str]] = {
    "nothing there": (lambda root: root / "none", "nothing"),
    "empty folder": (lambda root: root, "empty folder"),
    "folder of hidden files": (lambda root: write(root / ".x" / "a.png", PNG).parents[1], "empty"),
    "folder of HEIC": (
        lambda root: write(root / "a.heic", b"\0\0\0\x18ftypheic").parent, r"1 \.heic.*pillow-heif"
    ),
    "folder of films": (lambda root: write(root / "a.MOV", b"x").parent, r"1 \.mov"),
    "glob without matches": (lambda root: str(root / "*.png"), "0 files"),
    "glob without images": (lambda root: str(write(root / "a.txt", "").parent / "*"), "1 files"),
    "pipe": (lambda root: (os.mkfifo(root / "m.csv"), root / "m.csv")[1], "pipe"),
    "device": (lambda root: Path("/dev/zero"), "device"),
    "link to a device": (
        lambda root: ((root / "m.csv").symlink_to("/dev/zero"), root / "m.csv")[1], "device"
    ),
    "link to itself": (lambda root: ((root / "m").symlink_to("m"), root / "m")[1], "nothing"),
    "folder named like a manifest": (lambda root: write(root / "m.csv/x", "").parent, "1 other"),
    "text file": (lambda root: write(root / "a.txt", "a.png"), "folder, an image or a manifest"),
    "empty csv": (manifest("m.csv", ""), "empty"),
    "blank csv": (manifest("m.csv", "\n \n"), "column"),
    "header alone": (manifest("m.csv", "path,x\n"), "got none"),
    "no column of files": (manifest("m.csv", "name,x\na.png,1\n"), "--path-column"),
    "row without a path": (manifest("m.csv", "path,x\nimages/a.png,1\n,2\n"), "row 2"),
    "addresses": (manifest("m.csv", "path\nhttps://x.org/a.png\n"), "download"),
    "long row": (manifest("m.csv", "path\nimages/a.png\nb,c,d\n"), "cannot be read"),
    "long rows": (manifest("m.csv", "path\nimages/a.png,x\nb,y\n"), "more"),
    "quote without an end": (manifest("m.csv", 'path,c\n"images/a.png,x\n'), "cannot be read"),
    "ids given twice": (manifest("m.csv", "path,id\na,1\nb,1\n"), "unique"),
    "null bytes": (manifest("m.csv", b"path\nimages/a.png\0\n"), "binary"),
    "an Excel workbook": (manifest("m.csv", b"PK\x03\x04\x14\0\0\0\x08\0"), "Excel"),
    "an image named csv": (manifest("m.csv", PNG), "binary|column"),
    "JSON nested a hundred thousand deep": (manifest("m.jsonl", DEEP), "line 1.*too deeply"),
    "objects nested a hundred thousand deep": (
        manifest("m.jsonl", '{"path": ' * 100_000), "line 1.*too deeply"
    ),
    "a number of ten thousand digits": (manifest("m.jsonl", f'{{"n": {"1" * 10_000}}}'), "line 1"),
    "JSON that is no object": (manifest("m.jsonl", "[1]\n"), "line 1"),
    "no JSON": (manifest("m.jsonl", '{"path": "a"}\n{path}\n'), "line 2"),
    "a JSON number as path": (manifest("m.jsonl", '{"path": 3}\n'), "row 1"),
    "a JSON list as path": (manifest("m.jsonl", '{"path": ["a"]}\n'), "row 1"),
    "an object as path": (manifest("m.jsonl", '{"image": {"path": null}}\n'), "row 1"),
    "blank JSONL": (manifest("m.jsonl", "\n\n"), "empty"),
    "damaged Parquet": (manifest("m.parquet", b"PAR1 not really PAR1"), "cannot be read"),
    "empty Parquet": (manifest("m.parquet", b""), "cannot be read"),
    "Parquet without rows": (parquet({"path": []}), "got none"),
}  # fmt: skip

# Prompt files: how each is made, and the number of prompts or what the message says.
PROMPTS: dict[str, tuple[Maker, int | str]] = {
    "semicolons": (manifest("p.csv", "prompt;evaluation_seed\na, b;3\n"), 1),
    "UTF-16": (manifest("p.csv", "prompt,seed\né,3\n".encode("utf-16")), 1),
    "seeds of I2P": (manifest("p.csv", "Prompt,sd_seed\nx,4\n"), 1),
    "text in UTF-16": (manifest("p.txt", "a dog\na cat\n".encode("utf-16")), 2),
    "surrogates": (manifest("p.jsonl", json.dumps({"prompt": "\udce9"})), 1),
    "deep JSON": (manifest("p.jsonl", DEEP), "too deeply"),
    "binary": (manifest("p.txt", bytes(range(256))), "binary"),
    "pipe": (lambda root: (os.mkfifo(root / "p.txt"), root / "p.txt")[1], "pipe"),
    "device": (
        lambda root: ((root / "p.csv").symlink_to("/dev/zero"), root / "p.csv")[1],
        "device",
    ),
    "folder": (lambda root: write(root / "p.csv/x", "").parent, "directory"),
}
