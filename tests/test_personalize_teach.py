"""``visdiff personalize METHOD`` from images to an edit."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import subjects
import tiny_pipelines as tiny
from typer.testing import CliRunner, Result

from editing.cli.personalize import app
from editing.edit import Edit
from editing.personalize import personalizer
from editing.pipelines.loading import load_pipeline
from visdiff.cli.app import main
from visdiff.errors import InputError

SHORT = ("--train-steps", "2", "--prior", "none", "--set", "sampling_steps=1")


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(personalizer, "_HELD_OUT", 2)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.sd1().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("subject"))


def write(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(subjects.images()):
        image.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a dog on a green couch")
    return folder


def run(*arguments: object, code: int = 0) -> Result:
    found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=code != 0)
    if code == 0:
        assert found.exit_code == 0, found.output
    return found


def refused(match: str, *arguments: object) -> None:
    found = run(*arguments, code=2)
    assert isinstance(found.exception, InputError), found.output
    assert match in str(found.exception)


def test_a_subject_becomes_an_edit(model: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    done = run("lora", model, source, "--noun", "dog", "--out", out, *SHORT, "--set", "rank=2",
               "--sample-every", "2", "--sample-prompt", "a olis dog", "--validate-every", "2",
               "--checkpoint", tmp_path / "state.safetensors")  # fmt: skip
    assert f"learnt 'olis dog' by lora: {out}" in done.stdout
    assert "loss on fixed samples" in done.stdout
    assert "2 steps of" in done.stderr
    assert "step 2: loss" in done.stderr
    edit = Edit.load(out)
    assert edit.config["captions"] == [["a olis dog on a green couch"] * 3]
    assert edit.config["rank"] == 2
    grids = sorted((tmp_path / "e-samples").iterdir())
    assert [path.name for path in grids] == ["step-000000.png", "step-000002.png"]
    pipe = load_pipeline(model)
    plain = tiny.picture(pipe, "a olis dog")
    with edit.applied(pipe):
        assert abs(tiny.picture(pipe, "a olis dog") - plain).max() > 0
    # A finished training is not repeated.
    again = run("lora", model, source, "--noun", "dog", "--out", tmp_path / "f.safetensors",
                "--set", "rank=2", "--checkpoint", tmp_path / "state.safetensors", "--json",
                *SHORT)  # fmt: skip
    assert json.loads(again.stdout)["digest"] == edit.digest


def test_a_file_of_settings_and_its_overrides(model: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        'identifier = "zwx"\nnoun = "dog"\nprior = "none"\nsteps = 1\nlr = 1e-3\nvectors = 2\n'
    )
    out = tmp_path / "e.safetensors"
    run("textual-inversion", model, source, "--config", tmp_path / "c.toml", "--out", out,
        "--captions", "none", "--lr", "5e-3", "--noun", "puppy")  # fmt: skip
    edit = Edit.load(out)
    assert edit.requests[0].concept == "<zwx> puppy"
    assert (edit.config["lr"], edit.config["vectors"], edit.config["steps"]) == (5e-3, 2, 1)
    assert edit.config["captions"] == [["a <zwx> puppy"] * 3]
    (tmp_path / "bad.toml").write_text("steps = [")
    refused("Expected a TOML file of settings", "lora", model, source, "--noun", "dog", "--out",
            out, "--config", tmp_path / "bad.toml")  # fmt: skip


def test_a_dataset_configuration_of_kohya(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "images")
    write(tmp_path / "classes")
    (tmp_path / "d.toml").write_text(
        f"""
        [general]
        caption_extension = ".txt"
        [[datasets]]
        resolution = 32
        batch_size = 2
          [[datasets.subsets]]
          image_dir = "{tmp_path / "images"}"
          class_tokens = "olis dog"
          num_repeats = 2
          flip_aug = true
          [[datasets.subsets]]
          is_reg = true
          image_dir = "{tmp_path / "classes"}"
          class_tokens = "dog"
        """
    )
    out = tmp_path / "e.safetensors"
    run("lora", model, "--dataset-config", tmp_path / "d.toml", "--out", out, "--train-steps", "1",
        "--set", "rank=2")  # fmt: skip
    config = Edit.load(out).config
    assert (config["width"], config["batch"], config["flip"]) == (32, 2, True)
    assert config["prior"] == "own images"


def test_own_images_of_the_class(model: Path, source: Path, tmp_path: Path) -> None:
    out, classes = tmp_path / "e.safetensors", write(tmp_path / "classes")
    run("custom-diffusion", model, source, "--noun", "dog", "--prior", classes,
        "--train-steps", "1", "--out", out)  # fmt: skip
    assert Edit.load(out).config["prior"] == str(classes)


def test_what_is_wrong_is_one_sentence(model: Path, source: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "e.safetensors", *SHORT)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("Expected a class noun such as 'dog', got none", "lora", model, source, *out)
    refused("Expected SOURCE or --dataset-config, got neither", "lora", model, *out)
    refused("Expected ", "lora", model, empty, "--noun", "dog", *out)
    refused("got none of them in", "lora", model, source, "--noun", "cat", *out)
    # Settings are checked before the model is loaded, which would fail.
    (tmp_path / "model_index.json").write_text("{")
    refused("that svdiff uses, got rank", "svdiff", tmp_path, source, "--noun", "dog", *out,
            "--set", "rank=2")  # fmt: skip
    refused("--also SOURCE,IDENTIFIER,NOUN", "lora", model, source, "--noun", "dog", *out,
            "--also", "x")  # fmt: skip
    (tmp_path / "file").write_text("")
    refused("Expected a folder to write the edit to", "lora", model, source, "--noun", "dog",
            "--out", tmp_path / "file" / "e.safetensors")  # fmt: skip
    assert not (tmp_path / "e.safetensors").exists()


def test_exit_codes(
    model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    logger = logging.getLogger("visdiff")
    handlers = list(logger.handlers)

    def code(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["visdiff", "personalize", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        logger.handlers[:] = handlers
        return int(ended.value.code or 0)

    given = ("textual-inversion", model, source, "--out", tmp_path / "e.safetensors", *SHORT)
    assert code(*given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("visdiff: Expected a class noun")
    assert code(*given, "--noun", "dog") == 0
    assert "learnt '<olis> dog'" in capsys.readouterr().out


def test_the_public_function_and_its_package_have_one_name() -> None:
    import editing

    assert callable(editing.personalize)
    assert editing.personalize.find("lora").name == "lora"  # pyright: ignore[reportFunctionMemberAccess]
