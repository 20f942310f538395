"""The contract of `engine.apply`, with models that count their calls."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import folder_of_pictures, pictures

from visdiff.cache import Cache
from visdiff.engine import Applied, Refused, Runtime, apply
from visdiff.engine.device import resolve_device
from visdiff.errors import CacheMissError, InputError, MissingBackendError
from visdiff.imageset import ImageSet


class Mean:
    """Mean colour of an image; refuses values that `refuse` selects; records its calls."""

    kind = "test-mean"

    def __init__(self, refuse: Callable[[float], bool] = lambda _: False) -> None:
        self.identity: dict[str, Any] = {"model": "mean"}
        self.refuse = refuse
        self.batches: list[int] = []
        self.prepared = 0
        self.threads: set[str] = set()
        self._lock = threading.Lock()

    def prepare(self, image: Image.Image) -> float:
        with self._lock:
            self.prepared += 1
            self.threads.add(threading.current_thread().name)
        return float(np.asarray(image).mean())

    def __call__(self, batch: list[Any]) -> list[Any]:
        self.batches.append(len(batch))
        return [
            Refused("not this one") if self.refuse(value) else np.array([value], np.float32)
            for value in batch
        ]


def run(model: Any, images: ImageSet, cache: Cache, batch_size: int = 3, **more: Any) -> Applied:
    return apply(model, images, Runtime(cache), batch_size=batch_size, desc="test", **more)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return ImageSet.open(folder_of_pictures(tmp_path / "pictures", 10))


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("workers", [1, 4])
def test_values_are_in_order_for_all_batch_sizes(
    images: ImageSet, batch_size: int, workers: int
) -> None:
    model = Mean()
    applied = run(model, images, Cache(mode="off"), batch_size, workers=workers)
    expected = [np.asarray(images.image(i)).mean() for i in range(len(images))]
    np.testing.assert_allclose(np.concatenate(applied.values), expected, rtol=1e-6)
    assert applied.failures == {}
    assert max(model.batches) <= batch_size
    assert sum(model.batches) == len(images)
    assert "MainThread" not in model.threads


def test_second_run_computes_nothing(images: ImageSet, cache: Cache) -> None:
    first = run(Mean(), images, cache)
    again = Mean()
    second = run(again, images, cache)
    assert (again.batches, again.prepared) == ([], 0)
    np.testing.assert_array_equal(np.stack(first.values), np.stack(second.values))


def test_another_identity_is_another_value(images: ImageSet, cache: Cache) -> None:
    run(Mean(), images, cache)
    other = Mean()
    other.identity = {"model": "another"}
    run(other, images, cache)
    assert sum(other.batches) == len(images)


def test_a_killed_run_resumes(images: ImageSet, cache: Cache) -> None:
    class Dies(Mean):
        def __call__(self, batch: list[Any]) -> list[Any]:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().__call__(batch)

    with pytest.raises(KeyboardInterrupt):
        run(Dies(), images, cache)
    model = Mean()
    applied = run(model, images, cache)
    assert sum(model.batches) == len(images) - 2 * 3
    assert all(value is not None for value in applied.values)


def test_duplicates_are_computed_once(cache: Cache) -> None:
    a, b = pictures(2)
    model = Mean()
    applied = run(model, ImageSet.open([a, b, a.copy(), a.copy()]), cache)
    assert sum(model.batches) == 2
    assert applied.values[0] == applied.values[2] == applied.values[3] != applied.values[1]


def test_unreadable_images_are_failures_and_never_cached(tmp_path: Path, cache: Cache) -> None:
    folder = folder_of_pictures(tmp_path / "set", 4)
    data = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(data[: len(data) // 2])
    (folder / "003.png").write_text("no image")
    images = ImageSet.open(folder)
    (folder / "000.png").unlink()  # removed after the listing
    applied = run(Mean(), images, cache)
    assert set(applied.failures) == {0, 1, 3}
    assert [value is None for value in applied.values] == [True, True, False, True]
    assert "000.png" in applied.failures[0]
    (folder / "001.png").write_bytes(data)  # repaired
    again = Mean()
    assert set(run(again, ImageSet.open(folder), cache).failures) == {2}  # of 001, 002, 003
    assert again.batches == [1]


def test_refused_images_are_computed_again(images: ImageSet, cache: Cache) -> None:
    means = sorted(float(np.asarray(images.image(i)).mean()) for i in range(len(images)))
    applied = run(Mean(lambda value: value > means[6]), images, cache)
    assert set(applied.failures.values()) == {"not this one"}
    assert len(applied.failures) == 3
    willing = Mean()
    assert run(willing, images, cache).failures == {}
    assert sum(willing.batches) == 3


def test_an_image_that_cannot_be_prepared_does_not_affect_others(
    images: ImageSet, cache: Cache
) -> None:
    odd = images.digest(4)

    class Picky(Mean):
        def prepare(self, image: Image.Image) -> float:
            if image.tobytes() == images.image(4).tobytes():
                raise ValueError("height must be above 0")
            return super().prepare(image)

    applied = run(Picky(), images, cache)
    assert images.digest(4) == odd
    assert list(applied.failures) == [4]
    assert "height must be above 0" in applied.failures[4]


def test_an_image_that_changes_during_the_run_is_not_cached_as_the_old_one(
    tmp_path: Path, cache: Cache
) -> None:
    folder = folder_of_pictures(tmp_path / "pictures", 4)
    images = ImageSet.open(folder)
    last = images.path(3)
    assert last is not None
    old = last.read_bytes()
    before = run(Mean(), images, Cache(mode="off")).values

    class Overwrites(Mean):
        def prepare(self, image: Image.Image) -> float:
            # Another process writes a new image while the first one is prepared. The single worker
            # reads the last file only after this call.
            if self.prepared == 0:
                Image.new("RGB", (8, 8), "white").save(last)
            return super().prepare(image)

    found = run(Overwrites(), images, cache, batch_size=1, workers=1)
    assert list(found.failures) == [3]
    assert "has changed" in found.failures[3]
    last.write_bytes(old)
    assert run(Mean(), images, cache).values == before


def test_missing_weights_end_the_run(images: ImageSet, cache: Cache) -> None:
    class NotHere(Mean):
        def prepare(self, image: Image.Image) -> float:
            raise MissingBackendError("no weights")

    with pytest.raises(MissingBackendError, match="no weights"):
        run(NotHere(), images, cache)


def test_prefetch_is_bounded(tmp_path: Path) -> None:
    images = ImageSet.open(folder_of_pictures(tmp_path / "many", 60))
    model = Mean()
    ahead: list[int] = []

    class Recorder(Mean):
        def __call__(self, batch: list[Any]) -> list[Any]:
            ahead.append(self.prepared - sum(self.batches))
            return super().__call__(batch)

    model = Recorder()
    run(model, images, Cache(mode="off"), 2, workers=2)
    assert max(ahead) <= 2 * 2 + 2 + 2  # two batches, the workers, and the current batch


def test_replay_returns_all_but_unreadable_images(tmp_path: Path, cache: Cache) -> None:
    folder = folder_of_pictures(tmp_path / "set", 3)
    (folder / "bad.png").write_text("no image")
    first = run(Mean(), ImageSet.open(folder), cache)
    model = Mean()
    replayed = run(model, ImageSet.open(folder), Cache(cache.directory, "replay"))
    assert model.batches == []
    assert replayed.failures == first.failures
    pictures(1, seed=9)[0].save(folder / "new.png")
    with pytest.raises(CacheMissError):
        run(Mean(), ImageSet.open(folder), Cache(cache.directory, "replay"))


def test_a_model_that_returns_too_few_values_raises(images: ImageSet, cache: Cache) -> None:
    class Loses(Mean):
        def __call__(self, batch: list[Any]) -> list[Any]:
            return super().__call__(batch)[1:]

    with pytest.raises(RuntimeError, match="Expected 3 values from Loses, got 2"):
        run(Loses(), images, cache)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"workers": 0}])
def test_sizes_are_checked(images: ImageSet, cache: Cache, bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        run(Mean(), images, cache, **bad)


def test_progress_goes_to_stderr(
    images: ImageSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    apply(Mean(), images, Runtime(progress=True), batch_size=4, desc="colours")
    captured = capsys.readouterr()
    assert "colours" in captured.err
    assert captured.out == ""


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="got 'gpu'"):
        resolve_device("gpu")
    with pytest.raises(InputError, match="cuda:99"):
        resolve_device("cuda:99")
