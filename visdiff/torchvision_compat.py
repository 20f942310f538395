"""Import torchvision even where its compiled half does not fit the installed torch.

The package index serves one torchvision, built for CUDA. Beside a CPU-only torch its extension
library does not load, and then ``import torchvision`` dies while it registers shape functions for
an operator that was never declared. open_clip, timm and the image processors of transformers import
torchvision for its transforms, which are plain Python. Declaring the schemas of the missing
operators first lets all of it work, except the detection operators themselves, which visdiff does
not use.
"""

import importlib
import sys
import threading
from typing import Any

_SYMPTOM = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_lock = threading.Lock()
# torch forgets the declarations when the library object is collected.
_library: Any = None


def ensure_torchvision() -> bool:
    """Make ``import torchvision`` work; to be called before a library that imports it.

    A plain import is tried first. Only when it fails with exactly the symptom above are the missing
    operators declared, the half-imported modules removed, and the import tried again. Any other
    failure is the caller's to see.

    Returns:
        True when the operators had to be declared (in this call or an earlier one), False when the
        plain import works.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: Its import fails in another way.
    """
    global _library
    with _lock:
        if _library is not None:
            return True
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if _SYMPTOM not in str(error):
                raise
        else:
            return False

        import torch

        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _library = library
        importlib.import_module("torchvision")
        return True
