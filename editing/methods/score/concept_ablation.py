"""Concept Ablation: the concept's prompt is to predict what an anchor's does, on anchor images.

The model-based variant of the authors' diffusers code: keys and values of the cross-attentions,
AdamW with decay 0.01 and gradients clipped at 1, 100 steps of 8 at rate 1.6e-5 (2e-6 times the
batch, as their ``--scale_lr`` does), timesteps uniform, and as goal the prediction of the model *as
it is being trained*, without gradient. The anchor is a request's target, the empty prompt where it
has none.

With these differences: their anchor images are drawn from 200 prompts or more; ours from
``templates``, ``runs`` of them by DDIM, and kept as latents. Flips, crops and masks of images, and
prior preservation, are left out. For the bundled model: a tenth of the peak rate that it was
trained at; untuned.

Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models" (ICCV 2023), arXiv:2303.13516.
"""

from editing.methods.score import ScoreMethod
from editing.methods.score.settings import ScoreConfig

CONCEPT_ABLATION = ScoreMethod(
    "concept-ablation",
    ScoreConfig(
        weights="attn2-kv",
        aim="alternative",
        reference="frozen",
        teacher="current",
        points="noised",
        concept_share=0.0,
        target_share=1.0,
        runs=50,
        run_guidance=6.0,
        optimizer="adamw",
        weight_decay=0.01,
        clip=1.0,
        lr=1.6e-5,
        steps=100,
        batch=8,
    ),
    fixed=frozenset({"aim", "reference", "null_weight"}),
    variants={"miniature": {"lr": 8e-5, "steps": 200, "runs": 16, "micro_batch": 8}},
)
