"""``scenes``: procedural images with ground truth, the data set that is always there.

One or two shaded solids on a patterned ground under a sky. Twelve factors are drawn independently (but for the held-out
pairs of shape and color) from a counter-based generator keyed by (seed, split, index): image i is the same whichever
others are made, in whatever order. Factors are told by structure, not by the value of any one pixel; colors, camera,
light and places vary continuously beneath them.

``vary`` lets some of this vary alone, so that a model of minutes learns it: all else then stays at ``STILL``, a green
cube of medium size in the middle of a plain ground under a clear sky, lit from the left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fastgan._words import did_you_mean
from fastgan.data import scene_captions
from fastgan.data.dataset import MAX_CACHE_BYTES, ImageDataset
from fastgan.data.resize import check_channels, convert_channels
from fastgan.data.scene_render import SHAPES, render

__all__ = ["CONTINUOUS", "FACTORS", "HELD_OUT", "STILL", "Scenes"]

# hue, saturation, value; a scene moves hue and value a little
PAINT = {
    "red": (0.99, 0.85, 0.86),
    "orange": (0.075, 0.9, 0.95),
    "yellow": (0.15, 0.85, 0.95),
    "green": (0.36, 0.75, 0.68),
    "cyan": (0.5, 0.7, 0.85),
    "blue": (0.62, 0.8, 0.85),
    "purple": (0.78, 0.65, 0.75),
    "white": (0.1, 0.04, 0.95),
}
COLORS = tuple(PAINT)

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": COLORS,
    "size": ("small", "medium", "large"),
    "position": ("left", "middle", "right"),
    "texture": ("plain", "striped", "checkered", "dotted"),
    "material": ("matte", "shiny"),
    "light": ("left", "front", "right"),
    "sky": ("clear", "cloudy", "banded", "starry"),
    "ground": ("plain", "checkered", "striped", "spotted"),
    "neighbor": ("none", "beside", "in front", "behind"),
    "neighbor_shape": ("none", *SHAPES),
    "neighbor_color": ("none", *COLORS),
}

# (shape, color) pairs that only the split "held_out" shows: what a model must compose, not remember
HELD_OUT = {shape: COLORS[(3 * i + 1) % len(COLORS)] for i, shape in enumerate(SHAPES)}

SPLITS = ("train", "test", "held_out")

CONTINUOUS = (
    "scale", "x", "z", "yaw", "camera", "azimuth", "elevation", "brightness", "sky_hue", "sky_saturation", "haze_hue",
    "ground_hue", "ground_saturation", "ground_value", "ground_scale", "hue", "value",
    "neighbor_scale", "neighbor_side", "neighbor_gap", "neighbor_yaw", "neighbor_texture", "neighbor_hue",
    "neighbor_value",
)  # fmt: skip
DISCRETE = ("shape", "color", "texture", "material", "sky", "ground", "neighbor", "neighbor_shape", "neighbor_color")
# factors that are thirds of a continuous value
THIRDS = {"size": "scale", "position": "x", "light": "azimuth"}
# Where nothing else is said a value that does not vary is the middle one. A cube is a solid whose yaw can be seen.
STILL: dict[str, str | float] = {
    "shape": "cube", "color": "green", "texture": "plain", "material": "matte", "scale": 0.6,
    "sky": "clear", "ground": "plain", "sky_hue": 0.25, "ground_hue": 0.2, "azimuth": 0.3,
    "neighbor": "none", "neighbor_shape": "pyramid", "neighbor_color": "purple", "neighbor_texture": 0.25,
}  # fmt: skip
TURNED = ("yaw", "neighbor_yaw")
# Of a full turn, what yaw goes over where ``vary`` is given: a cube looks the same after a quarter, and mirrored in the
# other half of it
VISIBLE_TURN = 1 / 8
POINTS = 16  # random places in the sky: clouds, stars
COLUMNS = {name: i for i, name in enumerate(CONTINUOUS + DISCRETE)}


def _uniforms(key: int, indices: np.ndarray, columns: int) -> np.ndarray:
    """(N, columns) float64 in [0, 1) from (key, index, column) by splitmix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        state = np.uint64(key & (2**64 - 1)) * np.uint64(0xD1342543DE82EF95) + indices.astype(np.uint64)[:, None]
        state = _mix(state * np.uint64(0x9E3779B97F4A7C15))
        state = _mix(state + np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# the sky's and ground's places where something else varies
STILL_POINTS = _uniforms(0, np.zeros(1, np.int64), 2 * POINTS).reshape(POINTS, 2).astype(np.float32)


def _still(varied: set[str]) -> dict[str, float]:
    """The number in [0, 1) of every column that is not among ``varied``."""
    # what is told of a neighbor needs one
    neighbor = {"neighbor": "beside"} if any(name.startswith("neighbor_") for name in varied) else {}
    chosen = STILL | neighbor
    numbers = {}
    for name in COLUMNS.keys() - varied:
        value = chosen.get(name, 0.5)
        if isinstance(value, str):
            options = _options(name)
            value = (options.index(value) + 0.5) / len(options)
        numbers[name] = value
    return numbers


def _options(name: str) -> tuple[str, ...]:
    """What a discrete column is drawn from: a neighbor's are those of a neighbor that is there."""
    return FACTORS[name][1:] if name.startswith("neighbor_") else FACTORS[name]


def _thirds(u: np.ndarray) -> np.ndarray:
    return np.minimum((u * 3).astype(np.int64), 2)


class Scenes(ImageDataset):
    """Procedural scenes.

    ``label`` is the main solid's shape (6 classes) or another factor; ``factors`` gives all twelve factors,
    ``continuous`` the values beneath them, ``caption`` a sentence, ``segments`` the mask of sky, ground and solids.
    Images are rendered on first use, about a millisecond each at 64 px.

    Args:
        size: how many images.
        image_size: height and width in pixels, 8 to 512.
        channels: 3 (RGB), 1 (grey) or 4.
        split: ``train``, ``test`` (other images of the same kind) or ``held_out`` (pairs of shape and color,
            ``HELD_OUT``, that the other two never show).
        seed: of the whole set.
        label: of ``FACTORS``; its values are the classes.
        vary: of ``FACTORS`` and ``CONTINUOUS``, what varies while all else stays at ``STILL``; None: everything.
            "size", "position" and "light" vary as "scale", "x" and "azimuth" do. What is told of a neighbor gives every
            scene one, beside the solid. Pairs are held out where both shape and color vary.
        max_cache_bytes: bound of the cache of rendered images.
    """

    def __init__(
        self,
        size: int = 16384,
        *,
        image_size: int = 64,
        channels: int = 3,
        split: str = "train",
        seed: int = 0,
        label: str = "shape",
        vary: Sequence[str] | None = None,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or not 8 <= image_size <= 512:
            raise ValueError(f"image_size takes 8 to 512 pixels for scenes, got {image_size!r}")
        check_channels(channels)
        if split not in SPLITS:
            raise ValueError(f"split takes {', '.join(map(repr, SPLITS))} for scenes, got {split!r}")
        if label not in FACTORS:
            raise ValueError(f"label takes {', '.join(FACTORS)}, got {label!r}{did_you_mean(label, FACTORS)}")
        self.split, self.seed, self.vary = split, seed, None if vary is None else _checked(vary)
        self._key = seed * len(SPLITS) + SPLITS.index(split)
        varied = set(COLUMNS) if vary is None else {THIRDS.get(name, name) for name in self.vary}
        self._varied = [name for name in CONTINUOUS if name in varied]
        self._still = _still(varied)
        self._holds_out = {"shape", "color"} <= varied
        if split == "held_out" and not self._holds_out:
            raise ValueError(f"split 'held_out' is about shape and color: vary takes both for it, got {self.vary}")
        asked = [f"label={label}"] * (label != "shape") + ([] if vary is None else [f"vary={','.join(self.vary)}"])
        super().__init__(
            "?".join(filter(None, ["scenes", "&".join(asked)])),
            size,
            image_size=image_size,
            channels=channels,
            classes=FACTORS[label],
            origin=f"made on the fly, split {split}, seed {seed}",
            max_cache_bytes=max_cache_bytes,
        )
        self.labels = self.factors(torch.arange(size))[label]

    def _draw(self, indices: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Uniform numbers (N, columns), factor values {name: (N,) int64} and sky points (N, 16, 2)."""
        drawn = _uniforms(self._key, indices, len(COLUMNS) + 2 * POINTS)
        u, points = drawn[:, : len(COLUMNS)], drawn[:, len(COLUMNS) :].reshape(-1, POINTS, 2).astype(np.float32)
        if self.vary is not None:
            u[:, [COLUMNS[name] for name in TURNED]] *= VISIBLE_TURN
            for name, number in self._still.items():
                u[:, COLUMNS[name]] = number * (VISIBLE_TURN if name in TURNED else 1)
            points = np.broadcast_to(STILL_POINTS, points.shape)
        factors = {name: (u[:, COLUMNS[name]] * len(_options(name))).astype(np.int64) for name in DISCRETE}
        held_out = np.array([COLORS.index(HELD_OUT[shape]) for shape in SHAPES])[factors["shape"]]
        if self.split == "held_out":
            factors["color"] = held_out
        elif self._holds_out:
            factors["color"] = (factors["color"] + (factors["color"] == held_out)) % len(COLORS)
        alone = factors["neighbor"] == FACTORS["neighbor"].index("none")
        for name in ("neighbor_shape", "neighbor_color"):
            factors[name] = np.where(alone, 0, factors[name] + 1)
        for name, column in THIRDS.items():
            factors[name] = _thirds(u[:, COLUMNS[column]])
        return u, {name: factors[name] for name in FACTORS}, points

    def factors(self, indices: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor]:
        """Ground truth by factor name: (N,) int64 positions in ``FACTORS[name]``. Renders nothing."""
        _, factors, _ = self._draw(np.asarray(indices, dtype=np.int64))
        return {name: torch.from_numpy(values) for name, values in factors.items()}

    def continuous(self, indices: torch.Tensor | Sequence[int]) -> dict[str, torch.Tensor]:
        """Ground truth of what varies continuously, by name of ``CONTINUOUS``: (N,) float64 in [0, 1). Renders nothing.

        From 0 to 1 ``x`` goes from left to right, ``z`` away from the camera, ``scale`` from small to large, ``camera``
        and ``elevation`` (of the light) upwards, ``azimuth`` (of the light) from left to right, ``brightness``, the
        hues and their like from their lowest to their highest. ``yaw`` is in turns: up to 1, with ``vary`` to 1/8. The
        values of a neighbor say nothing where there is none.
        """
        u, _, _ = self._draw(np.asarray(indices, dtype=np.int64))
        return {name: torch.from_numpy(u[:, COLUMNS[name]].copy()) for name in self._varied}

    def caption(self, index: int) -> str:
        """A sentence about image ``index``; the wording is drawn too, and is the same at every call."""
        _, factors, _ = self._draw(np.array([index]))
        words = {name: FACTORS[name][values[0]] for name, values in factors.items()}
        return scene_captions.caption(words, _uniforms(~self._key, np.array([index]), scene_captions.CHOICES)[0])

    def segments(self, indices: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """Ground-truth masks (N, H, W) uint8: 0 sky, 1 ground, 2 main solid, 3 neighbor."""
        return torch.from_numpy(np.stack([mask for _, mask in self._render(indices)]))

    def _render(self, indices: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        u, factors, points = self._draw(np.asarray(indices, dtype=np.int64))
        scenes = []
        for row in range(len(u)):
            number = dict(zip(COLUMNS, u[row].tolist(), strict=True))
            word = {name: FACTORS[name][values[row]] for name, values in factors.items()}
            scenes.append(render(_arrange(number, word, points[row]), self.image_size))
        return scenes

    def _decode(self, indices: list[int]) -> torch.Tensor:
        images = np.empty((len(indices), 3, self.image_size, self.image_size), np.uint8)
        for row, (image, _) in enumerate(self._render(indices)):
            images[row] = (image * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)
        return convert_channels(torch.from_numpy(images), self.channels)


def _checked(vary: Sequence[str]) -> tuple[str, ...]:
    names = (vary,) if isinstance(vary, str) else tuple(vary)
    known = [*FACTORS, *CONTINUOUS]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"vary takes some of {', '.join(known)}, got {wrong[0]!r}{did_you_mean(wrong[0], known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"vary takes names of factors, each once, got {names!r}")
    return names


def _arrange(u: dict[str, float], word: dict[str, str], points: np.ndarray) -> dict:
    """Numbers in [0, 1) and factor words to what ``render`` takes: places, angles, colors."""
    main = {
        "number": 2,
        "shape": word["shape"],
        "scale": 0.46 + 0.46 * u["scale"],
        "x": 1.9 * u["x"] - 0.95,
        "z": 4.7 + 0.6 * u["z"],
        "yaw": 2 * math.pi * u["yaw"],
        "texture": word["texture"],
        "shiny": word["material"] == "shiny",
        "colors": _paint(word["color"], u["hue"], u["value"]),
    }
    solids = [main]
    if word["neighbor"] != "none":
        neighbor = {
            "number": 3,
            "shape": word["neighbor_shape"],
            "scale": 0.34 + 0.3 * u["neighbor_scale"],
            "yaw": 2 * math.pi * u["neighbor_yaw"],
            "texture": FACTORS["texture"][int(u["neighbor_texture"] * 2)],
            "shiny": False,
            "colors": _paint(word["neighbor_color"], u["neighbor_hue"], u["neighbor_value"]),
        }
        touching = main["scale"] + neighbor["scale"]
        # towards the middle, where there is room; a coin where the main solid is central
        side = -np.sign(main["x"]) if abs(main["x"]) > 0.2 else (1.0 if u["neighbor_side"] < 0.5 else -1.0)
        if word["neighbor"] == "beside":
            away, depth = touching * 1.05 + 0.25 * u["neighbor_gap"], 0.3 * u["neighbor_side"]
        else:
            away = main["scale"] * (0.5 + 0.45 * u["neighbor_gap"])
            depth = touching * (-1.0 if word["neighbor"] == "in front" else 1.15)
        neighbor["x"], neighbor["z"] = main["x"] + side * away, main["z"] + depth
        solids.append(neighbor)
    return {
        "sky": word["sky"],
        "ground": word["ground"],
        "points": points,
        "solids": sorted(solids, key=lambda solid: -solid["z"]),
        "camera": 1.0 + 0.9 * u["camera"],
        "azimuth": math.radians(150 * u["azimuth"] - 75),
        "elevation": math.radians(34 + 22 * u["elevation"]),
        "brightness": 0.85 + 0.3 * u["brightness"],
        "sky_hue": 0.5 + 0.42 * u["sky_hue"],
        "haze_hue": (0.95 + 0.3 * u["haze_hue"]) % 1.0,
        "ground_hue": 0.04 + 0.38 * u["ground_hue"],
        **{name: u[name] for name in ("sky_saturation", "ground_saturation", "ground_value", "ground_scale")},
    }


def _paint(color: str, hue: float, value: float) -> tuple[np.ndarray, np.ndarray]:
    """A solid's color and the second one of its texture, (3,) float32 each."""
    base_hue, saturation, base_value = PAINT[color]
    base_hue, base_value = (base_hue + 0.04 * (hue - 0.5)) % 1.0, min(1.0, base_value * (0.88 + 0.2 * value))
    offsets = (np.array([5.0, 3.0, 1.0]) + base_hue * 6) % 6
    first = base_value - base_value * saturation * np.clip(np.minimum(offsets, 4 - offsets), 0, 1)
    light = color in ("white", "yellow", "cyan")
    second = first * 0.38 if light else 0.3 * first + 0.68
    return first.astype(np.float32), second.astype(np.float32)
