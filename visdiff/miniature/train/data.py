"""The training set: scenes rendered once to a memory-mapped file, with their attributes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from visdiff.files import write_whole
from visdiff.miniature import world
from visdiff.miniature.render import SIZE, Art
from visdiff.miniature.world import Attribute, Scene

ATTRIBUTES: tuple[Attribute, ...] = ("subject", "second", "gender", "tone", "place", "style")
_VALUES: dict[str, tuple[str, ...]] = {
    "subject": world.SUBJECTS + world.PROFESSIONS,
    "second": world.SUBJECTS,
    "gender": world.GENDERS,
    "tone": world.TONES,
    "place": tuple(world.PLACES),
    "style": world.STYLES,
}


@dataclass(frozen=True)
class Renderings:
    """Scenes and their rendered images, in pairs.

    Scene 2k follows the world's priors. Scene 2k + 1 differs from it in one attribute and serves as
    a hard negative in contrastive batches. The generator is trained on even scenes only, because
    the variations do not follow the priors.

    Attributes:
        images: (n, 64, 64, 3) uint8, memory-mapped.
        scenes: n scenes.
        truth: (n, 6) int, value index of each of ATTRIBUTES, -1 where the scene has none.
    """

    images: np.ndarray
    scenes: list[Scene]
    truth: np.ndarray

    @classmethod
    def make(cls, folder: Path, art: Path, n: int, seed: int) -> "Renderings":
        """Renders ``n`` scenes into ``folder``, or opens them if they exist."""
        pixels, truth = folder / f"scenes-{seed}-{n}.npy", folder / f"scenes-{seed}-{n}.jsonl"
        if not truth.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            icons = Art.load(art)
            rng = np.random.default_rng(seed)
            images = np.lib.format.open_memmap(
                pixels, mode="w+", dtype=np.uint8, shape=(n, SIZE, SIZE, 3)
            )
            lines = []
            scene = world.sample_scene(rng)
            for i in range(n):
                scene = world.vary(scene, rng) if i % 2 else world.sample_scene(rng)
                images[i] = icons.render(scene, rng)
                lines.append(json.dumps(asdict(scene)))
            images.flush()
            write_whole(truth, "\n".join(lines).encode())  # written last: it marks complete pixels
        scenes = [Scene(**json.loads(line)) for line in truth.read_text().splitlines()]
        return cls(
            images=np.load(pixels, mmap_mode="r"),
            scenes=scenes,
            truth=np.array([encode(s, frozenset(ATTRIBUTES)) for s in scenes]),
        )


def encode(scene: Scene, stated: frozenset[Attribute]) -> list[int]:
    """Returns the value index of each of ATTRIBUTES, -1 if not stated or not in the scene."""
    return [
        _VALUES[a].index(value) if a in stated and (value := getattr(scene, a)) else -1
        for a in ATTRIBUTES
    ]


def true_of(stated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns whether each sentence is true of each scene.

    Args:
        stated: (t, 6) attributes that the sentences state, from `encode`.
        truth: (n, 6) attributes of the scenes.

    Returns:
        (t, n) bool. A stated subject may match either of a scene's two subjects.
    """
    match = np.ones((len(stated), len(truth)), bool)
    for column, attribute in enumerate(ATTRIBUTES):
        value = stated[:, column, None]
        same = value == truth[None, :, column]
        if attribute in ("subject", "second"):
            same |= value == truth[None, :, 1 if attribute == "subject" else 0]
        match &= (value < 0) | same
    return match
