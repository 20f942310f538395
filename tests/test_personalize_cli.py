"""``visdiff personalize``: captions are checked, class prompts are a prompt file."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from editing.cli.personalize import app
from editing.generate.prompts import read_prompts
from visdiff.errors import InputError

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, caption in (("a", "a dog on a green couch"), ("b", "a dog")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption)
    return tmp_path


def test_captions_are_sorted_into_their_cases(folder: Path) -> None:
    ran = runner.invoke(app, ["check", str(folder), "--noun", "dog", "--json"])
    assert ran.exit_code == 0
    rows = json.loads(ran.stdout)["captions"]
    assert [(r["id"], r["case"]) for r in rows] == [("a.png", 3), ("b.png", 1)]
    assert rows[0]["caption"] == "a olis dog on a green couch"


def test_captions_that_describe_the_subject_end_in_status_3(folder: Path) -> None:
    (folder / "b.txt").write_text("a brown dog")
    ran = runner.invoke(app, ["check", str(folder), "--noun", "dog"])
    assert ran.exit_code == 3
    assert "case 4  b.png  a brown olis dog (details: brown)" in ran.stdout
    assert "1 captions describe the subject" in ran.stderr


def test_class_prompts_are_a_prompt_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "prompts.csv"
    options = [
        "--kind",
        "living",
        "--count",
        "50",
        "--out",
        str(out),
        "--subject-images",
        str(folder),
    ]
    ran = runner.invoke(app, ["class-prompts", "dog", *options])
    assert ran.exit_code == 0, ran.output
    prompts = read_prompts(out)
    assert len(prompts) == len({p.seed for p in prompts}) == 50
    assert sum("on a green couch" in p.text for p in prompts) == 10
    assert {p.columns["part"] for p in prompts} == {"against", "photo", "styled"}
    assert "were left out" in ran.stderr
    first = out.read_bytes()
    runner.invoke(app, ["class-prompts", "dog", *options])
    assert out.read_bytes() == first


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = runner.invoke(
        app, ["class-prompts", "dog", "--count", "5", "--out", str(tmp_path / "file" / "p.csv")]
    )
    assert isinstance(ran.exception, InputError)
    assert "Expected a file that can be written" in str(ran.exception)
