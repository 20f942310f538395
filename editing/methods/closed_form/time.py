"""TIME: every token of a prompt takes the value of the same token of the target prompt.

All positions are used. Each word of the source is matched to the same word of the destination in
order, and so are the end token and the padding. λ is 0.1, keys and values are both edited, and
nothing is preserved. Unlike in the original, source words need not all occur in the destination: a
word without a counterpart is matched to the word at its place.

Orgad, Kawar, Belinkov, "Editing Implicit Assumptions in Text-to-Image Diffusion Models" (ICCV
2023), arXiv:2303.08084.
"""

from editing.methods.closed_form import ClosedForm
from editing.settings import LinearConfig

TIME = ClosedForm(
    "time",
    LinearConfig(tokens="aligned", lam=0.1, null_scale=0.0, pooled="leave"),
    fixed=frozenset({"null_scale"}),
    kinds=frozenset({"erase", "replace", "debias", "moderate"}),
)
