"""Erasing concepts by the model's own guidance, turned round (ESD).

The conditional score of the concept is trained to the frozen model's unconditional score minus η
times its guidance term. The three published choices of weights:

``esd-x``: the cross-attentions; for what a prompt names, such as an artist's style.
``esd-u``: all other layers; for what shall not be drawn whatever the prompt.
``esd-x-strict``: the cross-attentions' keys and values alone.

Settings are those of the authors' code of today (``esd_sd.py``: Adam, 200 steps of 1, rate 5e-5,
guidance 3 along the runs, η = 2 as it counts, which is 1 as the paper counts; the paper itself:
1000 steps at 1e-5). With these differences: points come from kept DDIM runs, at the resolution that
the model was trained on (theirs: 1024 for all models) and as its scheduler scales them; Adam works
on float32 weights. Their "erase_from" is left out. For SDXL: rate 2e-4 (``esd-u``: 1e-5), guidance
2 and η = 0 as the paper counts, their code's 1. For the bundled model: a tenth of the peak rate
that it was trained at (``esd-u``: half of that), in batches; untuned.

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
        ScoreConfig(weights=weights, aim="negate", eta=1.0, lr=5e-5, steps=200),
        fixed=_FIXED,
        variants={
            "sdxl": {"lr": xl_rate, "run_guidance": 2.0, "eta": 0.0},
            "miniature": _MINIATURE | miniature,
        },
    )


ESD_X = _method("esd-x", "attn2", 2e-4)
ESD_U = _method("esd-u", "not-attn2", 1e-5, lr=4e-5)
ESD_X_STRICT = _method("esd-x-strict", "attn2-kv", 2e-4)
