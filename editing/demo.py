"""The demo: erases a concept from the bundled generator and audits the edit, offline."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from editing.audits.audit import audit
from editing.audits.report import AuditReport
from editing.edit import Edit
from editing.fitting import fit
from editing.generate import Progress
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.requests import Erase, Preserve
from visdiff.cache import Cache
from visdiff.miniature import world

CONCEPT = "church"
PRESERVED = tuple(world.an(s) for s in world.SUBJECTS if s != CONCEPT)[::5]
IMAGES = 40
"""Pairs per group: the fewest of which half can be tested (`StatisticsConfig.min_scored`)."""
SETTINGS = Settings(steps=6, guidance=5.0, scheduler="DPMSolverMultistep")


def demo(
    out: Path,
    cache: Cache,
    *,
    seed: int = 0,
    progress: bool = True,
    on_batch: Callable[[Progress], None] | None = None,
) -> AuditReport:
    """Erases the concept "church" from the miniature generator and audits the edit.

    Only a few objects are preserved, and no people, places or styles, so that the audit has side
    effects to find.

    Args:
        out: Output folder for ``edit.safetensors``, ``images/`` and the report.
        cache: Cache of captions and embeddings.
        seed: Seed of the statistics.
        progress: Show the progress of the comparison on stderr.
        on_batch: Called after each batch of images.

    Returns:
        The audit.
    """
    pipe = load_pipeline("miniature")
    edit: Edit = fit(pipe, [Erase(CONCEPT), Preserve(PRESERVED)])
    out.mkdir(parents=True, exist_ok=True)
    edit.save(out / "edit.safetensors")
    report = audit(
        pipe, edit, out / "images", images=IMAGES, settings=SETTINGS, batch_size=16,
        on_batch=on_batch, preset="miniature", cache=cache, progress=progress, seed=seed,
    )  # fmt: skip
    report = replace(report, command=f"visdiff demo audit --seed {seed}")
    report.save(out)
    return report
