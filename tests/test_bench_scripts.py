"""Tests of the benchmark scripts: selected rows, results files, and a quick run of each."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from visdiff.bench.pairs import Benchmark, Pair
from visdiff.bench.run import Finding, SystemOutput, run
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.judges.world import WorldJudge

ROOT = Path(__file__).parents[1]
ART = ROOT / ".art"

needs_art = pytest.mark.skipif(
    not (ART / "node_modules").is_dir(), reason="the art packages are missing: make art"
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
            judge=WorldJudge(), system=lambda a, b: SystemOutput([Finding("grass", "A")]),
            progress=False,
        )  # fmt: skip

    record("ngrams/clip", both)
    record("original/clip", both.only(limit=1))
    assert [r.path.name.split("-")[0] for r in mini.complete_rows(tmp_path, both)] == ["ngrams"]


@needs_art
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "options"),
    [("minidiffbench", ("--rows", "ngrams/clip,original")), ("purity", ())],
    ids=["minidiffbench", "purity"],
)
def test_quick_run(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    work = tmp_path / name
    before = sorted((ROOT / "benchmarks" / name).iterdir())
    completed = subprocess.run(
        [sys.executable, f"benchmarks/{name}/run.py", "--art", str(ART), "--work", str(work),
         "--quick", *options],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    if name == "minidiffbench":
        assert "original" in completed.stdout
    else:
        points = {p["purity"]: p for p in json.loads(completed.stdout)["points"]}
        assert points[1.0]["ceiling"] > 0.95
        assert points[0.5]["ceiling"] < 0.3
        assert points[1.0]["failed"] == 0
        assert (work / "purity.svg").stat().st_size > 5000
    # A quick run does not overwrite the published results.
    assert sorted((ROOT / "benchmarks" / name).iterdir()) == before


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
def test_quick_run_of_an_edit_benchmark(name: str, expected: str, tmp_path: Path) -> None:
    before = sorted((ROOT / "benchmarks" / name).iterdir())
    completed = subprocess.run(
        [sys.executable, f"benchmarks/{name}/run.py", "--work", str(tmp_path), "--quick"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    assert expected in completed.stdout
    again = subprocess.run(
        [sys.executable, f"benchmarks/{name}/run.py", "--work", str(tmp_path), "--quick"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    # Nothing is measured twice, and the published results are not overwritten.
    assert again.stdout == completed.stdout
    assert sorted((ROOT / "benchmarks" / name).iterdir()) == before
