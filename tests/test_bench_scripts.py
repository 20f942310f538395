"""Tests of the benchmark scripts: selected rows, results files, and a quick run of each."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

from visdiff.bench.pairs import Benchmark, Pair
from visdiff.bench.run import Finding, SystemOutput, run
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.judges.world import WorldJudge
from visdiff.miniature.world import full_caption

ROOT = Path(__file__).parents[1]
ART = ROOT / ".art"

needs_art = pytest.mark.skipif(
    not (ART / "node_modules").is_dir(), reason="the art packages are not here: make art"
)


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"bench_{name}", ROOT / f"benchmarks/{name}/run.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_selected_by_name_in_a_fixed_order() -> None:
    mini = load_script("minidiffbench")
    assert mini.select_rows(None) == mini.row_names()
    assert mini.select_rows("original,ngrams/vqa,ngrams/clip") == [
        "ngrams/clip", "ngrams/vqa", "original/clip",
    ]  # fmt: skip
    with pytest.raises(InputError, match="got 'ngrms/clip'"):
        mini.select_rows("ngrms/clip")


def test_every_row_has_its_own_valid_configuration() -> None:
    mini = load_script("minidiffbench")
    for row in mini.row_names():
        config = mini.config_of(row)
        proposer, ranker = row.split("/")
        assert config.ranker.backend == ranker
        assert config.proposer.backend == ("ngrams" if proposer == "original" else proposer)
    # Resolves the backends, so an invalid row raises here.
    names = [mini.results_file(row, Path("w")).name for row in mini.row_names()]
    assert len(set(names)) == len(names)


def test_rendered_sabotages_change_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the group of a sabotage, its hidden change makes one of its words more frequent."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "run", load_script("audit"))
    script = runpy.run_path(str(ROOT / "benchmarks" / "audit" / "rendered.py"))
    for number, sabotage in enumerate(script["sabotages"]()):
        shown = [
            [full_caption(scene) for scene in pair]
            for _, prompt in script["groups_of"](sabotage)[sabotage.group]
            for i in range(30)
            for pair in [
                (script["original"](prompt, i)[0], script["edited"](number, sabotage, prompt, i)[0])
            ]
        ]
        before, after = (
            [sum(script["mentions"](t, [word]) for t in texts) for word in sabotage.words]
            for texts in zip(*shown, strict=True)
        )
        assert max(b - a for a, b in zip(before, after, strict=True)) >= 10, sabotage


def test_only_complete_rows_are_tabulated(tmp_path: Path) -> None:
    mini = load_script("minidiffbench")
    files = [tmp_path / f"{side}{i}.png" for side in "ab" for i in range(4)]
    for file in files:
        file.write_bytes(file.name.encode())
    pairs = tuple(
        Pair(f"easy/{i}", "easy", "grass", "snow", "", tuple(files[:4]), tuple(files[4:]))
        for i in range(2)
    )
    both = Benchmark("Tiny", pairs)

    def record(row: str, benchmark: Benchmark) -> None:
        run(
            benchmark, mini.results_file(row, tmp_path), config=Config.of("miniature"),
            judge=WorldJudge(),
            system=lambda a, b: SystemOutput([Finding("grass", "A")]),
            progress=False,
        )  # fmt: skip

    record("ngrams/clip", both)
    record("original/clip", both.only(limit=1))
    assert [r.path.name.split("-")[0] for r in mini.complete_rows(tmp_path, both)] == ["ngrams"]


def run_quickly(
    name: str, work: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> list[Path]:
    """Runs a benchmark as a command, in this process, which has its libraries loaded already.

    Returns:
        The files of the benchmark, which a quick run must leave alone.
    """
    file = ROOT / "benchmarks" / name / "run.py"
    arguments = [str(file), "--work", str(work), "--quick", *options]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        patch.setattr(sys, "path", [*sys.path])
        patch.chdir(ROOT)
        runpy.run_path(str(file), run_name="__main__")
    return sorted(file.parent.iterdir())


@needs_art
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "options"),
    [("minidiffbench", ("--rows", "ngrams/clip,original")), ("purity", ())],
    ids=["minidiffbench", "purity"],
)
def test_quick_run(
    name: str,
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / name
    before = sorted((ROOT / "benchmarks" / name).iterdir())
    after = run_quickly(name, work, monkeypatch, "--art", str(ART), *options)
    out = capsys.readouterr().out
    if name == "minidiffbench":
        assert "original" in out
    else:
        points = {p["purity"]: p for p in json.loads(out)["points"]}
        assert points[1.0]["ceiling"] > 0.95
        assert points[0.5]["ceiling"] < 0.3
        assert points[1.0]["failed"] == 0
        assert (work / "purity.svg").stat().st_size > 5000
    # A quick run does not overwrite the published results.
    assert after == before


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("erasure", "uce (ours)"),
        ("debias", "gender"),
        ("moderation", "paraphrased"),
        ("together", "all in one solve"),
        ("audit", "found_among_first_3"),
    ],
)
def test_quick_run_of_an_edit_benchmark(
    name: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted((ROOT / "benchmarks" / name).iterdir())
    run_quickly(name, tmp_path, monkeypatch)
    first = capsys.readouterr().out
    assert expected in first
    after = run_quickly(name, tmp_path, monkeypatch)
    # Nothing is measured twice, and the published results are not overwritten.
    assert capsys.readouterr().out == first
    assert after == before
