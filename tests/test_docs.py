"""Every block of code in the README and in docs/ runs, or is parsed, or states why it is not."""

import ast
import inspect
import re
import runpy
import tomllib
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_pipelines
import typer
from browser import AXE, CHROMIUM, measure_site
from doc_blocks import ROOT, Block, blocks, commands, documents, inline_commands, parse, parse_part
from fakes import write_set

import editing
import visdiff
from editing.requests.toml import read_requests
from visdiff import registry
from visdiff.config import Config
from visdiff.errors import VisdiffError

BLOCKS = [block for path in documents() for block in blocks(path)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SITE = ROOT / "site"
LANGUAGES = {"python", "console", "bash", "toml", "text"}
# Blocks that are not run, by document. Another one needs a reason.
NOT_RUN: dict[str, int] = {
    "README.md": 2,
    "docs/howto/cluster.md": 2,
    "docs/howto/debias.md": 1,
    "docs/howto/local-llm.md": 1,
    "docs/howto/sdxl.md": 1,
    "docs/personalization.md": 2,
}


def of(*languages: str) -> list[Any]:
    found = [b for b in BLOCKS if b.language in languages]
    return [pytest.param(block, id=block.place) for block in found]


def test_every_block_has_a_language_that_is_checked() -> None:
    assert [block.place for block in BLOCKS if block.language not in LANGUAGES] == []
    assert len(BLOCKS) > 60


def test_blocks_that_are_not_run_are_few() -> None:
    marked = [block for block in BLOCKS if block.not_run]
    assert Counter(block.place.partition(":")[0] for block in marked) == NOT_RUN


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the blocks: photos/before, photos/after and photos.csv."""
    tiny.folder_of_pictures(tmp_path / "photos" / "before", 12, seed=1)
    tiny.folder_of_pictures(tmp_path / "photos" / "after", 12, seed=2)
    captions = ["a cook in a kitchen", "a cook on the grass"] * 30
    made = write_set(tmp_path / "shots", captions, seed=0, place=["indoors", "outdoors"] * 30)
    text = made.read_text("utf-8")
    (tmp_path / "photos.csv").write_text(re.sub(r"(?m)^(\d+\.png)", r"shots/\1", text), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


PAGES = list(dict.fromkeys(b.place.partition(":")[0] for b in BLOCKS if b.language == "python"))


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The pipeline of all pages: edits do not change it."""
    return tiny_pipelines.sd1()


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, pipe: Any, workplace: Path
) -> None:
    known: dict[str, Any] = {"pipe": pipe}
    for block in BLOCKS:
        if block.language != "python" or block.place.partition(":")[0] != page:
            continue
        if block.not_run:
            bind_calls(block)
            continue
        named = re.match(r"# (\w+\.py)\n", block.text)
        path = workplace / (named[1] if named else "block.py")
        # The traceback of an error has the line of the document.
        line = int(block.place.rpartition(":")[2])
        path.write_text("\n" * (0 if named else line) + block.text, "utf-8")
        known = runpy.run_path(str(path), known)


def bind_calls(block: Block) -> None:
    """Checks that the public functions that a block calls exist and take its arguments."""
    for node in ast.walk(ast.parse(block.text)):
        if not isinstance(node, ast.Call):
            continue
        package, *names = ast.unparse(node.func).split(".")
        if package in ("visdiff", "editing"):
            function: Any = {"visdiff": visdiff, "editing": editing}[package]
            function = reduce(getattr, names, function)
            keywords = {k.arg: None for k in node.keywords if k.arg}
            inspect.signature(function).bind(*[None] * len(node.args), **keywords)


@pytest.mark.parametrize("block", of("console", "bash"))
def test_the_commands_of_a_block_exist(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.not_run:
        pytest.skip(block.not_run)
    # The class that a how-to guide writes; its block of Python runs in the test above.
    monkeypatch.setattr(registry, "check_name", _check_unless_module(registry.check_name))
    for program, *words in commands(block.text):
        match Path(program).name:
            case "visdiff":
                parse(words)
            case "make":
                targets = re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text("utf-8"))
                assert {w for w in words if "=" not in w} <= set(targets)
            case "pip":
                assert words[0] == "install"
                check_extras(words[-1])
            case "python" | "python3":
                assert (ROOT / words[0]).exists() or words[:2] == ["-m", "venv"]
            case "export":
                assert re.fullmatch(r"\w+=\S+", words[0])
            case _:
                pytest.fail(f"{block.place}: {program} is not checked; mark the block as not run")


# Typer has a click of its own, whose errors it does not all export.
USAGE_ERROR: Any = typer.BadParameter.__base__


@pytest.mark.parametrize(
    "command",
    [
        "compare A",
        "compare A B --outt report/",
        "compare A B --set statistics.alhpa=0.01",
        "compare A B --ranker clipp",
        "edit eraze MODEL --out e.safetensors",
        "edit erase MODEL --out e.safetensors",
    ],
)
def test_a_wrong_command_is_an_error(command: str) -> None:
    with pytest.raises((AssertionError, VisdiffError, USAGE_ERROR)):
        parse(command.split())


def test_a_wrong_part_of_a_command_is_an_error() -> None:
    for part in ("edit eraze", "edit erase --concepts", "compare many --each"):
        with pytest.raises(AssertionError):
            parse_part(part.split())


def _check_unless_module(check: Any) -> Any:
    return lambda role, name: None if ":" in name else check(role, name)


def check_extras(requirement: str) -> None:
    for extra in re.findall(r"\[([a-z,]+)\]", requirement):
        assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_prose_exist(path: Path) -> None:
    for command in inline_commands(path):
        parse_part(re.sub(r"[\[\]…]", " ", command).split()[1:])
    for requirement in re.findall(r"pip install \"([^\"]+)\"", path.read_text("utf-8")):
        check_extras(requirement)


@pytest.mark.parametrize("block", of("toml"))
def test_toml_is_read(block: Block, tmp_path: Path) -> None:
    tables = tomllib.loads(block.text)
    if "project" in tables:
        groups = {f"visdiff.{role}s" for role in ("captioner", "proposer", "ranker")}
        assert set(tables["project"]["entry-points"]) <= groups
    elif "erase" in tables or "debias" in tables:
        (tmp_path / "requests.toml").write_text(block.text, "utf-8")
        assert read_requests(tmp_path / "requests.toml").requests
    else:
        Config.parse(block.text, source=block.place)


@pytest.mark.parametrize("package", [visdiff, editing], ids=["visdiff", "editing"])
def test_the_reference_has_every_public_name(package: Any) -> None:
    name = package.__name__
    page = (ROOT / "docs" / "reference" / f"{name}.md").read_text("utf-8")
    public = {f"{name}.{member}" for member in package.__all__} - {"visdiff.__version__"}
    assert public <= set(re.findall(r"(?m)^::: (\S+)$", page))


def test_links_of_the_readme_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text("utf-8"))
    local = [target for target in targets if ":" not in target]
    assert len(local) > 5
    assert [target for target in local if not (ROOT / target).exists()] == []


def is_built() -> bool:
    """Returns whether `make docs` has run since the look of the site changed."""
    index, sources = SITE / "index.html", (ROOT / "mkdocs.yml", *ROOT.glob("docs/stylesheets/*"))
    return index.is_file() and index.stat().st_mtime > max(s.stat().st_mtime for s in sources)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or not AXE.is_file(), reason="needs Chromium and `make art`")
@pytest.mark.skipif(not is_built(), reason="needs the site of `make docs`")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_site_is_accessible_and_fits_a_phone(tmp_path: Path, dark: bool) -> None:
    pages = ["quickstart/", "notebooks/02_erase_and_audit/"]
    found = measure_site(SITE, dict.fromkeys(pages, 390), tmp_path, dark=dark)
    assert set(found) == set(pages)
    for name, values in found.items():
        assert values["checked"]
        assert values["dark"] is dark
        assert values["scrollWidth"] <= 390, name
        assert values["violations"] == [], name
