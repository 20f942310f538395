"""Tests of `visdiff caption` and `visdiff rank`, and of the early check of models."""

import json
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from fakes import place_captions, write_set
from typer.testing import CliRunner

import visdiff
from visdiff.captioners import table as captioning
from visdiff.captioners.manifest import ManifestCaptioner
from visdiff.cli.app import app
from visdiff.comparison.backends import Backends
from visdiff.comparison.ranking import rank, with_hypotheses
from visdiff.comparison.split import split_pair
from visdiff.config import Config
from visdiff.config.proposers import ManualConfig
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.llm import Failure
from visdiff.llm.scripted import ScriptedChat

WORDS = ("--captioner", "manifest", "--ranker", "captions-lexical")


class ConstantChat(ScriptedChat):
    """A chat model with one reply for every image."""

    def __init__(self, **_: Any) -> None:
        super().__init__(lambda request: "a square", True, "talker")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISDIFF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fakes.ColourCaptioner, "computed", 0)
    monkeypatch.setattr(fakes.ColourChat, "asked", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder of ten images, one damaged, and a manifest with prompts."""
    path = tmp_path / "images"
    colours = ["red", "blue"] * 5
    write_set(path, [""] * 10, seed=1, colours=colours, prompt=[f"p, “{i}”" for i in range(10)])
    (path / "004.png").write_bytes(b"no image")
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


# caption --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_captions_are_a_manifest_that_opens_unchanged(folder: Path, suffix: str) -> None:
    out = folder / f"captions.{suffix}"
    ran = run("caption", folder / "manifest.csv", "--captioner", "fakes:ColourCaptioner", "--out",
              out, "--json")  # fmt: skip
    assert ran.exit_code == 3, ran.output
    result = json.loads(ran.stdout)
    assert (result["images"], result["captioned"]) == (10, 9)
    assert list(result["failed"]) == ["004.png"]
    before, after = ImageSet.open(folder / "manifest.csv"), ImageSet.open(out)
    assert after.ids == before.ids
    assert [after.path(i) for i in range(10)] == [before.path(i) for i in range(10)]
    assert after.frame["prompt"].tolist() == before.frame["prompt"].tolist()
    found = ManifestCaptioner().captions(after)
    assert found.values[:4] == ["a red square", "a blue square"] * 2
    # A failure is an empty cell, never a text.
    assert found.values[4] is None
    assert set(found.failures) == {4}


def test_a_second_run_computes_only_what_failed(folder: Path) -> None:
    options = ("caption", folder, "--captioner", "fakes:ColourCaptioner", "--out", folder / "c.csv")
    ran = run(*options)
    assert ran.exit_code == 3
    assert "9 of 10 images captioned" in ran.stdout
    assert "004.png" in ran.stderr
    assert fakes.ColourCaptioner.computed == 9
    fakes.picture("green", np.random.default_rng(0)).save(folder / "004.png")
    ran = run(*options)
    assert ran.exit_code == 0, ran.output
    assert fakes.ColourCaptioner.computed == 10
    assert "a green square" in (folder / "c.csv").read_text("utf-8")


def test_paths_are_relative_if_the_images_are_below_the_manifest(
    folder: Path, tmp_path: Path
) -> None:
    images = ImageSet.open(folder)
    captions: list[str | None] = [None] * 10
    relative = captioning.table(images, captions, tmp_path)
    assert relative["path"].tolist()[0] == "images/000.png"
    absolute = captioning.table(images, captions, tmp_path / "elsewhere")
    assert absolute["path"].tolist()[0] == str(folder / "000.png")
    captioning.write(absolute, tmp_path / "elsewhere" / "c.csv")
    moved = ImageSet.open(tmp_path / "elsewhere" / "c.csv")
    assert moved.digest(0) == images.digest(0)
    in_memory = ImageSet.open([fakes.picture("red", np.random.default_rng(0))])
    with pytest.raises(InputError, match="in memory"):
        captioning.table(in_memory, [None], tmp_path)


def test_captions_with_commas_and_line_breaks_survive(folder: Path) -> None:
    images = ImageSet.open(folder)
    captions: list[str | None] = ['a "red", dog\nby the sea', "NA", "007", None, "ü – 猫"] * 2
    for suffix in captioning.SUFFIXES:
        out = folder / f"odd{suffix}"
        captioning.write(captioning.table(images, captions, folder), out)
        assert ManifestCaptioner().captions(ImageSet.open(out)).values == captions


def test_invalid_targets_are_reported_before_captioning(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out, message in (
        (tmp_path / "captions.txt", "a manifest to write"),
        (tmp_path / "file" / "c.csv", "a file that can be written"),
        (folder, "a manifest to write"),
    ):
        ran = run("caption", folder, "--captioner", "fakes:ColourCaptioner", "--out", out)
        assert isinstance(ran.exception, InputError)
        assert message in str(ran.exception)
    assert fakes.ColourCaptioner.computed == 0


def test_the_plan_of_captions(folder: Path) -> None:
    options = ("caption", folder, "--out", folder / "c.csv", "--dry-run", "--json")
    plan = json.loads(run(*options, "--captioner", "fakes:ColourCaptioner").stdout)
    left_out = f"1 file of {folder} that is no readable image was left out: 1 .csv."
    assert plan == {"images": 10, "paid_calls": 0, "notes": [left_out]}
    plan = json.loads(run(*options, "--captioner", "chat", "--llm", "x").stdout)
    assert plan == {"images": 10, "paid_calls": 10, "notes": [left_out]}
    assert not (folder / "c.csv").exists()


def test_a_spent_budget_leaves_empty_cells(folder: Path) -> None:
    options = (
        "caption",
        folder,
        "--captioner",
        "chat",
        "--set",
        "llm.backend=test_parts_cli:ConstantChat",
    )
    ran = run(*options, "--out", folder / "c.jsonl", "--max-calls", 3, "--json")
    assert ran.exit_code == 3, ran.output
    assert json.loads(ran.stdout)["captioned"] == 3
    assert ImageSet.open(folder / "c.jsonl").frame["caption"].tolist().count("a square") == 3
    assert "budget is spent" in ran.stderr


# rank -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return (
        write_set(
            folder / "wall", place_captions(80, 1, place="by a brick wall", share=0.9), seed=1
        ),
        write_set(folder / "lawn", place_captions(80, 2, place="on the grass", share=0.9), seed=2),
    )


def test_every_sentence_has_statistics(sets: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# places\nby a brick wall\n\nB: on the grass\n", "utf-8")
    sentences = ("--hypotheses", file, "--hypotheses", "A: a cook")
    ran = run("rank", *sets, *WORDS, *sentences, "--json", "--out", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    rows = {(s["text"], s["direction"]): s for s in result["sentences"]}
    assert set(rows) == {
        ("by a brick wall", "A"),
        ("by a brick wall", "B"),
        ("on the grass", "B"),
        ("a cook", "A"),
    }
    for row in rows.values():
        assert row["ci_low"] <= row["auroc"] <= row["ci_high"]
        assert 0 <= row["p_value"] <= row["q_value"] <= 1
    assert rows["by a brick wall", "A"]["confirmed"]
    assert rows["on the grass", "B"]["confirmed"]
    assert not rows["a cook", "A"]["confirmed"]
    # Rejected sentences have an interval too, mirrored in the other direction.
    one, other = (rows["by a brick wall", side] for side in "AB")
    assert other["auroc"] == pytest.approx(1 - one["auroc"])
    assert other["ci_low"] == pytest.approx(1 - one["ci_high"])
    assert result["sentences"][0]["confirmed"]
    # A report that cannot be written loses no result.
    (tmp_path / "taken" / "report.json").mkdir(parents=True)
    unsaved = run("rank", *sets, *WORDS, *sentences, "--json", "--out", tmp_path / "taken")
    assert isinstance(unsaved.exception, InputError)
    assert json.loads(unsaved.stdout)["sentences"] == result["sentences"]
    # The same statistics as `compare`, and the same files.
    report = visdiff.compare(
        *sets,
        captioner="manifest",
        ranker="captions-lexical",
        proposer={
            "backend": "manual",
            "hypotheses": ("by a brick wall", "B: on the grass", "A: a cook"),
        },
        progress=False,
    )
    assert [d["q_value"] for d in result["report"]["differences"]] == [
        d.q_value for d in report.differences
    ]
    names = {
        "forest.pdf",
        "forest.svg",
        "report.html",
        "report.json",
        "report.md",
        "differences.csv",
        "scores.parquet",
    }
    assert {f.name for f in (tmp_path / "out").iterdir()} == names
    table = run("rank", *sets, *WORDS, *sentences)
    assert table.exit_code == 0
    for text in ("AUROC", "interval", "p", "q", "a cook", "on the grass"):
        assert text in table.stdout


def test_invalid_sentences_are_reported(sets: tuple[Path, Path]) -> None:
    for options, message in (
        ((), "Missing option"),
        (("--hypotheses", "mine.txt"), "which does not exist"),
        (("--hypotheses", "folder/mine.lst"), "which does not exist"),
        (("--hypotheses", "A: "), "hypothesis such as"),
    ):
        ran = run("rank", *sets, *WORDS, *options)
        assert message in (str(ran.exception) + ran.output)
        assert ran.exit_code != 0
    config = with_hypotheses(Config.of("miniature").changed(rounds="auto"), ["a dog/cat"])
    assert isinstance(config.proposer, ManualConfig)
    assert config.proposer.hypotheses == ("a dog/cat",)
    assert config.rounds == 1


def test_unscored_sentences_end_in_status_3(
    sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.ColourChat, "fails", Failure("timed out", "timeout"))
    options = (
        "--captioner",
        "manifest",
        "--ranker",
        "captions-llm",
        "--hypotheses",
        "A: by a wall",
    )
    ran = run("rank", *sets, *options, "--set", "llm.backend=fakes:ColourChat", "--json")
    assert ran.exit_code == 3
    (row,) = json.loads(ran.stdout)["sentences"]
    assert row["auroc"] is None
    assert row["n_a"] == row["n_b"] == 0
    assert row["n_unscored"] > 0


def test_the_plan_of_a_ranking(sets: tuple[Path, Path]) -> None:
    options = (
        "rank",
        *sets,
        "--hypotheses",
        "A: x",
        "--captioner",
        "manifest",
        "--dry-run",
        "--json",
    )
    plan = json.loads(run(*options, "--ranker", "captions-lexical").stdout)
    assert (plan["hypotheses"], plan["captions"], plan["paid_calls"]) == (2, plan["scored"], 0)
    asked = json.loads(
        run(*options, "--ranker", "captions-llm", "--set", "llm.backend=fakes:ColourChat").stdout
    )
    assert asked["paid_calls"] == 2 * asked["scored"]
    assert fakes.ColourChat.asked == 0


def test_ranking_from_python(sets: tuple[Path, Path]) -> None:
    config = Config.of("laptop").changed(captioner="manifest", ranker="captions-lexical")
    a, b = (ImageSet.open(s, name=s.parent.name) for s in sets)
    config = with_hypotheses(config, ["by a brick wall"])
    with Backends.using(config, progress=False) as backends:
        ranking = rank(split_pair(a, b, config), config, backends)
    assert [s.direction for s in ranking.sentences] == ["A", "B"]
    assert ranking.report.set_a.name == "wall"


# Missing models -------------------------------------------------------------------------------


@pytest.fixture
def accesses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list of the image accesses; it stays empty if no image is decoded or read."""
    accesses: list[str] = []
    image, raw = ImageSet.image, ImageSet.raw

    def record_image(self: ImageSet, index: int) -> Any:
        accesses.append(f"image {index}")
        return image(self, index)

    def record_raw(self: ImageSet, index: int) -> Any:
        accesses.append(f"raw {index}")
        return raw(self, index)

    monkeypatch.setattr(ImageSet, "image", record_image)
    monkeypatch.setattr(ImageSet, "raw", record_raw)
    return accesses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranker": "captions-lexical"}, "blip-image-captioning-base"),
        ({"captioner": "manifest"}, "open_clip model ViT-B-32"),
        ({"captioner": "manifest", "ranker__model": "ViT-B-33"}, "Expected a model of open_clip"),
        ({"captioner": "manifest", "ranker__pretrained": "nobody"}, "a weights tag"),
        ({"captioner__model": "/nowhere/at/all"}, "which is not a folder"),
        (
            {
                "captioner": "manifest",
                "ranker": "fakes:ColourRanker",
                "verify": {"backend": "vqa", "model": "Salesforce/blip2-opt-2.7b"},
            },
            "blip2-opt-2.7b",
        ),
    ],
    ids=["captioner", "ranker", "model", "tag", "folder", "second ranker"],
)
def test_missing_models_are_reported_before_the_preflight(
    sets: tuple[Path, Path], accesses: list[str], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, MissingBackendError), match=message):
        visdiff.compare(*sets, **settings, progress=False)
    assert accesses == []


def test_a_missing_key_is_reported_before_the_preflight(
    sets: tuple[Path, Path], accesses: list[str]
) -> None:
    options: dict[str, Any] = {"captioner": "fakes:ColourCaptioner", "ranker": "fakes:ColourRanker"}
    with pytest.raises(VisdiffError, match="OPENAI_API_KEY"):
        visdiff.compare(
            *sets, **options, proposer="captions-llm", llm__model="gpt-4", progress=False
        )
    assert accesses == []
    assert fakes.ColourCaptioner.computed == 0


def test_caption_reports_missing_weights_at_once(folder: Path, accesses: list[str]) -> None:
    ran = run("caption", folder, "--out", folder / "c.csv")
    assert isinstance(ran.exception, MissingBackendError)
    assert accesses == []


def test_a_model_whose_values_are_cached_is_not_loaded(
    sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"captioner": "manifest", "ranker": "fakes:ColourRanker", "progress": False}
    first = visdiff.compare(*sets, **options)

    def prepare(self: Any, image: Any) -> Any:
        raise AssertionError("the model was loaded though every value is cached")

    monkeypatch.setattr(fakes.ColourRanker, "prepare", prepare)
    again = visdiff.compare(*sets, **options)
    assert again.differences == first.differences
    assert again.provenance.cache_misses == 0


def test_accesses_records_an_ordinary_run(sets: tuple[Path, Path], accesses: list[str]) -> None:
    # The tests above rely on this.
    visdiff.compare(*sets, captioner="manifest", ranker="captions-lexical", progress=False)
    assert accesses
