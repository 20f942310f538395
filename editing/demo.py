"""The demo: a concept is erased from the bundled generator, and the edit is audited, offline."""

from collections.abc import Callable
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
IMAGES = 48
"""Pairs a group: enough for what is plain, few enough for a minute or two."""
SETTINGS = Settings(steps=6, guidance=5.0, scheduler="DPMSolverMultistep")


def demo(
    out: Path,
    cache: Cache,
    *,
    seed: int = 0,
    progress: bool = True,
    on_batch: Callable[[Progress], None] | None = None,
) -> AuditReport:
    """Erases a church from the miniature's generator and says what else that changed.

    A few things are preserved, no person, place or style: there shall be something to find.

    Args:
        out: Gets ``edit.safetensors``, ``images/`` and the report's files.
        cache: Keeps captions and embeddings.
        seed: Seed of the statistics.
        progress: Show the comparison's progress on stderr.
        on_batch: Told after each batch of images.
    """
    pipe = load_pipeline("miniature")
    edit: Edit = fit(pipe, [Erase(CONCEPT), Preserve(PRESERVED)])
    out.mkdir(parents=True, exist_ok=True)
    edit.save(out / "edit.safetensors")
    report = audit(
        pipe, edit, out / "images", images=IMAGES, settings=SETTINGS, batch_size=16,
        on_batch=on_batch, preset="miniature", cache=cache, progress=progress, seed=seed,
    )  # fmt: skip
    report.save(out)
    return report
