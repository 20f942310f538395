"""Tests of the command line: stdout, error messages and exit status."""

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import place_captions, write_set
from PIL import Image

from visdiff.cli import app as cli

ROOT = Path(__file__).parents[1]
WORDS = ("--captioner", "manifest", "--ranker", "captions-lexical")
# Fields of every entry of `differences`.
FIELDS = {
    "text",
    "direction",
    "auroc",
    "ci_low",
    "ci_high",
    "p_value",
    "q_value",
    "confirmed",
    "synonyms",
}


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error message of a failed command; other output fails the test."""
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("visdiff: ")
        return lines[0].removeprefix("visdiff: ")


Run = Callable[..., Result]


def process(folder: Path, *arguments: object) -> Result:
    """Runs the command in a separate process."""
    ran = subprocess.run(
        [sys.executable, "-m", "visdiff.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return Result(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """Yields a function that runs the command in this process, in an empty folder."""
    logger = logging.getLogger("visdiff")
    before = list(logger.handlers)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["visdiff", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        captured = capsys.readouterr()
        logger.handlers[:] = before
        return Result(0 if code is None else int(code), captured.out, captured.err)

    yield call
    logger.handlers[:] = before


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return (
        write_set(folder / "wall", place_captions(60, 1, place="by a brick wall"), seed=1),
        write_set(folder / "lawn", place_captions(60, 2, place="on the grass"), seed=2),
    )


def test_stdout_contains_only_json(run: Run, sets: tuple[Path, Path]) -> None:
    ran = run("compare", *sets, *WORDS, "--json", "--null", 2, "--seed", 3)
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert "confirmed" in report["verdict"]
    assert {d["direction"] for d in report["differences"] if d["confirmed"]} == {"A", "B"}
    for difference in report["differences"]:
        assert difference.keys() >= FIELDS
        assert isinstance(difference["synonyms"], list)
    assert report["null"]["repeats"] == 2
    assert report["config"]["seed"] == 3
    # The plan goes to stderr, which is no terminal and shows no bars.
    assert "preflight" not in ran.err
    assert "60 images against 60" in ran.err


def test_json_of_a_separate_process(sets: tuple[Path, Path], tmp_path: Path) -> None:
    ran = process(tmp_path, "compare", *sets, *WORDS, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["differences"]
    assert "Traceback" not in ran.err


def test_the_table(run: Run, sets: tuple[Path, Path]) -> None:
    ran = run("compare", *sets, *WORDS, "--null", 1)
    assert ran.code == 0, ran.err
    assert "brick wall" in ran.out
    assert "AUROC" in ran.out
    assert "wall" in ran.out.splitlines()[0]
    assert "shuffled" in ran.out
    with pytest.raises(json.JSONDecodeError):
        json.loads(ran.out)


def test_out_writes_the_report(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    ran = run("compare", *sets, *WORDS, "--json", "--out", out)
    assert ran.code == 0, ran.err
    names = {
        "forest.pdf",
        "forest.svg",
        "report.html",
        "report.json",
        "report.md",
        "differences.csv",
        "scores.parquet",
    }
    assert {f.name for f in out.iterdir()} == names
    assert json.loads((out / "report.json").read_text("utf-8")) == json.loads(ran.out)
    assert str(out / "report.html") in ran.err
    command = shlex.split(json.loads(ran.out)["provenance"]["command"])
    given = ["visdiff", "compare", *sets, *WORDS, "--json", "--out", out]
    assert sorted(command) == sorted(map(str, given))
    ran = run("compare", *sets, *WORDS, "--out", out)
    assert str(out / "report.html") in ran.out


def test_dry_run_computes_nothing(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ("compare", *sets, "--captioner", "fakes:ColourCaptioner", "--dry-run")
    ran = run(*arguments, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert "60 images against 60" in ran.out
    assert not list((tmp_path / "out").glob("report*"))
    plan = json.loads(run(*arguments, "--json").out)
    assert (plan["n_a"], plan["n_b"], plan["paid_calls"]) == (60, 60, 0)
    # Small sets are cross-fitted, so every image is captioned and scored.
    assert plan["captions"] == plan["scored"] == 120
    halves = json.loads(run(*arguments, "--json", "--set", "statistics.cross_fit=never").out)
    assert halves["captions"] == halves["scored"] == 60
    # The ranker needs a caption of every image.
    assert json.loads(run("compare", *sets, *WORDS, "--dry-run", "--json").out)["captions"] == 120


def test_groups_of_one_manifest(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    import pandas as pd

    tables = []
    for group, manifest in zip(("wall", "lawn"), sets, strict=True):
        table = pd.read_csv(manifest)
        table["path"] = [str(manifest.parent / p) for p in table["path"]]
        tables.append(table.assign(group_name=group, n=range(60)))
    both = tmp_path / "both.csv"
    pd.concat(tables).to_csv(both, index=False)
    where = ("--where-a", "group_name=wall", "--where-b", "group_name=lawn")
    ran = run("compare", both, both, *where, *WORDS, "--paired-by", "n", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["set_a"]["name"], report["set_b"]["name"]) == ("wall", "lawn")
    assert report["paired_by"] == ["n"]

    ran = run("compare", both, both, *where[:2], "--where-b", "group_name=lwan", *WORDS)
    assert ran.code == 2
    complaint = ran.error
    assert "'lwan'" in complaint
    assert "lawn" in complaint
    assert "wall" in complaint
    ran = run("compare", both, both, "--where-a", "group=wall", *WORDS)
    assert ran.code == 2
    assert "group_name" in ran.error
    ran = run("compare", both, both, "--where-a", "group_name", *WORDS)
    assert ran.code == 2
    assert "--where-a name=value, got 'group_name'" in ran.error


def test_settings_from_the_command_line(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    more = ("--set", "statistics.alpha=0.01", "--set", "statistics.min_scored=10")
    ran = run("compare", *sets, *WORDS, *more, "--rounds", "auto", "--json")
    assert ran.code == 0, ran.err
    config = json.loads(ran.out)["config"]
    assert config["statistics"]["alpha"] == 0.01
    assert config["rounds"] == "auto"
    file = tmp_path / "run.toml"
    file.write_text('seed = 9\n[captioner]\nbackend = "manifest"\n[ranker]\nbackend = "clip"\n')
    ran = run("compare", *sets, "--config", file, "--ranker", "captions-lexical", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["config"]["seed"] == 9


def test_missing_folder(run: Run, sets: tuple[Path, Path]) -> None:
    for arguments in (("nowhere", sets[0]), (sets[0], "nowhere")):
        ran = run("compare", *arguments, *WORDS)
        assert ran.code == 2
        assert "'nowhere'" in ran.error


def test_empty_folder(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = run("compare", tmp_path / "empty", sets[1], *WORDS)
    assert ran.code == 2
    assert "an empty folder" in ran.error


def test_one_image(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "only.png")
    for source in (tmp_path, tmp_path / "only.png"):
        ran = run("compare", source, sets[1].parent, *WORDS)
        assert ran.code == 2
        assert "at least 2" in ran.err.splitlines()[-1]
        assert "set A" in ran.err.splitlines()[-1]
        assert ran.out == ""


def test_manifest_without_path(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("file,caption\na.png,a cook\n")
    ran = run("compare", manifest, sets[1], *WORDS)
    assert ran.code == 2
    complaint = ran.error
    assert "a column `path`" in complaint
    assert "file" in complaint


def test_damaged_files_among_good_ones(run: Run, tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", place_captions(60, 1, place="by a wall"), seed=1)
    b = write_set(tmp_path / "b", place_captions(60, 2, place="on the grass"), seed=2)
    whole = (a.parent / "003.png").read_bytes()
    (a.parent / "003.png").write_bytes(whole[: len(whole) // 2])
    (b.parent / "007.png").write_bytes(b"not an image at all")
    ran = run("compare", a, b, *WORDS)
    assert ran.code == 3
    assert "Traceback" not in ran.err
    for name in ("003.png", "007.png"):
        assert name in ran.err
    assert "confirmed" in ran.out
    ran = run("compare", a, b, *WORDS, "--json")
    assert ran.code == 3
    report = json.loads(ran.out)
    assert report["set_a"]["n_unreadable"] == report["set_b"]["n_unreadable"] == 1


def test_unknown_preset_with_a_suggestion(run: Run, sets: tuple[Path, Path]) -> None:
    ran = run("compare", *sets, "--preset", "minature")
    assert ran.code == 2
    assert "Did you mean 'miniature'" in ran.error


@pytest.mark.parametrize("role", ["captioner", "proposer", "ranker"])
def test_unknown_backend(run: Run, sets: tuple[Path, Path], role: str) -> None:
    ran = run("compare", *sets, *WORDS, f"--{role}", "ngrans")
    assert ran.code == 2
    assert f"the name of a {role}, got 'ngrans'" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--set", "statistics.alhpa=1"), "Did you mean 'alpha'"),
        (("--set", "seed"), "Expected --set name=value"),
        (("--rounds", "0"), "--rounds to be greater than or equal to 1 or 'auto'"),
        (("--rounds", "some"), "'auto', got 'some'"),
        (("--seed", "-1"), "--seed to be greater than or equal to 0"),
        (("--max-calls", "-1"), "--max-calls to be greater than or equal to 0"),
        (("--paired-by", "prompt,seed"), "add prompt, seed to the manifest"),
        (("--config", "nowhere.toml"), "nowhere.toml (No such file"),
        (("--config", "x.toml", "--preset", "laptop"), "Expected --config or --preset"),
    ],
)
def test_wrong_options(
    run: Run, sets: tuple[Path, Path], arguments: tuple[str, ...], says: str
) -> None:
    ran = run("compare", *sets, *WORDS, *arguments)
    assert ran.code == 2
    assert says in ran.error


def test_missing_weights(run: Run, sets: tuple[Path, Path]) -> None:
    ran = run("compare", *sets)
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    complaint = ran.err.splitlines()[-1]
    # The message names the first missing weights, how to get them, and alternatives.
    assert "blip-image-captioning-base" in complaint
    assert "network" in complaint
    assert "`--preset miniature` runs offline, on drawings only" in complaint


def test_missing_weights_are_one_sentence_in_a_separate_process(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    # Without a logging configuration, libraries log missing files to stderr.
    ran = process(tmp_path, "compare", *sets, "--captioner", "manifest")
    assert ran.code == 2
    assert ran.out == ""
    # The plan of a run that cannot start is not printed.
    assert ran.error.startswith("Expected the weights of open_clip model ViT-B-32")
    assert "`--preset miniature`" in ran.error


def test_a_folder_that_cannot_be_written(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    # No user, not even root, can create a folder below a file.
    (tmp_path / "file").write_text("")
    ran = run("compare", *sets, *WORDS, "--out", tmp_path / "file" / "report")
    assert ran.code == 2
    assert "a folder to write the report to" in ran.error


def test_html_in_captions(run: Run, tmp_path: Path) -> None:
    evil = "[bold]<script>alert(1)</script>[/nope]"
    a = write_set(tmp_path / "a", place_captions(60, 1, place=f"with {evil}"), seed=1)
    b = write_set(tmp_path / "b", place_captions(60, 2, place="on the grass"), seed=2)
    ran = run("compare", a, b, *WORDS, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "<script>" in ran.out.replace("\n", "")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_replay_without_cached_results(run: Run, sets: tuple[Path, Path]) -> None:
    fakes = ("--captioner", "fakes:ColourCaptioner", "--set", "captioner.model=never")
    ran = run("compare", *sets, *fakes, "--ranker", "captions-lexical", "--cache", "replay")
    assert ran.code == 2
    assert "mode replay" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


def test_doctor_reports_every_preset(run: Run) -> None:
    ran = run("doctor")
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) == 4
    assert "laptop     not usable: no weights of captioner" in ran.out
    ran = run("doctor", "--verbose")
    for name in ("miniature", "laptop", "torch", "cache"):
        assert name in ran.out
    found = json.loads(run("doctor", "--json").out)
    presets = {check["name"]: check for check in found["presets"]}
    # In tests the hub cache is empty and offline.
    assert not presets["laptop"]["usable"]
    assert "`--preset miniature`" in presets["laptop"]["reason"]
    assert found["packages"]["torch"]


def test_cache_commands(run: Run, sets: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("compare", *sets, *WORDS).code == 0
    assert "preflight" in run("cache", "stats").out
    ran = run("cache", "verify")
    assert (ran.code, ran.out) == (0, "")
    ran = run("cache", "export", tmp_path / "all.jsonl")
    assert ran.code == 0
    assert len((tmp_path / "all.jsonl").read_text("utf-8").splitlines()) >= 120
    ran = run("cache", "prune")
    assert ran.code == 2
    assert "Expected --max-mb or --older-than-days" in ran.error
    assert run("cache", "prune", "--max-mb", 0).code == 0
    assert "preflight" not in run("cache", "stats").out
