"""Erased Stable Diffusion (ESD): erases concepts with the model's own negated guidance.

The conditional score of the concept is trained towards the frozen model's unconditional score minus
η times its guidance term. There are three published choices of weights:

``esd-x``: the cross-attentions, for concepts named in the prompt, such as an artist's style.
``esd-u``: all other layers, for concepts that must not be drawn for any prompt.
``esd-x-strict``: only keys and values of the cross-attentions.

Settings are those of the authors' current code (``esd_sd.py``: Adam, 200 steps with batch size 1,
learning rate 5e-5, guidance 3 along the runs, η = 2 in the convention of the code, which is 1 in
that of the paper; the paper itself used 1000 steps at 1e-5). Differences: points come from stored
DDIM runs, at the resolution that the model was trained at (theirs: 1024 for all models) and with
the input scaling of its scheduler; Adam updates float32 weights. Their "erase_from" is not
implemented. For SDXL (``esd_sdxl.py``): learning rate 2e-4 (``esd-u``: 1e-5), guidance 2 and η = 0
in the convention of the paper, 1 in that of the code. Their runs are guided against zeros, as
SDXL's configuration specifies, but the empty prompt of their loss is encoded; ours too, and
``null_encoding="pipeline"`` sets zeros in the loss as well, which guided sampling uses. For the
bundled model: a tenth of the peak rate of its training (``esd-u``: half of that) and larger
batches, untuned.

Gandikota et al., "Erasing Concepts from Diffusion Models" (ICCV 2023), arXiv:2303.07345.
"""

from typing import Any

from editing.methods.score import ScoreMethod
from editing.methods.score.settings import Group, ScoreConfig

_FIXED = frozenset(
    {"weights", "aim", "reference", "null_weight", "teacher", "target_share", "null_share"}
)
_MINIATURE = {"lr": 8e-5, "batch": 8, "micro_batch": 8, "run_steps": 20}


def _method(name: str, weights: Group, xl_rate: float, **miniature: Any) -> ScoreMethod:
    return ScoreMethod(
        name,
        ScoreConfig(
            weights=weights, aim="negate", eta=1.0, null_encoding="prompt", lr=5e-5, steps=200
        ),
        fixed=_FIXED,
        variants={
            "sdxl": {"lr": xl_rate, "run_guidance": 2.0, "eta": 0.0},
            "miniature": _MINIATURE | miniature,
        },
    )


ESD_X = _method("esd-x", "attn2", 2e-4)
ESD_U = _method("esd-u", "not-attn2", 1e-5, lr=4e-5)
ESD_X_STRICT = _method("esd-x-strict", "attn2-kv", 2e-4)
