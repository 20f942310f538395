"""On the bundled generator, whose world is known: what is erased goes, what is preserved stays."""

from typing import Any

import numpy as np
import pytest
import torch

import editing
from editing.edit import Edit
from editing.pipelines.loading import load_pipeline
from editing.requests import Erase, Preserve, Replace
from visdiff import miniature
from visdiff.miniature import world
from visdiff.miniature.evaluate import SUBJECTS
from visdiff.miniature.generate import Drawing, sample
from visdiff.torchvision_compat import ensure_torchvision

SEEDS = range(6)
# Subjects that the bundled generator draws well: of others, an edit could not be seen.
ERASED = ("accordion", "sailboat")
OTHERS = ("firefighter", "technologist", "corn")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline("miniature")


@pytest.fixture(scope="module")
def classifier() -> Any:
    ensure_torchvision()
    from transformers import AutoModelForImageClassification

    folder = miniature.folder("classifier")
    return AutoModelForImageClassification.from_pretrained(folder).to(torch.float32).eval()


def draw(pipe: Any, subjects: tuple[str, ...]) -> np.ndarray:
    """Images of each subject, one a seed, uint8, shape (subjects × seeds, 64, 64, 3)."""
    drawings = [Drawing(f"a picture of {world.an(s)}", seed) for s in subjects for seed in SEEDS]
    return np.stack([np.asarray(image) for image in sample(pipe, drawings)])


def accuracy(classifier: Any, images: np.ndarray, subjects: tuple[str, ...]) -> float:
    """Share of images that the classifier takes for their subject."""
    from visdiff.miniature.train.clip import pixels

    with torch.inference_mode():
        found = classifier(pixels(images, torch.device("cpu"))).logits.argmax(1).tolist()
    truth = [SUBJECTS.index(s) for s in subjects for _ in SEEDS]
    return float(np.mean([a == b for a, b in zip(found, truth, strict=True)]))


@pytest.mark.slow
def test_what_is_asked_for_changes_and_the_rest_stays(pipe: Any, classifier: Any) -> None:
    kept = [world.an(s) for s in SUBJECTS if s not in ERASED]
    requests = [Erase("accordion"), Replace("sailboat", "burger"), Preserve(kept)]
    edit = editing.fit(pipe, requests, nearest=0)
    before = [draw(pipe, ERASED), draw(pipe, OTHERS)]
    with edit.applied(pipe):
        after = [draw(pipe, ERASED), draw(pipe, OTHERS)]
    assert accuracy(classifier, before[0], ERASED) >= 0.7, "the unedited model draws them"
    assert accuracy(classifier, after[0], ERASED) <= 0.1
    # A floor: one of these eighteen images is 6 %.
    assert accuracy(classifier, after[1], OTHERS) >= 0.8 * accuracy(classifier, before[1], OTHERS)
    # The replaced concept is drawn as what replaces it.
    assert accuracy(classifier, after[0][len(SEEDS) :], ("burger",)) >= 0.5
    moved = [np.abs(a.astype(float) - b).mean() for a, b in zip(after, before, strict=True)]
    assert moved[1] < 0.75 * moved[0]


def test_rece_says_when_preserving_undoes_it(pipe: Any) -> None:
    """Of 8 churches 8 are recognised with the rest of the world preserved, 1 with nothing."""
    words = [world.an(s) for s in (*world.SUBJECTS, *world.PROFESSIONS) if s != "church"]

    def undone(edit: Edit) -> bool:
        return any("The later solves undo the edit: 'church'" in w
                   for w in edit.diagnostics["warnings"])  # fmt: skip

    assert not undone(editing.fit(pipe, [Erase("church")], "rece", nearest=0))
    held = editing.fit(pipe, [Erase("church"), Preserve(words)], "rece", nearest=0)
    assert undone(held)
    (target,) = held.diagnostics["targets"]
    assert target["reached"] < 0.6 < 0.9 < target["first"]["reached"]
