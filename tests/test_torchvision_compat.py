"""`ensure_torchvision` where the plain import works, where it fails as known, and otherwise.

Each case is a process of its own with a torchvision of its own, since imports cannot be undone.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WORKS = "version = 'works'"
FAILS_AS_KNOWN = """
from torchvision import early
import torch
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: None)
version = 'mended'
"""
FAILS_OTHERWISE = "raise RuntimeError('something else entirely')"

PROGRAM = """
import sys
from visdiff.torchvision_compat import ensure_torchvision
try:
    answers = ensure_torchvision(), ensure_torchvision()
except RuntimeError as error:
    sys.stdout.write(f"error: {error}")
else:
    import torchvision
    import torch
    declared = "torch" in sys.modules and hasattr(torch.ops.torchvision, "nms")
    sys.stdout.write(f"{answers} {torchvision.version} {declared}")
"""


def run(program: str, *paths: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (WORKS, "(False, False) works False"),
        (FAILS_AS_KNOWN, "(True, True) mended True"),
        (FAILS_OTHERWISE, "error: something else entirely"),
    ],
)
def test_each_situation(tmp_path: Path, source: str, expected: str) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "early.py").write_text("")
    assert run(PROGRAM, tmp_path) == expected


def test_the_installed_one() -> None:
    program = """
import sys
from visdiff.torchvision_compat import ensure_torchvision
ensure_torchvision()
from PIL import Image
from torchvision.transforms import v2
sys.stdout.write(str(v2.Resize(4)(Image.new("RGB", (8, 8))).size))
"""
    assert run(program) == "(4, 4)"
