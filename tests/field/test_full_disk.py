"""Every writer on a full disk: one sentence, the old file intact, nothing half-written."""

import ast
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from field.odd_files import image, picture
from PIL import Image

import editing
import visdiff
from editing.edit import Edit
from editing.edit.deltas.full import Full
from visdiff.cache import Cache
from visdiff.errors import InputError, VisdiffError
from visdiff.files import append_line, write_texts, write_whole
from visdiff.imageset import ImageSet
from visdiff.results import DifferenceReport, Separability, SetCard

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.timeout(60)


@contextmanager
def full_disk(size: int = 0) -> Iterator[None]:
    """Lets no file of this process grow beyond a size, in bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def report() -> DifferenceReport:
    card = SetCard("a", "a", 4, 2, 2)
    scores = pd.DataFrame({"set": ["A"], "id": ["1"], "half": ["scoring"]})
    return DifferenceReport("none", (), (), Separability(), card, card, scores=scores)


def edit() -> Edit:
    change = Full("unet.w", torch.ones(4, 4))
    return Edit(
        method="uce", requests=(), config={}, base_model="m", base_hash="0" * 64,
        base_parts={}, changes=(change,),
    )  # fmt: skip


def save_many(path: Path) -> object:
    from visdiff.results.many import ManyReport

    return ManyReport("t", ("a", "b"), {("a", "b"): report()}).save(path)


def save_audit(path: Path) -> object:
    from editing.audits.report import AuditReport

    return AuditReport({}, (), (), (), 0).save(path)


def save_captions(path: Path, suffix: str) -> object:
    from visdiff.captioners import table

    file = image(path / "images" / "a.png") if not path.exists() else path / "images" / "a.png"
    return table.write(table.table(ImageSet.open([file]), ["x"], path), path / f"captions{suffix}")


def save_checkpoint(path: Path) -> object:
    from editing.training.state import save

    return save(path / "checkpoint", {"w": torch.ones(100)}, {"step": 1}, {}, 1)


def save_weights(path: Path) -> object:
    from editing.edit.saving import save_tensors

    return save_tensors({"w": torch.ones(100)}, path / "w.safetensors", {})


def save_generated(path: Path) -> None:
    from editing.generate.folder import ImageWriter

    with ImageWriter() as writer:
        writer.write({path / "a.png": Image.new("RGB", (8, 8))})


def save_generated_manifest(path: Path) -> object:
    from editing.generate.folder import write_manifest

    return write_manifest(path, [{"path": "a.png", "prompt": "x"}])


def _evaluation() -> Any:
    from editing.methods.debias.history import Evaluation
    from editing.metrics.ratios import Delta

    return Evaluation(0, "a nurse", {}, {}, (), Delta(0.1, 0.0, 0.2, 0.0, 8), False)


def save_history(path: Path) -> object:
    from editing.methods.debias.history import History

    return History(path / "history.jsonl", "about")


def save_plot(path: Path) -> object:
    from editing.methods.debias import Debiased
    from editing.methods.debias.plot import save

    return save(Debiased(edit(), (_evaluation(),), 8), path / "history.svg")


def save_sheet(path: Path) -> object:
    from visdiff.judges import Claim
    from visdiff.judges.human import write_sheet

    claim = Claim("a dog", "A", "dogs", "cats")
    return write_sheet([claim], path / "sheet.csv", np.random.default_rng(0))


def save_batch(path: Path) -> object:
    from visdiff.batch.state import BatchState

    return BatchState(path, [])._write("x.jsonl", b"x" * 10)


def save_results(path: Path) -> object:
    from visdiff.bench.store import Results

    return Results.open(path / "results.jsonl", {"benchmark": "x", "judge": {}})


def export_cache(path: Path) -> object:
    with Cache(path.parent / "cache", "ro") as cache:
        return cache.export(path / "cache.jsonl")


def save_pools(path: Path) -> None:
    from editing.personalize.regularization import Pools

    Pools.of("miniature").write(path / "pools.toml", {"noun": "dog", "model": "m", "prompts": "p"})


def save_run_header(path: Path) -> None:
    from editing.personalize.dreambench_run import open_run

    open_run(path, {"seed": 0})


def save_samples(path: Path) -> object:
    from tiny_pipelines import sd1

    from editing.personalize.samples import Samples, grids
    from editing.personalize.trained import Whole
    from editing.pipelines.denoiser import Denoiser
    from editing.pipelines.sampling import Settings

    pipe = sd1()
    trained = Whole(pipe, ["unet.conv_in.bias"])
    samples = Samples(path, every=1, seeds=(0,))
    observer = grids(Denoiser(pipe), trained, samples, ["a dog"], Settings(steps=1))
    return observer.observe(1, trained.initial)


def save_renderings(path: Path) -> None:
    from visdiff.bench.minidiffbench import _render_pair, plans

    class Icons:
        def render(self, scene: object, rng: np.random.Generator) -> np.ndarray:
            return np.zeros((8, 8, 3), np.uint8)

    _render_pair(next(plans(0, 1, 0)), path, cast(Any, Icons()), 0, 1)


WRITERS: dict[str, Callable[[Path], object]] = {
    "texts": lambda path: write_texts(path, {"a.txt": "x"}),
    "report": lambda path: report().save(path),
    "many reports": save_many,
    "audit": save_audit,
    "captions in CSV": partial(save_captions, suffix=".csv"),
    "captions in JSONL": partial(save_captions, suffix=".jsonl"),
    "captions in Parquet": partial(save_captions, suffix=".parquet"),
    "edit": lambda path: edit().save(path / "e.safetensors"),
    "checkpoint": save_checkpoint,
    "weights": save_weights,
    "generated images": save_generated,
    "manifest of generated images": save_generated_manifest,
    "history of debiasing": save_history,
    "plot": save_plot,
    "sheet for a human judge": save_sheet,
    "batches": save_batch,
    "results of a benchmark": save_results,
    "cache": export_cache,
    "word pools": save_pools,
    "settings of a benchmark's run": save_run_header,
    "sample images": save_samples,
    "renderings of a benchmark": save_renderings,
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_writer_says_what_happened_and_leaves_nothing(
    tmp_path: Path, writer: Callable[[Path], object]
) -> None:
    with Cache(tmp_path / "cache") as cache:
        cache.put("k", {"n": 1}, "x")
    image(tmp_path / "out" / "images" / "a.png")
    before = sorted(tmp_path.glob("out/**/*"))
    with full_disk(), pytest.raises(VisdiffError, match=r"^Expected .*free") as caught:
        writer(tmp_path / "out")
    assert "\n" not in str(caught.value)
    left = [path for path in sorted(tmp_path.glob("out/**/*")) if path.is_file()]
    assert left == [path for path in before if path.is_file()]
    writer(tmp_path / "out")


def test_an_old_file_keeps_its_content(tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    edit().save(file)
    before = file.read_bytes()
    with full_disk(100), pytest.raises(InputError, match="free space"):
        edit().save(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]


def test_a_line_is_appended_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    append_line(file, b"first")
    with full_disk(10), pytest.raises(OSError, match="large"):
        append_line(file, b"x" * 20)
    assert file.read_bytes() == b"first\n"
    append_line(file, b"second")
    assert file.read_bytes() == b"first\nsecond\n"


def test_an_evaluation_and_a_result_are_appended_or_refused(tmp_path: Path) -> None:
    from editing.methods.debias.history import History
    from visdiff.bench.store import Results

    history = History(tmp_path / "history.jsonl", "about")
    results = Results.open(tmp_path / "results.jsonl", {"benchmark": "x", "judge": {}})
    record = {"pair": "1", "split": "easy", "status": "failed", "reason": "x" * 500}
    with full_disk(120):
        with pytest.raises(InputError, match="free space"):
            history.add(_evaluation())
        with pytest.raises(InputError, match="free space"):
            results.append(record)
    assert Results.read(tmp_path / "results.jsonl").records == {}
    results.append(record)
    assert list(Results.read(tmp_path / "results.jsonl").records) == ["1"]


@pytest.mark.parametrize("size", [0, 100, 4096, 8192, 20_000, 40_000, 100_000])
@pytest.mark.parametrize("filled", [False, True])
def test_a_cache_goes_on_in_memory(
    tmp_path: Path, size: int, filled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if filled:
        with Cache(tmp_path) as cache:
            cache.put("k", {"n": -1}, "before")
    with full_disk(size), Cache(tmp_path) as cache, caplog.at_level(logging.WARNING):
        for n in range(40):
            assert cache.get("k", {"n": n}) is None
            cache.put("k", {"n": n}, "x" * 3000)
        assert cache.get_many("k", [{"n": n} for n in range(40)]) == ["x" * 3000] * 40
        assert cache.get("k", {"n": -1}) == ("before" if filled else None)
        cache.stats()
    assert caplog.text.count("cannot be written") == 1
    with Cache(tmp_path) as cache:
        cache.put("k", {"n": 0}, "after")
        assert cache.get("k", {"n": 0}) == "after"
        assert cache.verify() == []


def test_files_of_a_cache_without_any_space_are_one_sentence(tmp_path: Path) -> None:
    with full_disk(), Cache(tmp_path) as cache, pytest.raises(InputError, match="free space"):
        cache.write_file("image", {}, ".png", picture())


def test_a_fitted_edit_is_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from editing.cli.edit_files import save_or_keep

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="the edit is in ") as caught:
        save_or_keep(edit(), tmp_path / "file" / "e.safetensors")
    kept = str(caught.value).partition("the edit is in ")[2].removesuffix(").")
    assert Edit.load(kept).digest == edit().digest
    with full_disk(), pytest.raises(InputError, match="free space") as caught:
        save_or_keep(edit(), tmp_path / "e.safetensors")
    assert "the edit is in" not in str(caught.value)


def test_sampling_runs_are_returned_although_they_cannot_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tiny_pipelines import sd1

    from editing.methods.score.trajectories import Route, load_or_draw
    from editing.pipelines.denoiser import Denoiser

    denoiser = Denoiser(sd1())
    with full_disk(), caplog.at_level(logging.WARNING):
        found = load_or_draw(denoiser, [Route("a dog", 0)], steps=2, guidance=2.0, folder=tmp_path)
    assert "were not kept on disk" in caplog.text
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    kept = load_or_draw(denoiser, [Route("a dog", 0)], steps=2, guidance=2.0, folder=tmp_path)
    assert torch.equal(found.inputs, kept.inputs)
    assert [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_report_that_cannot_be_saved_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from visdiff.cli.terminal import deliver

    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="folder"):
        deliver(report(), tmp_path / "file" / "r", as_json=True, command="")
    assert '"verdict": "none"' in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_stdout_is_one_sentence(tmp_path: Path) -> None:
    code = "from visdiff.cli.app import main; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "cache", "stats"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "VISDIFF_CACHE_DIR": str(tmp_path)},
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("visdiff: Expected ")
    assert "free space" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_module_writes_past_the_one_writer() -> None:
    found = []
    for package in (visdiff, editing):
        root = Path(str(package.__file__)).parent
        for file in sorted(root.rglob("*.py")):
            if file.name == "files.py" and file.parent.name == "visdiff":
                continue
            text = file.read_text("utf-8")
            if "open(" not in text and "write_" not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and _writes(node):
                    found.append(f"{file.relative_to(root.parent)}: {ast.unparse(node)}")
    # It cuts an incomplete last line, and writes nothing.
    assert found == ["visdiff/bench/store.py: file.open('r+b')"]


def _writes(call: ast.Call) -> bool:
    """Returns whether a call writes a file, other than the `part` that `write_whole` passes."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "part":
        return False
    if name in ("write_text", "write_bytes"):
        return True
    modes = [a for a in [*call.args, *(k.value for k in call.keywords)] if _is_mode(a)]
    return name == "open" and bool(modes)


def _is_mode(node: ast.expr) -> bool:
    text = node.value if isinstance(node, ast.Constant) else ""
    return isinstance(text, str) and 0 < len(text) <= 3 and bool(set(text) & set("wax+"))


def test_write_whole_to_a_missing_folder_creates_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "c", b"x")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"
