"""Concept Ablation: trains the concept's prediction to match an anchor's, on anchor images.

This is the model-based variant of the authors' diffusers code: keys and values of the
cross-attentions, AdamW with weight decay 0.01 and gradients clipped at norm 1, 100 steps with batch
size 8 at learning rate 1.6e-5 (2e-6 times the batch size, as with their ``--scale_lr``), uniform
timesteps, and as goal the prediction of the model *being trained*, without gradient. The anchor is
the target of the request, or the empty prompt if it has none.

Differences: their anchor images are drawn from 200 prompts or more; here ``runs`` images are drawn
from ``templates`` with DDIM and stored as latents. Flips, crops and masks of images, and prior
preservation, are not implemented. For the bundled model the learning rate is a tenth of the peak
rate of its training, untuned.

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
