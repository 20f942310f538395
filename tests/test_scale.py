"""Twenty thousand images: bounded memory, a progress bar, and a killed run that goes on."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import logged

ROOT = Path(__file__).parents[1]
N = 20_000
SIZE = 8

# The command, then the most memory that its process ever held: the kernel counts it.
COMMAND = """
import sys
from visdiff.cli import app as cli
# Bars are shown in notebooks and on terminals only.
sys.stderr.isatty = lambda: True
try:
    cli.main()
finally:
    status = open("/proc/self/status", encoding="ascii").read()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(peak, file=sys.stderr)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory in /proc"),
]


def png(pixels: np.ndarray) -> bytes:
    """Write a small PNG by hand: Pillow would take most of the test's time."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def draw(folder: Path, n: int, red: float, seed: int) -> Path:
    """Write n different images, a share of them red and the rest blue, in folders of 1000."""
    rng = np.random.default_rng(seed)
    for start in range(0, n, 1000):
        (folder / f"{start:05d}").mkdir(parents=True)
        pixels = rng.integers(0, 100, (1000, SIZE, SIZE, 3), np.uint8)
        channels = np.where(rng.random(1000) < red, 0, 2)
        for i in range(min(1000, n - start)):
            pixels[i, ..., channels[i]] += 120
            (folder / f"{start:05d}" / f"{i:03d}.png").write_bytes(png(pixels[i]))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("many")
    return draw(folder / "A", N // 2, 0.6, seed=1), draw(folder / "B", N // 2, 0.4, seed=2)


def start(
    sets: tuple[Path, Path], folder: Path, sleep: float = 0.0
) -> tuple["subprocess.Popen[str]", Path]:
    """Start the comparison with its own cache; returns it and the log of what it computes."""
    folder.mkdir(exist_ok=True)
    log = folder / "computed.log"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "VISDIFF_CACHE_DIR": str(folder / "cache"),
        "FAKES_LOG": str(log),
        "FAKES_SLEEP": str(sleep),
    }
    arguments = [
        *("compare", str(sets[0]), str(sets[1]), "--json"),
        *("--captioner", "fakes:SlowCaptioner", "--set", "captioner.batch_size=64"),
        *("--ranker", "fakes:ColourRanker", "--set", "ranker.batch_size=64"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return process, log


def facts(text: str) -> dict[str, Any]:
    told = json.loads(text)
    for name in ("seconds", "created", "cache_hits", "cache_misses"):
        del told["provenance"][name]
    return told


def test_twenty_thousand_images(sets: tuple[Path, Path], tmp_path: Path) -> None:
    process, log = start(sets, tmp_path / "whole")
    out, err = process.communicate()
    assert process.returncode == 0, err
    whole = facts(out)
    assert {d["direction"] for d in whole["differences"] if d["confirmed"]} == {"A", "B"}
    assert whole["set_a"]["n"] + whole["set_b"]["n"] == N

    # Memory: the kernel's high-water mark, in kB.
    peak = next(line for line in err.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 2_000_000
    # Progress: a bar that reached its end, for each pass over the images.
    for stage in ("preflight", "captions", "colours"):
        assert f"{stage}: 100%" in err
    captioned, ranked = logged(log, "SlowCaptioner"), logged(log, "ColourRanker")
    # Each image is seen once: one half is captioned, the other ranked.
    assert captioned + ranked == N
    assert captioned == whole["set_a"]["n_discovery"] + whole["set_b"]["n_discovery"]

    # Killed half-way through the captions, without warning.
    folder = tmp_path / "cut"
    process, log = start(sets, folder, sleep=0.02)
    deadline = time.monotonic() + 600
    while logged(log, "SlowCaptioner") < captioned // 2:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = logged(log, "SlowCaptioner")
    assert captioned // 2 <= before < captioned
    assert logged(log, "ColourRanker") == 0

    process, log = start(sets, folder)
    out, err = process.communicate()
    assert process.returncode == 0, err
    again = logged(log, "SlowCaptioner") - before
    # At most the batch that was in hand is computed a second time.
    assert captioned - before <= again <= captioned - before + 64
    assert facts(out) == whole
