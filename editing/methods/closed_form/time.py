"""TIME: every token of a prompt takes the value of the same token of the target prompt.

All positions are used. Each token of the source is matched to the first equal token of the
destination after the match before it, and so are the end token and the padding; "an" counts as
"a", so that "an apple" can become "a green apple". λ is 0.1, keys and values are both edited, and
nothing is preserved. This is ``apply_time.py`` of bahjat-kawar/time-diffusion with ``--with_to_k``;
its ``--with_augs`` is ``templates=("{}", "a photo of {}", "an image of {}", "a picture of {}")``.

Unlike in the original, source tokens need not all occur in the destination in their order: if they
do not, the longest equal runs are matched, and a word without a counterpart is matched to the word
at its place.

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
