"""``visdiff personalize score``: identities between measures, and what is missing is named."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from editing.cli.personalize import app
from editing.metrics.dreambench import Nouns
from editing.personalize.dreambench import BenchSubject, DreamBench
from editing.personalize.dreambench_run import score_subject
from editing.personalize.dreambench_table import calibrate
from editing.personalize.encoders import Encoders
from editing.personalize.pictured import (
    Pictured,
    open_pictured,
    with_noun,
    without_identifier,
)
from editing.personalize.scoring import Scores, Tools, score
from editing.personalize.subject import Subject
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

runner = CliRunner()


def picture(seed: int) -> Image.Image:
    """A coloured square on another colour: pictures that the bundled models tell apart."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (64, 64), tuple(rng.integers(0, 256, 3).tolist()))
    image.paste(tuple(rng.integers(0, 256, 3).tolist()), (12, 12, 44 + seed % 8, 50))
    return image


@pytest.fixture(scope="module")
def tools() -> Tools:
    return Tools(Encoders.load(["miniature"]))


def subject(folder: Path, seeds: Sequence[int], mask: Image.Image | None = None) -> Subject:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        picture(seed).save(folder / f"{seed}.png")
        if mask is not None:
            mask.save(folder / f"{seed}_mask.png")
    return Subject.open(folder, "olis", "dog")


def pictured(seeds: Sequence[int], prompts: Sequence[str | None]) -> Pictured:
    return Pictured(ImageSet.open([picture(s) for s in seeds]), tuple(prompts))


def scored(generated: Pictured, real: Subject, tools: Tools, **more: Any) -> Scores:
    return score(generated, real, tools, np.random.default_rng(0), **more)


def half() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 40, 64))
    return mask


def inverse(mask: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(mask))


# --- identities


def test_a_subject_scores_1_against_itself_and_its_class_images_are_kept_apart(
    tools: Tools, tmp_path: Path
) -> None:
    real = subject(tmp_path / "real", [0])
    generated = pictured([0, 0, 0, 5], ["a olis dog", "a olis dog", "a dog", "a dog"])
    found = scored(generated, real, tools)
    assert found.measures["clip_i"].value == pytest.approx(1, abs=1e-5)
    assert found.measures["dino"].value == pytest.approx(1, abs=1e-5)
    assert found.measures["div"].value == pytest.approx(0, abs=1e-5)
    assert found.measures["dino"].n == found.measures["pres"].n == 2
    assert found.measures["pres"].value < 0.9999
    alone = scored(generated, real, tools, class_images=pictured([0], ["a dog"]))
    assert alone.measures["pres"].value == pytest.approx(1, abs=1e-5)
    assert "2 or more different references" in found.missing["copies"]


def test_unreadable_class_images_leave_the_other_measures(tools: Tools, tmp_path: Path) -> None:
    real = subject(tmp_path / "real", [0])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.png").write_bytes(b"no image")
    bad = Pictured(ImageSet.open(tmp_path / "bad"), ("a dog",))
    found = scored(pictured([0], ["a olis dog"]), real, tools, class_images=bad)
    assert "cannot be read" in found.missing["pres"]
    assert found.measures["dino"].value == pytest.approx(1, abs=1e-5)


def test_copies_are_found_and_named(tools: Tools, tmp_path: Path) -> None:
    real = subject(tmp_path / "real", [0, 1, 2, 3])
    found = scored(pictured([2, 40], ["a olis dog", "a olis dog"]), real, tools)
    assert found.copies[0]["reference"] == "2.png"
    assert found.copies[0]["likeness"] == pytest.approx(1, abs=1e-5)
    assert found.per_image["copies"].tolist()[0] == 1
    assert found.measures["clip_i"].value < 1


def test_nsd_is_1_minus_the_alignment_with_the_rest_of_the_references(
    tools: Tools, tmp_path: Path
) -> None:
    generated = pictured([7, 8], ["a olis dog", "a olis dog on grass"])
    first = scored(generated, subject(tmp_path / "a", [0, 1], half()), tools)
    other = scored(generated, subject(tmp_path / "b", [0, 1], inverse(half())), tools)
    assert first.measures["nsd"].value == pytest.approx(1 - other.measures["sa"].value)
    assert set(first.masks) == {"0.png", "1.png"}


def test_with_full_masks_sa_is_clip_i_and_there_is_no_background_to_measure(
    tools: Tools, tmp_path: Path
) -> None:
    full = Image.new("L", (64, 64), 255)
    generated = pictured([7, 8], ["a olis dog", "a olis dog"])
    real = subject(tmp_path / "real", [0, 1], full)
    found = scored(generated, real, tools, generated_masks=[full, full])
    assert found.measures["sa"].value == pytest.approx(found.measures["clip_i"].value, abs=1e-6)
    assert found.measures["sa_masked"].value == pytest.approx(found.measures["sa"].value, abs=1e-6)
    assert "keeps none" in found.missing["nsd"]


def test_against_itself_as_the_base_nsd_is_0(tools: Tools, tmp_path: Path) -> None:
    real = subject(tmp_path / "real", [0, 1], half())
    generated = pictured([7, 8], ["a olis dog", "a olis dog on grass"])
    base = pictured([7, 8], ["a dog", "a dog on grass"])
    found = scored(generated, real, tools, base=base)
    assert found.measures["nsd_relative"].value == pytest.approx(0, abs=1e-6)
    lacking = scored(generated, real, tools, base=pictured([7], ["a dog"]))
    assert "a dog on grass" in lacking.missing["nsd_relative"]


def test_images_that_should_show_the_surroundings_are_left_out_of_nsd(
    tools: Tools, tmp_path: Path
) -> None:
    real = subject(tmp_path / "real", [0, 1], half()).with_captions(
        ["a olis dog on a green couch", "a olis dog"]
    )
    prompts = ["a olis dog", "a olis dog on a red couch"]
    found = scored(pictured([7, 8], prompts), real, tools)
    assert found.measures["nsd"].n == 1
    assert found.measures["sa"].n == 2
    assert any("1 images whose prompts" in note for note in found.notes)


def test_a_thing_is_asked_for_before_a_comma_too(tools: Tools, tmp_path: Path) -> None:
    real = subject(tmp_path / "real", [0, 1], half()).with_captions(
        ["a olis dog on a green couch", "a olis dog"]
    )
    prompts = ["a olis dog", "a olis dog on a red couch, at sunset"]
    assert scored(pictured([7, 8], prompts), real, tools).measures["nsd"].n == 1


def test_masks_stay_with_their_images_when_the_class_has_its_own(
    tools: Tools, tmp_path: Path
) -> None:
    real = subject(tmp_path / "real", [0, 1], half())
    generated = pictured([5, 2, 3], ["a dog", "a olis dog", "a olis dog"])
    masks = [inverse(half()), half(), half()]
    found, expected = (
        scored(generated, real, tools, generated_masks=masks, class_images=own)
        for own in (pictured([5], ["a dog"]), None)
    )
    assert found.measures["sa_masked"] == expected.measures["sa_masked"]


def test_scores_of_a_benchmark_are_computed_again_for_other_masks_prompts_and_nouns(
    tools: Tools, tmp_path: Path
) -> None:
    folder = tmp_path / "dog"
    real = subject(folder, [0, 1])
    item = BenchSubject("dog", folder, Nouns("dog", "corgi", "living"), ("a {0} {1}",))

    def scores(real: Subject, prompt: str, item: BenchSubject = item) -> dict[str, Any]:
        own = pictured([3, 4], [prompt] * 2)
        return score_subject(tmp_path / "out", item, real, own, None, tools, 0)

    first = scores(real, "a olis dog")
    assert "Expected a mask" in first["missing"]["sa"]
    moon = scores(real, "a olis dog on the moon")
    assert moon["measures"]["ta"] != first["measures"]["ta"]
    other = replace(item, nouns=Nouns("dog", "owl", "living"))
    assert (
        scores(real, "a olis dog on the moon", other)["measures"]["clip_t_specific"]
        != moon["measures"]["clip_t_specific"]
    )
    rng = np.random.default_rng(0)
    bench = DreamBench(tmp_path, (item,), ())
    before = calibrate(bench, tools.encoders, rng)
    masked = subject(folder, [0, 1], half())
    assert "sa" in scores(masked, "a olis dog")["measures"]
    assert calibrate(bench, tools.encoders, rng)["dino"].n == before["dino"].n
    assert calibrate(bench, tools.encoders, rng)["dino"].value == before["dino"].value


def test_the_empty_mask_of_a_generated_image_leaves_it_out(tools: Tools, tmp_path: Path) -> None:
    real = subject(tmp_path / "real", [0, 1], half())
    masks = [half(), Image.new("L", (64, 64))]
    found = scored(
        pictured([7, 8], ["a olis dog", "a olis dog"]), real, tools, generated_masks=masks
    )
    assert found.measures["sa_masked"].n == 1
    assert found.measures["nsd_masked"].n == 2
    assert any("empty in 1" in note for note in found.notes)


def test_clip_t_is_of_both_nouns_and_ta_of_the_prompts_own(tools: Tools, tmp_path: Path) -> None:
    real = subject(tmp_path / "real", [0, 1])
    found = scored(pictured([7, 8], ["a olis dog", "a olis dog"]), real, tools,
                   specific="owl")  # fmt: skip
    assert found.measures["ta"] == found.measures["clip_t_vague"]
    other = scored(pictured([7, 8], ["an owl", "an owl"]), real, tools, vague="owl")
    assert other.measures["clip_t_vague"].value == pytest.approx(
        found.measures["clip_t_specific"].value
    )


def test_prompts_lose_the_identifier_and_keep_a_fitting_article() -> None:
    assert without_identifier("a olis owl on the beach", "olis", ["owl"]) == "an owl on the beach"
    assert without_identifier("a <olis> dog", "olis", ["dog"]) == "a dog"
    assert without_identifier("a red olis dog", "olis", ["dog"]) == "a red dog"
    nouns = ["toy", "duck toy"]
    assert with_noun("a duck toy in the snow", nouns, "toy") == "a toy in the snow"
    assert with_noun("a toy in the snow", nouns, "owl") == "an owl in the snow"
    assert with_noun("a cat", nouns, "toy") is None


# --- the command


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder NUMBER/i.png, and the real images."""
    subject(tmp_path / "real", [0, 1, 2])
    for number in (0, 1):
        for i in (0, 1):
            file = tmp_path / "made" / str(number) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(10 + 2 * number + i).save(file)
    (tmp_path / "prompts.txt").write_text("a olis dog on grass\na red olis dog\n")
    return tmp_path / "made", tmp_path / "real"


def invoke(*arguments: Any) -> Any:
    return runner.invoke(app, ["score", *map(str, arguments), "--noun", "dog"])


def test_a_layout_and_a_manifest_of_the_same_images_have_the_same_scores(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    made, real = folders
    own = ["--encoder", "miniature", "--json"]
    first = invoke(made, real, *own, "--prompts", tmp_path / "prompts.txt")
    assert first.exit_code == 3, first.output
    rows = [
        {"path": f"made/{n}/{i}.png", "prompt": p}
        for n, p in enumerate(("a olis dog on grass", "a red olis dog"))
        for i in (0, 1)
    ]
    manifest = tmp_path / "made.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = invoke(manifest, real, *own)
    values = [json.loads(ran.stdout)["measures"] for ran in (first, second)]
    assert values[0] == values[1]
    assert {"dino", "clip_i", "clip_t_vague", "ta", "div", "copies"} <= set(values[0])
    assert "not computed: PRES" in first.stderr
    assert "not computed: SA" in first.stderr
    with pytest.raises(InputError, match="numbers below 1"):
        open_pictured(made, None, ["a olis dog"])


def test_what_was_asked_for_and_computed_ends_in_status_0(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    made, real = folders
    options = ["--encoder", "miniature", "--measure", "dino", "--measure", "clip_i"]
    out = tmp_path / "values.csv"
    ran = invoke(made, real, *options, "--csv", "--per-image", out)
    assert ran.exit_code == 0, ran.output
    rows = list(csv.DictReader(ran.stdout.splitlines()))
    assert [row["measure"] for row in rows] == ["dino", "clip_i"]
    values = [float(row["dino"]) for row in csv.DictReader(out.read_text().splitlines())]
    assert np.mean(values) == pytest.approx(float(rows[0]["value"]))
    table = invoke(made, real, *options)
    assert "CLIP-I" in table.stdout
    assert f"{float(rows[1]['value']):.3f}" in table.stdout


def test_missing_weights_prompts_and_damaged_images_are_named_in_status_3(
    folders: tuple[Path, Path],
) -> None:
    made, real = folders
    (made / "0" / "0.png").write_bytes(b"no image")
    ran = invoke(made, real, "--encoder", "miniature", "--encoder", "dinov2", "--json")
    assert ran.exit_code == 3
    found = json.loads(ran.stdout)
    assert "prompts of 3 images are unknown" in found["missing"]["clip_t_vague"]
    assert "Expected the weights of image encoder dinov2" in found["missing"]["dinov2"]
    assert found["measures"]["dino"]["n"] == 3
    assert list(found["unreadable"]) == ["0/0.png"]
    assert "left out: 0/0.png" in ran.stderr


def test_mistakes_are_one_sentence(folders: tuple[Path, Path]) -> None:
    made, real = folders
    for options, message in (
        (["--encoder", "resnet"], "Expected encoders"),
        (["--encoder", "miniature", "--encoder", "clip"], "miniature without clip"),
        (["--encoder", "miniature", "--measure", "fid"], "Expected measures"),
        (["--encoder", "miniature", "--csv", "--json"], "got both"),
        (["--encoder", "dino", "--measure", "dino"], "Expected weights of one encoder"),
    ):
        ran = invoke(made, real, *options)
        assert isinstance(ran.exception, InputError), ran.output
        assert message in str(ran.exception)


def test_of_pairs_the_edited_images_are_scored(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, real = folders
    for group in ("original", "edited"):
        (tmp_path / "pairs" / group).mkdir(parents=True)
    shutil.copy(real / "0.png", tmp_path / "pairs" / "edited" / "0.png")
    picture(33).save(tmp_path / "pairs" / "original" / "0.png")
    rows = [{"path": f"{g}/0.png", "group_name": g, "prompt": "a olis dog"}
            for g in ("original", "edited")]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "pairs" / "manifest.jsonl").write_text(lines)
    options = ["--encoder", "miniature", "--measure", "copies", "--json"]
    ran = invoke(tmp_path / "pairs", real, *options)
    assert "images of the edited model" in ran.stderr
    assert json.loads(ran.stdout)["copies"][0]["image"] == "edited/0.png"
