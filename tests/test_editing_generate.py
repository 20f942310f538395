"""Generation: an image depends only on model, prompt, seed and settings, and is reused."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from editing.cli import generate as generate_cli
from editing.generate import EDITED, Progress, Run, Variant, generate, generate_pairs
from editing.generate import folder as imagefolder
from editing.generate.prompts import Prompt, Sample, expand
from editing.pipelines.sampling import Settings, draw
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

SIDE = 32
QUICK = Settings(steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd1()


@dataclass(frozen=True)
class Scaled:
    """An edit that multiplies the values of the cross-attention; 1 changes nothing."""

    factor: float

    @property
    def digest(self) -> str:
        return f"scaled by {self.factor}"

    def check_base(self, pipe: Any) -> None:
        if hasattr(pipe, "text_encoder_2"):
            raise InputError("Expected the tiny base, got another.")

    @contextmanager
    def applied(self, pipe: Any, scale: float = 1.0, force: bool = False) -> Iterator[Any]:
        layers = [m for n, m in pipe.unet.named_modules() if n.endswith("attn2.to_v")]
        before = [layer.weight.detach().clone() for layer in layers]
        with torch.no_grad():
            for layer in layers:
                layer.weight.mul_(1 + scale * (self.factor - 1))
        try:
            yield pipe
        finally:
            with torch.no_grad():
                for layer, weight in zip(layers, before, strict=True):
                    layer.weight.copy_(weight)


def samples(prompts: int = 3, seeds: int = 3) -> list[Sample]:
    words = ["a church", "a dog on the grass", ""]
    lines = [Prompt(w, columns={"class": w, "case_number": i}) for i, w in enumerate(words)]
    return expand(lines[:prompts], range(seeds))


def pixels(images: ImageSet) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def unchanged(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.unet.parameters()]


# --- what an image depends on


@pytest.mark.parametrize("make", [tiny.sd1, tiny.sdxl, tiny.flux])
def test_an_image_does_not_depend_on_its_batch(make: Any, tmp_path: Path) -> None:
    model = make()
    one = generate(model, samples(), tmp_path / "1", settings=QUICK, batch_size=1)
    seven = generate(model, samples(), tmp_path / "7", settings=QUICK, batch_size=7)
    assert one.images().ids == seven.images().ids
    found, other = pixels(one.images()), pixels(seven.images())
    assert found.shape == (9, SIDE, SIDE, 3)
    assert np.abs(found - other).max() <= 1
    # The test means something: seeds and prompts make different images.
    assert len({image.tobytes() for image in found}) == 9
    assert np.abs(found[0] - found[1]).mean() > 3
    assert np.abs(found[0] - found[3]).max() > 3


def test_scheduler_noise_does_not_depend_on_the_batch(pipe: Any, tmp_path: Path) -> None:
    settings = Settings(steps=3, guidance=3.0, scheduler="EulerAncestralDiscrete")
    one = generate(pipe, samples(1), tmp_path / "1", settings=settings, batch_size=1)
    three = generate(pipe, samples(1)[::-1], tmp_path / "3", settings=settings, batch_size=3)
    assert np.abs(pixels(one.images()) - pixels(three.images())[::-1]).max() <= 1
    ddim = generate(pipe, samples(1), tmp_path / "ddim", settings=QUICK)
    assert np.abs(pixels(one.images()) - pixels(ddim.images())).mean() > 1


def test_images_are_those_of_a_plain_call_of_the_pipeline(pipe: Any) -> None:
    plain = pipe(
        prompt=["a church", "a dog"],
        generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
        num_inference_steps=3,
        guidance_scale=3.0,
        negative_prompt=["a boat", "a boat"],
        height=SIDE,
        width=SIDE,
    ).images
    settings = Settings(steps=3, guidance=3.0, negative_prompt="a boat")
    ours = draw(pipe, ["a church", "a dog"], [5, 6], settings=settings)
    assert np.abs(np.stack([np.asarray(i) for i in plain]).astype(int) - ours).max() <= 1


def test_without_guidance_the_negative_prompt_has_no_effect(pipe: Any) -> None:
    images = [
        draw(pipe, ["a dog"], [0], settings=Settings(3, 1.0, negative_prompt=negative))
        for negative in (None, "a church")
    ]
    assert (images[0] == images[1]).all()


def test_bfloat16_does_not_depend_on_the_other_prompts_of_the_batch(
    pipe: Any, tmp_path: Path
) -> None:
    settings = Settings(steps=2, guidance=3.0, precision="bfloat16")
    alone = generate(pipe, samples(1, 1), tmp_path / "a", settings=settings, batch_size=4)
    among = generate(pipe, samples(2, 3), tmp_path / "b", settings=settings, batch_size=4)
    assert (pixels(alone.images())[0] == pixels(among.images())[0]).all()


def test_a_samples_own_guidance_takes_precedence(pipe: Any, tmp_path: Path) -> None:
    own = [Sample("a dog", 0, guidance=1.0), Sample("a dog", 0)]
    found = generate(pipe, own, tmp_path, settings=QUICK)
    assert found.images().frame["guidance"].tolist() == [1.0, 3.0]
    images = pixels(found.images())
    expected = draw(pipe, ["a dog"], [0], settings=Settings(3, 1.0))
    assert np.abs(images[0] - expected[0]).max() <= 1
    assert np.abs(images[0] - images[1]).max() > 1


def test_the_pipeline_is_restored(pipe: Any, tmp_path: Path) -> None:
    own, weights = pipe.scheduler, unchanged(pipe)
    generate_pairs(
        pipe, Scaled(3.0), samples(1, 1), tmp_path, settings=Settings(2, scheduler="ddpm")
    )
    assert pipe.scheduler is own
    assert pipe._progress_bar_config == {"disable": True}
    assert all(torch.equal(a, b) for a, b in zip(weights, pipe.unet.parameters(), strict=True))


# --- pairs


def test_an_edit_that_changes_nothing_gives_equal_pairs(pipe: Any, tmp_path: Path) -> None:
    found = generate_pairs(pipe, Scaled(1.0), samples(), tmp_path, settings=QUICK, batch_size=4)
    original, edited = found.images(), found.images(EDITED)
    assert (pixels(original) == pixels(edited)).all()
    columns = ["prompt", "seed", "class"]
    assert original.frame[columns].equals(edited.frame[columns])
    assert original.frame["prompt"].tolist() == [s.prompt for s in samples()]
    assert all(original.frame["edit"].isna())
    assert edited.frame["edit"].tolist() == ["scaled by 1.0"] * 9


def test_edited_images_are_those_of_the_edited_pipeline(pipe: Any, tmp_path: Path) -> None:
    edit = Scaled(4.0)
    found = generate_pairs(pipe, edit, samples(2, 2), tmp_path, settings=QUICK, scale=0.5)
    prompts, seeds = zip(*[(s.prompt, s.seed) for s in samples(2, 2)], strict=True)
    with edit.applied(pipe, scale=0.5):
        expected = draw(pipe, prompts, seeds, settings=QUICK)
    assert np.abs(pixels(found.images(EDITED)) - expected).max() <= 1
    assert np.abs(pixels(found.images()) - expected).mean() > 0.5


def test_an_edit_of_another_base_is_refused_before_images_are_generated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny base"):
        generate_pairs(tiny.sdxl(), Scaled(2.0), samples(), tmp_path, settings=QUICK)
    assert not list(tmp_path.rglob("*.png"))


def test_original_images_are_reused_for_the_next_edit(pipe: Any, tmp_path: Path) -> None:
    generate(pipe, samples(1), tmp_path, settings=QUICK)
    first = generate_pairs(pipe, Scaled(2.0), samples(1), tmp_path, settings=QUICK)
    second = generate_pairs(pipe, Scaled(3.0), samples(1), tmp_path, settings=QUICK)
    stronger = generate_pairs(pipe, Scaled(3.0), samples(1), tmp_path, settings=QUICK, scale=2)
    for run in (first, second, stronger):
        assert (run.made, run.reused) == (3, 3)


# --- files


def test_the_manifest_records_how_each_image_was_generated(pipe: Any, tmp_path: Path) -> None:
    lines = [
        Prompt("a dog", columns={"path": "x.png", "id": 4, "artist": "Ünal", "caption": "no"}),
        Prompt("", columns={"class": None}),
    ]
    found = generate(pipe, expand(lines, [3, 4]), tmp_path, settings=QUICK)
    frame = ImageSet.open(found.manifest).frame
    assert frame["prompt"].tolist() == ["a dog", "a dog", "", ""]
    assert frame["seed"].tolist() == [3, 4, 3, 4]
    assert set(frame["scheduler"]) == {"DDIMScheduler"}
    assert set(frame["steps"]) == {3}
    assert set(frame["guidance"]) == {3.0}
    assert frame["source_path"].tolist()[:2] == ["x.png"] * 2
    assert frame["source_id"].tolist()[:2] == [4] * 2
    assert frame["source_caption"].tolist()[:2] == ["no"] * 2
    assert frame["artist"].tolist()[:2] == ["Ünal"] * 2
    assert "caption" not in frame.columns
    from editing.pipelines.weights import weight_hash

    assert set(frame["model"]) == {weight_hash(pipe)}
    assert len(set(frame["key"])) == 4


def test_what_is_there_whole_is_not_made_again(pipe: Any, tmp_path: Path) -> None:
    first = generate(pipe, samples(), tmp_path, settings=QUICK, batch_size=4)
    assert (first.made, first.reused) == (9, 0)
    before = first.manifest.read_bytes()
    files = sorted((tmp_path / "original").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    again = generate(pipe, samples(), tmp_path, settings=QUICK, batch_size=2)
    assert (again.made, again.reused) == (0, 9)
    assert [file.stat().st_mtime_ns for file in files] == times
    assert again.manifest.read_bytes() == before
    more = generate(pipe, samples(seeds=4), tmp_path, settings=QUICK)
    assert (more.made, more.reused) == (3, 9)
    other = generate(pipe, samples(), tmp_path, settings=Settings(4, 3.0))
    assert (other.made, other.reused) == (9, 0)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_file_is_generated_again(pipe: Any, tmp_path: Path, damage: str) -> None:
    first = generate(pipe, samples(1), tmp_path, settings=QUICK)
    images = pixels(first.images())
    file = sorted((tmp_path / "original").iterdir())[1]
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0x10
    bad = {"cut": data[: len(data) // 2], "empty": b"", "flipped": data, "text": b"no image"}
    file.write_bytes(bytes(bad[damage]))
    run = Run(pipe, [Variant()], samples(1), tmp_path, QUICK)
    assert (run.plan.present, run.plan.damaged, run.plan.missing) == (2, 1, 1)
    again = run.start()
    assert (again.made, again.reused) == (1, 2)
    assert np.abs(pixels(again.images()) - images).max() <= 1


class Interrupted(Exception):
    """An exception that interrupts a run."""


def test_an_interrupted_run_keeps_its_images_and_resumes(pipe: Any, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done >= 8:
            raise Interrupted

    arguments = {"settings": QUICK, "batch_size": 2}
    with pytest.raises(Interrupted):
        generate_pairs(pipe, Scaled(2.0), samples(), tmp_path, on_batch=stop, **arguments)
    there = ImageSet.open(tmp_path / "manifest.jsonl")
    assert there.frame["group_name"].value_counts().to_dict() == {"original": 4, "edited": 4}
    again = generate_pairs(pipe, Scaled(2.0), samples(), tmp_path, **arguments)
    assert (again.made, again.reused) == (10, 8)
    fresh = generate_pairs(pipe, Scaled(2.0), samples(), tmp_path / "fresh", **arguments)
    for name in ("original", EDITED):
        assert np.abs(pixels(again.images(name)) - pixels(fresh.images(name))).max() <= 1


def test_a_full_disk_is_an_input_error_and_the_run_resumes_later(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, room = os.replace, [2]

    def limited(source: Any, target: Any) -> None:
        if str(target).endswith(".png"):
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            room[0] -= 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", limited)
    with pytest.raises(InputError, match="full disk") as raised:
        generate(pipe, samples(), tmp_path, settings=QUICK, batch_size=1)
    assert "free space" in str(raised.value)
    assert len(ImageSet.open(tmp_path / "manifest.jsonl")) == 2
    assert len(list((tmp_path / "original").iterdir())) == 2, "no temporary files are left"
    monkeypatch.undo()
    again = generate(pipe, samples(), tmp_path, settings=QUICK)
    assert (again.made, again.reused) == (7, 2)


def test_a_folder_that_cannot_be_written_to_is_refused(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder to write images to"):
        generate(pipe, samples(), tmp_path / "file" / "out", settings=QUICK)


def test_pixels_that_are_not_finite_give_no_image(tmp_path: Path) -> None:
    model = tiny.sd1()

    class Overflowing(Scaled):
        @contextmanager
        def applied(self, pipe: Any, scale: float = 1.0, force: bool = False) -> Iterator[Any]:
            bias = pipe.vae.decoder.conv_out.bias.data
            before = bias.clone()
            bias.fill_(float("nan"))
            try:
                yield pipe
            finally:
                bias.copy_(before)

    found = generate_pairs(model, Overflowing(1.0), samples(1, 2), tmp_path, settings=QUICK)
    assert (found.made, len(found.failed)) == (2, 2)
    assert found.manifest.read_text() == "", "an incomplete pair has no rows"
    assert not list((tmp_path / EDITED).glob("*.png")) if (tmp_path / EDITED).exists() else True
    assert all("not finite" in reason for reason in found.failed.values())
    with pytest.raises(InputError, match=r"got none: Images of 2 prompts and seeds .* not finite"):
        found.images()
    found = generate_pairs(model, Scaled(1.0), samples(1, 2), tmp_path, settings=QUICK)
    assert not found.warnings
    assert len(found.images()) == 2


def test_equal_samples_share_an_image_and_have_a_row_each(pipe: Any, tmp_path: Path) -> None:
    twice = [Sample("a dog", 1, columns={"case_number": n}) for n in (4, 9)]
    found = generate(pipe, twice, tmp_path, settings=QUICK)
    assert found.made == 1
    assert found.images().frame["case_number"].tolist() == [4, 9]


def test_each_prompt_is_encoded_once_per_state_of_the_pipeline(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = pipe.encode_prompt

    def counted(*arguments: Any, **rest: Any) -> Any:
        # The pipeline's own call comes here too, with encodings and without a prompt.
        if rest.get("prompt"):
            guided = rest["do_classifier_free_guidance"]
            encoded.extend(["negative"] if guided else rest["prompt"])
        return encode(*arguments, **rest)

    monkeypatch.setattr(pipe, "encode_prompt", counted)
    mixed = [Sample(text, seed) for seed in range(4) for text in ("a dog", "a church")]
    generate(pipe, mixed, tmp_path, settings=QUICK, batch_size=3)
    assert sorted(encoded) == ["a church", "a dog", "negative"]


# --- mistakes


def test_invalid_settings_are_refused(pipe: Any, tmp_path: Path) -> None:
    for settings, message in [
        ({"scheduler": "ddimm"}, "DDIMScheduler"),
        ({"height": 30}, "divisible"),
    ]:
        with pytest.raises(InputError, match=message):
            generate(pipe, samples(), tmp_path, settings=Settings(**settings))
    with pytest.raises(InputError, match="1 step"):
        Settings(steps=0)
    with pytest.raises(InputError, match="guidance"):
        Settings(guidance=-1)
    with pytest.raises(InputError, match="batch"):
        generate(pipe, samples(), tmp_path, batch_size=0)
    with pytest.raises(InputError, match="samples"):
        generate(pipe, [], tmp_path)
    with pytest.raises(InputError, match="distinct"):
        Run(pipe, [Variant(), Variant()], samples(), tmp_path)


# --- the command


def command(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(generate_cli.generate)
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, pipe: Any) -> str:
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return str(folder)


def test_the_command_plans_generates_and_resumes(saved: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text(
        "case_number,prompt,evaluation_seed,class\n0,a dog,7,dog\n1,a church,8,church\n"
    )
    out = tmp_path / "out"
    common = (saved, "--prompts", str(file), "--steps", "2", "--out", str(out), "--json")
    planned = command(*common, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["missing"] == 2
    assert not list(out.rglob("*.png"))
    first = command(*common, "--seeds", "0-3", "--batch", "1")
    assert first.exit_code == 0, first.output
    assert "have their own seed" in first.stderr
    assert "2 to generate" in first.stderr
    assert "s per image" in first.stderr
    result = json.loads(first.stdout)
    assert (result["made"], result["reused"]) == (2, 0)
    assert ImageSet.open(result["manifest"]).frame["seed"].tolist() == [7, 8]
    again = command(*common, "--own-seeds", "ignore", "--seeds", "7-8")
    result = json.loads(again.stdout)
    assert (result["made"], result["reused"]) == (2, 2)


def test_invalid_options_of_the_command_are_input_errors(saved: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    for arguments, message in [
        ((saved, *out), "neither"),
        ((saved, *out, "--prompt", "a dog", "--prompts", "x.csv"), "both"),
        ((saved, *out, "--prompt", "a dog", "--only", "edited"), "--edit"),
        ((saved, *out, "--prompt", "a dog", "--seeds", "x"), "seeds"),
        ((saved, *out, "--prompt", "a dog", "--device", "cuda:99"), "device"),
    ]:
        result = command(*arguments)
        assert isinstance(result.exception, InputError), result.output
        assert message in str(result.exception)


def test_written_files_are_complete_and_have_their_names(tmp_path: Path) -> None:
    with imagefolder.ImageWriter() as writer:
        writer.write({tmp_path / "a" / f"{i}.png": Image.new("RGB", (8, 8)) for i in range(5)})
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"{i}.png" for i in range(5)]
    assert all(imagefolder.is_complete(p) for p in (tmp_path / "a").iterdir())
    assert not imagefolder.is_complete(tmp_path / "none.png")


def test_file_names_are_readable_and_unique() -> None:
    name = imagefolder.file_name("A dog, on the Grass!", 3, "v1-" + "0" * 24 + "f" * 16)
    assert name == "a-dog-on-the-grass_0003_ffffffffffffffff.png"
    assert imagefolder.file_name("", 3, "k" * 20).startswith("empty-prompt_0003_")
    assert len(imagefolder.file_name("é" * 999 + "x" * 999, 2**40, "k" * 43)) < 120
