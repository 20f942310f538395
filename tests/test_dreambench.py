"""``visdiff bench dreambench``: the released layout, and a whole run on a tiny random model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import typer
from PIL import Image
from typer.testing import CliRunner

from editing.cli.dreambench import dreambench
from editing.metrics.dreambench import published, subjects
from editing.personalize.dreambench import FILE, read_dreambench, templates
from visdiff.errors import InputError

runner = CliRunner()
app = typer.Typer()
app.command()(dreambench)

LISTS = """Classes

subject_name,class
dog,dog
clock,clock

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token),
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token),
'a purple {0} {1}'.format(unique_token, class_token)
]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dreambooth")
    for number, name in enumerate(("dog", "clock")):
        (root / "dataset" / name).mkdir(parents=True)
        for i in range(4):
            picture(10 * number + i).save(root / "dataset" / name / f"0{i}.jpg")
    (root / "dataset" / FILE).write_text(LISTS)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.sd1().save_pretrained(folder)
    return folder


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)


def invoke(*arguments: Any) -> Any:
    return runner.invoke(app, [*map(str, arguments), "--encoder", "miniature"])


def training(data: Path, model: Path, out: Path, *more: Any) -> list[Any]:
    return [
        data, "--model", model, "--out", out, "--method", "lora", "--prior", "none",
        "--set", "steps=1", "--steps", 1, "--images", 2, "--noun-images", 1,
        "--subject", "dog", "--subject", "clock", *more,
    ]  # fmt: skip


# --- the data


def test_the_packaged_prompts_are_the_released_ones(data: Path) -> None:
    assert [len(templates(kind)) for kind in ("thing", "living")] == [25, 25]
    assert templates("thing")[0] == "a {0} {1} in the jungle"
    assert templates("thing")[13] == "a {0} {1} floating on top of water"
    assert templates("living")[10] == "a {0} {1} wearing a red hat"
    assert templates("living")[20:] == templates("thing")[20:]
    assert templates("thing")[-1] == "a cube shaped {0} {1}"
    dog, clock = sorted(read_dreambench(data).subjects, key=lambda s: s.name, reverse=True)
    assert dog.prompts("olis", "dog") == ["a olis dog wearing a red hat", "a purple olis dog"]
    assert (dog.nouns.kind, clock.nouns.kind) == ("living", "thing")
    assert (clock.nouns.vague, clock.nouns.specific) == ("clock", "alarm clock")


def test_missing_parts_are_named(data: Path, tmp_path: Path) -> None:
    missing = read_dreambench(data).missing
    assert sum("no images in" in part for part in missing) == len(subjects()) - 2
    assert sum("2 prompts of" in part for part in missing) == 2
    (tmp_path / "dog").mkdir()
    picture(0).save(tmp_path / "dog" / "00.jpg")
    found = read_dreambench(tmp_path, ["dog"])
    assert [part.partition(":")[0] for part in found.missing] == [FILE, "dog"]
    assert found.subjects[0].templates == templates("living")
    ran = invoke(data, "--dry-run", "--json")
    assert ran.exit_code == 3
    assert json.loads(ran.stdout)["subjects"] == {"dog": 16, "clock": 16}
    for wrong, message in ((tmp_path / "none", "does not exist"), (tmp_path / "dog", "got none")):
        with pytest.raises(InputError, match=message):
            read_dreambench(wrong)
    with pytest.raises(InputError, match="choose from"):
        read_dreambench(data, ["unicorn"])


# --- a run


def test_a_run_teaches_generates_and_scores_and_repeats_only_what_is_missing(
    data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = invoke(*training(data, model, out))
    assert first.exit_code == 3, first.output  # the lists are incomplete
    found = [json.loads((out / name / "scores.json").read_text()) for name in ("clock", "dog")]
    wanted = {"dino", "clip_i", "clip_t_vague", "clip_t_specific", "pres", "div", "copies"}
    assert all(wanted == set(x["measures"]) for x in found)
    assert [x["images"] for x in found] == [4, 4]
    assert "| real images (published) | 0.774 | 0.885 |" in first.stdout
    mean = np.mean([x["measures"]["clip_i"]["value"] for x in found])
    ours = next(line for line in first.stdout.splitlines() if line.startswith("| lora on"))
    assert f" {mean:.3f} (" in ours

    edits = {name: out / name / "edit.safetensors" for name in ("dog", "clock")}
    before = {name: file.read_bytes() for name, file in edits.items()}
    images = sorted((out / "dog" / "images").rglob("*.png"))
    assert len(images) == 5
    kept = images[1].stat().st_mtime_ns
    lost = images[0].read_bytes()
    images[0].unlink()
    (out / "dog" / "scores.json").unlink()
    again = invoke(*training(data, model, out))
    assert again.stdout == first.stdout
    assert images[0].read_bytes() == lost
    assert images[1].stat().st_mtime_ns == kept
    assert {name: file.read_bytes() for name, file in edits.items()} == before

    other = invoke(*training(data, model, out, "--set", "rank=2"))
    assert isinstance(other.exception, InputError)
    assert "Expected the settings of the run" in str(other.exception)


def test_images_of_another_tool_are_scored_and_copies_of_real_ones_reach_the_top(
    data: Path, tmp_path: Path
) -> None:
    for number in (0, 1):
        for i in range(2):
            file = tmp_path / "elite" / "dog" / str(number) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(data / "dataset" / "dog" / f"0{2 * number + i}.jpg") as real:
                real.save(file)
    more = ["--measure", "copies", "--measure", "clip_t_vague", "--json"]
    ran = invoke(data, "--generated", tmp_path / "elite", "--out", tmp_path / "out", *more)
    assert ran.exit_code == 3
    (line,) = json.loads(ran.stdout)["subjects"]
    assert line["measures"]["copies"]["value"] == 1
    assert line["measures"]["clip_t_vague"]["clusters"] == 2
    assert "missing: clock: no images in" in ran.stderr


def test_real_images_calibrate_the_encoders(data: Path) -> None:
    ran = invoke(data, "--calibrate", "--json", "--subject", "dog")
    found = json.loads(ran.stdout)["means"]["real images (here)"]
    assert [row["measure"] for row in found] == ["clip_i", "dino"]
    assert all(0 < row["value"] < 1 for row in found)
    assert published()[0].clip_i == 0.885


def test_a_model_or_images_are_required(data: Path, tmp_path: Path) -> None:
    ran = invoke(data, "--out", tmp_path / "run")
    assert isinstance(ran.exception, InputError)
    assert "--model MODEL or --generated FOLDER" in str(ran.exception)
