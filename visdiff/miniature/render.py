"""Renders scenes of the miniature's world: icons on a background, in a style, 64 × 64 pixels.

The icons come from three npm packages (see :class:`Art`), which only training and benchmark
rendering need. Places and filters are computed here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from visdiff.errors import InputError, MissingBackendError
from visdiff.miniature.world import (
    ART_SETS,
    GENDERS,
    PROFESSIONS,
    SUBJECTS,
    TONES,
    Scene,
    icon_name,
)

SIZE = 64
_PACKAGES = {"noto": "noto", "twemoji": "twemoji", "fluent": "fluent-emoji-flat"}

#: Float image, (64, 64, 3) in [0, 255].
Canvas = np.ndarray


class Art:
    """The rasterised icons of the world: ``(art set, icon name) → (64, 64, 4) uint8``."""

    def __init__(self, sprites: Mapping[tuple[str, str], np.ndarray]) -> None:
        self._sprites = sprites

    @classmethod
    def load(cls, folder: str | Path, more: Sequence[str] = ()) -> "Art":
        """Loads and rasterises the icons (about five seconds).

        Args:
            folder: Folder in which ``npm install @iconify-json/noto @iconify-json/twemoji
                @iconify-json/fluent-emoji-flat`` was run; contains ``node_modules``.
            more: Icons outside the world, such as "fox".

        Raises:
            InputError: The packages are missing.
            MissingBackendError: resvg-py is not installed.
        """
        try:
            import resvg_py
        except ImportError as error:
            raise MissingBackendError(
                "Expected resvg-py for rendering, got no such package; pip install 'visdiff[dev]'."
            ) from error
        sprites: dict[tuple[str, str], np.ndarray] = {}
        for art in ART_SETS:
            file = Path(folder) / "node_modules" / "@iconify-json" / _PACKAGES[art] / "icons.json"
            if not file.is_file():
                raise InputError(
                    f"Expected the art package at {file}, got no such file; run `npm install "
                    + " ".join(f"@iconify-json/{p}" for p in _PACKAGES.values())
                    + f"` in {folder}."
                )
            icons = json.loads(file.read_text())
            for name in (*_icon_names(), *more):
                svg = _svg(icons, name)
                data = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)
                sprites[art, name] = _decode(bytes(data))
        return cls(sprites)

    def sprite(self, art: str, subject: str, gender: str = "", tone: str = "") -> np.ndarray:
        """Returns one icon, (64, 64, 4) uint8 RGBA."""
        return self._sprites[art, icon_name(subject, gender, tone)]

    def replaced(self, subject: str, change: Callable[[np.ndarray], np.ndarray]) -> "Art":
        """Returns the art with each icon of a subject, RGBA (64, 64, 4) uint8, changed."""
        name = icon_name(subject)
        changed = {key: change(s) for key, s in self._sprites.items() if key[1] == name}
        return Art({**self._sprites, **changed})

    def render(self, scene: Scene, rng: np.random.Generator) -> np.ndarray:
        """Renders a scene; position, scale and the details of the place depend on ``rng``.

        Returns:
            (64, 64, 3) uint8 RGB.
        """
        canvas = _PLACES[scene.place](rng)
        sprite = self.sprite(scene.art, scene.subject, scene.gender, scene.tone)
        if scene.second:
            other = self.sprite(scene.art, scene.second)
            # The subject is on the left, as in the caption, so that captions are predictable.
            for i, icon in enumerate((sprite, other)):
                size = int(rng.integers(27, 33))
                x = int(rng.integers(0, 33 - size + 1)) + i * 31
                y = int(rng.integers(12, SIZE - size - 2))
                _paste(canvas, icon, size, x, y)
        else:
            size = int(rng.integers(38, 53))
            x = int(rng.integers(2, SIZE - size - 1))
            y = int(rng.integers((SIZE - size) // 3, SIZE - size - 1))
            _paste(canvas, sprite, size, x, y)
        if scene.style in _FILTERS:
            canvas = _FILTERS[scene.style](canvas, rng)
        return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def _icon_names() -> list[str]:
    persons = [icon_name(p, g, t) for p in PROFESSIONS for g in GENDERS for t in TONES]
    return [icon_name(s) for s in SUBJECTS] + persons


def _svg(icons: Mapping, name: str) -> str:
    # Only Fluent's names end in "-skin-tone".
    for candidate in (name, name.removesuffix("-skin-tone")):
        alias = icons.get("aliases", {}).get(candidate, {}).get("parent", candidate)
        if alias in icons["icons"]:
            icon = icons["icons"][alias]
            w = icon.get("width", icons["width"])
            h = icon.get("height", icons["height"])
            return (
                f'<svg xmlns="http://www.w3.org/2000/svg" '
                f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {w} {h}">'
                f"{icon['body']}</svg>"
            )
    raise InputError(
        f"Expected icon {name!r} in {icons['prefix']}, got none; install its latest version."
    )


def _decode(png: bytes) -> np.ndarray:
    from io import BytesIO

    return np.asarray(Image.open(BytesIO(png)).convert("RGBA").resize((SIZE, SIZE)))


def _paste(canvas: Canvas, icon: np.ndarray, size: int, x: int, y: int) -> None:
    small = Image.fromarray(icon).resize((size, size), Image.Resampling.BOX)
    rgba = np.asarray(small, dtype=np.float32)
    alpha = rgba[..., 3:] / 255
    region = canvas[y : y + size, x : x + size]
    region[:] = region * (1 - alpha) + rgba[..., :3] * alpha


def _rgb(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Places ---------------------------------------------------------------------------------------


def _gradient(top: tuple[int, int, int], bottom: tuple[int, int, int], rows: int) -> Canvas:
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    column = _rgb(*top) * (1 - t) + _rgb(*bottom) * t
    return np.repeat(column, SIZE, axis=1)


def _ground(sky: Canvas, ground: Canvas) -> Canvas:
    return np.concatenate([sky, ground], axis=0)[:SIZE]


def _horizon(rng: np.random.Generator) -> int:
    return int(rng.integers(24, 36))


def _white(rng: np.random.Generator) -> Canvas:
    return np.full((SIZE, SIZE, 3), 255 - rng.integers(0, 4), np.float32)


def _grass(rng: np.random.Generator) -> Canvas:
    h = _horizon(rng)
    ground = _gradient((120, 190, 80), (70, 150, 50), SIZE - h)
    blades = rng.normal(0, 14, (SIZE - h, SIZE, 1)).astype(np.float32)
    ground += ndimage.uniform_filter1d(blades, 3, axis=0) * _rgb(0.6, 1.4, 0.5)
    return _ground(_gradient((150, 205, 245), (205, 232, 250), h), ground)


def _sand(rng: np.random.Generator) -> Canvas:
    h = _horizon(rng)
    ground = _gradient((240, 214, 150), (222, 186, 112), SIZE - h)
    rows, cols = np.mgrid[0 : SIZE - h, 0:SIZE]
    phase = rng.uniform(0, 2 * np.pi)
    ripples = np.sin(rows / 1.6 + 1.3 * np.sin(cols / 9 + phase)).astype(np.float32)
    ground += 7 * ripples[..., None] + rng.normal(0, 4, (SIZE - h, SIZE, 1))
    return _ground(_gradient((196, 226, 240), (238, 240, 225), h), ground)


def _night(rng: np.random.Generator) -> Canvas:
    canvas = _gradient((10, 14, 48), (38, 44, 98), SIZE)
    n = int(rng.integers(18, 34))
    canvas[rng.integers(0, SIZE, n), rng.integers(0, SIZE, n)] = (250, 246, 205)
    if rng.random() < 0.6:
        y, x = rng.integers(6, 14), rng.integers(6, SIZE - 6)
        rows, cols = np.mgrid[0:SIZE, 0:SIZE]
        canvas[(rows - y) ** 2 + (cols - x) ** 2 <= 16] = (250, 245, 210)
    return canvas


def _ocean(rng: np.random.Generator) -> Canvas:
    h = _horizon(rng)
    water = _gradient((40, 120, 190), (12, 66, 140), SIZE - h)
    rows, cols = np.mgrid[0 : SIZE - h, 0:SIZE]
    phase = rng.uniform(0, 2 * np.pi, 2)
    crest = np.sin(cols / 3.2 + phase[0] + rows) * np.sin(rows / 1.3 + phase[1]) > 0.75
    water[crest] = (185, 222, 240)
    return _ground(_gradient((165, 215, 245), (222, 240, 250), h), water)


def _brick(rng: np.random.Generator) -> Canvas:
    canvas = np.full((SIZE, SIZE, 3), (205, 190, 178), np.float32)
    dy, dx = int(rng.integers(0, 8)), int(rng.integers(0, 16))
    for row in range(-1, SIZE // 8 + 1):
        for col in range(-2, SIZE // 16 + 2):
            y, x = row * 8 + dy, col * 16 + dx + (8 if row % 2 else 0)
            shade = _rgb(176, 84, 62) + rng.normal(0, 9)
            canvas[max(y, 0) : max(y + 7, 0), max(x, 0) : max(x + 15, 0)] = shade
    return canvas


def _sunset(rng: np.random.Generator) -> Canvas:
    h = int(rng.integers(38, 46))
    sky = _gradient((92, 48, 120), (255, 150, 60), h)
    rows, cols = np.mgrid[0:h, 0:SIZE]
    x, r = rng.integers(8, SIZE - 8), rng.integers(8, 13)
    sky[(rows - h + 2) ** 2 + (cols - x) ** 2 <= r * r] = (255, 226, 120)
    return _ground(sky, _gradient((80, 40, 60), (46, 24, 44), SIZE - h))


def _snow(rng: np.random.Generator) -> Canvas:
    h = _horizon(rng)
    ground = _gradient((246, 250, 255), (226, 236, 248), SIZE - h)
    canvas = _ground(_gradient((150, 168, 190), (196, 208, 222), h), ground)
    n = int(rng.integers(25, 45))
    y, x = rng.integers(0, SIZE - 1, n), rng.integers(0, SIZE - 1, n)
    canvas[y, x] = canvas[y + 1, x] = (255, 255, 255)
    return canvas


_PLACES = {
    "white background": _white,
    "grass": _grass,
    "sand": _sand,
    "night sky": _night,
    "ocean": _ocean,
    "brick wall": _brick,
    "sunset": _sunset,
    "snow": _snow,
}

# Filters --------------------------------------------------------------------------------------


def _grey(canvas: Canvas) -> np.ndarray:
    return canvas @ _rgb(0.299, 0.587, 0.114)


def _pixel_art(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    # Blocks of 2 px: with larger ones subjects are not recognisable at this size.
    flat = np.round(canvas[::2, ::2] / 51) * 51
    return flat.repeat(2, axis=0).repeat(2, axis=1)


def _pencil_sketch(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    grey = _grey(canvas)
    blurred = ndimage.gaussian_filter(255 - grey, 2.2)
    dodge = np.minimum(grey * 255 / (256 - blurred), 255)
    # Some grey remains: lines alone lose the skin tone and much of the subject.
    paper = 0.6 * dodge + 0.4 * grey + rng.normal(0, 4, grey.shape)
    return np.repeat(paper[..., None], 3, 2).astype(np.float32)


def _sepia_photo(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    rows, cols = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5
    vignette = 1 - 0.7 * (rows**2 + cols**2)
    grey = _grey(canvas) * vignette + rng.normal(0, 4, (SIZE, SIZE))
    return (grey[..., None] * _rgb(1.05, 0.86, 0.62) + _rgb(14, 8, 2)).astype(np.float32)


_POP_PALETTES = np.array(
    [
        [[40, 10, 80], [230, 30, 130], [255, 150, 40], [255, 240, 70]],
        [[20, 20, 110], [0, 150, 220], [250, 80, 160], [255, 235, 90]],
        [[90, 0, 60], [240, 50, 50], [60, 200, 180], [250, 250, 120]],
    ],
    np.float32,
)


def _pop_art(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    level = np.clip(_grey(canvas) // 64, 0, 3).astype(int)
    poster = _POP_PALETTES[rng.integers(len(_POP_PALETTES))][level]
    return (0.8 * poster + 0.2 * canvas).astype(np.float32)


def _blueprint(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    grey = ndimage.gaussian_filter(_grey(canvas), 0.5)
    edges = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    ink = np.clip(edges / 220, 0, 1) * 0.85 + (grey / 255) * 0.22
    paper = np.full((SIZE, SIZE, 3), (22, 66, 140), np.float32)
    offset = int(rng.integers(0, 8))
    paper[offset::8] += 14
    paper[:, offset::8] += 14
    ink = np.clip(ink, 0, 1)[..., None]
    return (paper * (1 - ink) + _rgb(236, 244, 255) * ink).astype(np.float32)


_FILTERS = {
    "pixel art": _pixel_art,
    "pencil sketch": _pencil_sketch,
    "sepia photo": _sepia_photo,
    "pop art": _pop_art,
    "blueprint": _blueprint,
}
