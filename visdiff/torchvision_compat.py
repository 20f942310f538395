"""Import of torchvision when its compiled extension does not match the installed torch.

The package index has one torchvision, built for CUDA. With a CPU-only torch its extension library
does not load, and ``import torchvision`` fails while it registers shape functions for an undeclared
operator. open_clip, timm and the image processors of transformers need only its transforms, which
are plain Python. Declaring the schemas of the missing operators first makes the import work; only
the detection operators, which visdiff does not use, are missing.
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
# torch drops the declarations when the library object is garbage-collected.
_library: Any = None


def ensure_torchvision() -> bool:
    """Makes ``import torchvision`` work; call it before importing a library that needs it.

    A plain import is tried first. If it fails with exactly the error above, the missing operators
    are declared, the partially imported modules removed, and the import tried again. Any other
    error propagates.

    Returns:
        True if the operators had to be declared (in this call or an earlier one), else False.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: The import fails for another reason.
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
