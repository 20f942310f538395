"""The Ray engine on a real cluster of two workers agrees with the local engine."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rayfakes import Means, Names
from tiny import folder_of_pictures, pictures, save_blip2, save_open_clip

from visdiff.cache import Cache
from visdiff.captioners.blip import Blip2Captioner
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.engine import Applied, Runtime, apply
from visdiff.engine.ray import RayEngine
from visdiff.errors import InputError, MissingBackendError
from visdiff.imageset import ImageSet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason='Ray is not installed: pip install "visdiff[ray]"',
    ),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    import ray

    # Workers import the models of the tests from this folder.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield RayEngine(workers=2)
        ray.shutdown()


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    folder = folder_of_pictures(tmp_path / "pictures", 20)
    (folder / "bad.png").write_text("no image")
    return ImageSet.open(folder)


def run(model: Any, images: ImageSet, cache: Cache, engine: RayEngine | None = None) -> Applied:
    return apply(model, images, Runtime(cache, engine=engine), batch_size=3, desc="test")


def equal(one: Applied, other: Applied) -> bool:
    return one.failures == other.failures and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one.values, other.values, strict=True)
    )


def test_two_processes_return_the_local_values(
    engine: RayEngine, images: ImageSet, tmp_path: Path
) -> None:
    off = Cache(mode="off")
    here, there = Means(tmp_path / "here.log"), Means(tmp_path / "there.log", processes=2)
    local, remote = run(here, images, off), run(there, images, off, engine)
    assert equal(local, remote)
    assert "too dark" in local.failures.values()
    assert "bad.png" in " ".join(remote.failures.values())
    processes = {process for process, _ in there.calls()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    # The same batches, in any order.
    assert sorted(n for _, n in there.calls()) == sorted(n for _, n in here.calls())


def test_texts_and_lists_are_returned_unchanged(
    engine: RayEngine, images: ImageSet, tmp_path: Path
) -> None:
    off, model = Cache(mode="off"), Names(tmp_path / "names.log")
    local, remote = run(model, images, off), run(model, images, off, engine)
    assert equal(local, remote)
    assert {type(value) for value in remote.values} == {str, list, type(None)}


def test_a_killed_worker_is_restarted(engine: RayEngine, images: ImageSet, tmp_path: Path) -> None:
    model = Means(tmp_path / "dies.log", dies=True)
    with Cache(tmp_path / "cache") as cache:
        remote = run(model, images, cache, engine)
        assert (tmp_path / "dies.died").exists()
        assert equal(remote, run(Means(tmp_path / "lives.log"), images, Cache(mode="off")))
        # Only the batch of the killed worker is recomputed.
        assert sum(n for _, n in model.calls()) <= 20 + 3
        again = Means(tmp_path / "again.log")
        run(again, images, cache)
        # Refused images are computed again; values are cached.
        dark = sum(reason == "too dark" for reason in remote.failures.values())
        assert sum(n for _, n in again.calls()) == dark


def test_errors_of_the_model_are_raised_as_by_the_local_engine(
    engine: RayEngine, images: ImageSet, tmp_path: Path
) -> None:
    model = Means(tmp_path / "none.log", weights=False)
    with pytest.raises(MissingBackendError, match="the weights are not here"):
        run(model, images, Cache(mode="off"), engine)


def test_a_file_that_changes_during_the_run_is_refused(
    engine: RayEngine, images: ImageSet, tmp_path: Path
) -> None:
    model = Means(tmp_path / "changed.log")
    todo = [(images.digest(0), 0), ("0" * 64, 1)]
    (batch,) = engine.batches(model, images, todo, batch_size=3, workers=1)
    results = dict(batch)
    assert "has changed during the run" in results["0" * 64].reason
    assert len(model.calls()) == 1


def test_images_without_a_file_are_computed_locally(engine: RayEngine, tmp_path: Path) -> None:
    model = Means(tmp_path / "memory.log")
    applied = run(model, ImageSet.open(pictures(4)), Cache(mode="off"), engine)
    assert {process for process, _ in model.calls()} == {os.getpid()}
    assert len(applied.values) == 4


def test_models_are_sent_without_their_weights(
    engine: RayEngine, images: ImageSet, tmp_path: Path
) -> None:
    off = Cache(mode="off")
    clip = OpenClipEncoder(str(save_open_clip(tmp_path / "clip")), None, device="cpu")
    local = run(clip, images, off)
    assert clip._ready is not None
    remote = run(clip, images, off, engine)
    assert local.failures == remote.failures
    for here, there in zip(local.values, remote.values, strict=True):
        if here is not None:
            np.testing.assert_allclose(here, there, atol=1e-6)


def test_a_captioner_is_sent_without_its_weights(images: ImageSet, tmp_path: Path) -> None:
    """As Ray sends it to a worker; a worker would import transformers once more."""
    from ray import cloudpickle

    here = Blip2Captioner(str(save_blip2(tmp_path / "blip2")), device="cpu", batch_size=3)
    off = Runtime(Cache(mode="off"))
    captions = apply(here, images, off, batch_size=3, desc="captions")
    assert here._ready is not None
    sent = cloudpickle.dumps(here)
    assert len(sent) < sum(p.numel() for p in here._ready.model.parameters())
    assert equal(apply(cloudpickle.loads(sent), images, off, batch_size=3, desc=""), captions)


def test_the_number_of_workers_is_checked() -> None:
    with pytest.raises(InputError, match=r"engine\.workers"):
        RayEngine(workers=0)
