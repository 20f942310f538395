"""Tests see no network, no home, no key: only this checkout and a temporary folder."""

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Before anything heavy is imported, since libraries read these once. One thread a process: under
# xdist the workers share the cores, and small models do not gain from more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes started from here (workers, commands, kernels) keep the memory of large tensors: glibc
# returns it to the system after each operation otherwise, and page faults take a tenth of the time.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1000000000")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "2000000000")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    COLUMNS="120",
)
for _name in tuple(os.environ):
    # Keys and endpoints of whoever runs the tests, and what would force colour into output.
    if _name.startswith(("OPENAI_", "VISDIFF_")) or _name in {
        "FORCE_COLOR",
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "TRANSFORMERS_CACHE",
    }:
        del os.environ[_name]

# The same examples on every run: a test that fails can be run again.
hypothesis.settings.register_profile("visdiff", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("visdiff")

# The files that take longest, the longest first, by the processor time of one run. A worker takes
# whole files, so these must start early if all workers are to end together.
_LONGEST = (
    "test_editing_audit", "test_notebooks", "test_bench_scripts", "test_personalize_methods",
    "test_demo", "test_editing_score", "test_editing_debias", "test_scale", "test_engine_ray",
    "test_editing_training", "test_miniature", "test_editing_formats", "test_editing_edit",
    "test_recipes_world", "test_editing_hub", "test_editing_miniature",
)  # fmt: skip

_HOME = pytest.StashKey[Path]()
_LOOPBACK = ("127.", "::1", "localhost")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session, in each worker, its own cache and an empty model hub."""
    home = Path(tempfile.mkdtemp(prefix="visdiff-tests-"))
    config.stash[_HOME] = home
    os.environ["VISDIFF_CACHE_DIR"] = str(home / "cache")
    os.environ["HF_HOME"] = str(home / "hub")
    os.environ["MPLCONFIGDIR"] = str(home / "matplotlib")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what `pytest_configure` made."""
    home = config.stash.get(_HOME, None)
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, then others with slow tests; the order within a file stays."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    place = {name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: (place.get(item.path.stem, len(place)), item.path not in slow))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a connection to anything but this machine a failure, said at once."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        remote = isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK)
        if self.family in (socket.AF_INET, socket.AF_INET6) and remote:
            raise OSError(f"tests have no network: connection to {address!r} refused")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
