"""TIME: every token of a prompt takes the value of the same token of the target prompt.

All positions, each word of the source meeting the same word of the destination in order, end token
and padding following; λ = 0.1; keys and values both; nothing is preserved. Unlike the original,
source words need not all occur in the destination: what has no counterpart meets what stands in
its place.

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
