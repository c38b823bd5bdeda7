"""The picture behind ``scenes``: one or two shaded solids on a ground plane under a sky, ray-cast with numpy.

Camera space: x right, y up, z forward, in units of roughly one object; the ground is y = 0. Image columns map to u in
[-1, 1], rows to v in [1, -1]. A pinhole camera at (0, height, 0) looks along +z, pitched down; the ray of pixel (u, v)
is ``(k u, cos(p) k v - sin(p), cos(p) + sin(p) k v)``, so x depends on the column alone, y and z on the row alone.

Every solid is convex, so one function gives the interval [t_in, t_out] of a ray inside it. Camera rays use t_in (the
surface); rays from the ground to the light use t_out - t_in (how much solid is in the way), which makes soft shadows.
Edges of objects are antialiased by sub-samples inside their bounding box; sky, ground and shadows are smooth functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

__all__ = ["SHAPES", "render"]

FOCAL = 0.38  # k: tangent of half the field of view
LOOK_AT = (0.45, 5.0)  # height and distance of the point in the image's centre
SAMPLES = 2  # sub-samples of a pixel in each direction, inside a solid's bounding box
TINY = np.float32(1e-6)

SHAPES = ("sphere", "cube", "cylinder", "cone", "pyramid", "gem")

# Unit solids stand on y = 0 around the y axis; (radius or half width, height)
SPHERE_RADIUS = 0.85
CYLINDER = (0.65, 1.6)
CONE = (0.85, 1.8)
CUBE = (0.72, 1.44)
PYRAMID = (0.88, 1.7)
GEM = (0.85, 1.9)
# radius and height of the upright cylinder around each, at any yaw
BOUNDS = {
    "sphere": (SPHERE_RADIUS, 2 * SPHERE_RADIUS),
    "cube": (CUBE[0] * math.sqrt(2), CUBE[1]),
    "cylinder": CYLINDER,
    "cone": CONE,
    "pyramid": (PYRAMID[0] * math.sqrt(2), PYRAMID[1]),
    "gem": GEM,
}


def _planes(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Outward unit normals (P, 3) and offsets (P,) of the half-spaces whose intersection is the polyhedron."""
    if shape == "cube":
        half, height = CUBE
        normals = [(1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0)]
        offsets = [half, half, half, half, height, 0.0]
    elif shape == "pyramid":
        half, height = PYRAMID
        normals = [(height, half, 0), (-height, half, 0), (0, half, height), (0, half, -height), (0, -1, 0)]
        offsets = [half * height] * 4 + [0.0]
    else:  # gem: an octahedron on its tip
        half, height = GEM
        slope = half / (height / 2)
        signs = [(x, y, z) for x in (1, -1) for y in (1, -1) for z in (1, -1)]
        normals = [(x, y * slope, z) for x, y, z in signs]
        offsets = [half + y * half for _, y, _ in signs]
    normals, offsets = np.array(normals, np.float32), np.array(offsets, np.float32)
    length = np.linalg.norm(normals, axis=1)
    return normals / length[:, None], offsets / length


PLANES = {shape: _planes(shape) for shape in ("cube", "pyramid", "gem")}


def _nonzero(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < TINY, TINY, x)


def _interval(shape: str, origin: tuple, direction: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Where rays are inside a unit solid: t_in, t_out (broadcast shape); outside where t_in >= t_out."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    if shape in PLANES:
        t_in, t_out = np.float32(-1e9), np.float32(1e9)
        for (nx, ny, nz), offset in zip(*PLANES[shape], strict=True):
            facing = _nonzero(nx * dx + ny * dy + nz * dz)
            t = (offset - (nx * ox + ny * oy + nz * oz)) / facing
            entering = facing < 0
            t_in = np.maximum(t_in, np.where(entering, t, np.float32(-1e9)))
            t_out = np.minimum(t_out, np.where(entering, np.float32(1e9), t))
        return t_in, t_out
    if shape == "sphere":
        oy = oy - SPHERE_RADIUS
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - SPHERE_RADIUS**2
        return _roots(a, b, c)
    radius, height = CYLINDER if shape == "cylinder" else CONE
    a, b, c = dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz
    if shape == "cylinder":
        c = c - radius**2
    else:  # x^2 + z^2 <= slope^2 (height - y)^2; a > 0 for every ray less steep than the cone's side
        slope = (radius / height) ** 2
        above = oy - height
        a, b, c = a - slope * dy * dy, b - slope * above * dy, c - slope * above * above
    t_in, t_out = _roots(a, b, c)
    steep = _nonzero(dy)
    bottom, top = -oy / steep, (height - oy) / steep
    return np.maximum(t_in, np.minimum(bottom, top)), np.minimum(t_out, np.maximum(bottom, top))


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a t^2 + 2 b t + c <= 0 with a > 0; an empty interval [1, 0] where it has no solution."""
    discriminant = b * b - a * c
    inside = discriminant > 0
    root = np.sqrt(np.where(inside, discriminant, 0))
    return np.where(inside, (-b - root) / a, np.float32(1)), np.where(inside, (root - b) / a, np.float32(0))


def _normal(shape: str, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outward unit normals at surface points (M,) of a unit solid."""
    if shape in PLANES:
        normals, offsets = PLANES[shape]
        face = np.argmax(normals @ np.stack([x, y, z]) - offsets[:, None], axis=0)
        return tuple(normals[face].T)
    if shape == "sphere":
        return x / SPHERE_RADIUS, (y - SPHERE_RADIUS) / SPHERE_RADIUS, z / SPHERE_RADIUS
    radius, height = CYLINDER if shape == "cylinder" else CONE
    if shape == "cylinder":
        top = y > height - 1e-3
        return np.where(top, 0, x / radius), top.astype(np.float32), np.where(top, 0, z / radius)
    up = (radius / height) ** 2 * (height - y)
    length = np.sqrt(x * x + up * up + z * z) + TINY
    return x / length, up / length, z / length


def _pattern(texture: str, x: np.ndarray, y: np.ndarray, z: np.ndarray, normal: tuple) -> np.ndarray:
    """1 where the surface shows its second colour, else 0; (M,) bool."""
    if texture == "striped":
        return np.sin(y * 11.0) > 0
    nx, ny, nz = (np.abs(n) for n in normal)
    # coordinates in the plane that the surface faces most
    a = np.where((nx > nz) & (nx > ny), z, x) * 2.3 + 0.4
    b = np.where((ny > nx) & (ny > nz), z, y) * 2.3 + 0.15
    if texture == "checkered":
        return (np.floor(a) + np.floor(b)) % 2 > 0.5
    return (a - np.floor(a) - 0.5) ** 2 + (b - np.floor(b) - 0.5) ** 2 < 0.09


class _Camera:
    """Rays through the pixels of a square image."""

    def __init__(self, height: float, size: int) -> None:
        look_height, distance = LOOK_AT
        pitch = math.atan2(height - look_height, distance)
        self.height, self.size = height, size
        self.sin, self.cos = math.sin(pitch), math.cos(pitch)

    def rays(self, left: int, right: int, top: int, bottom: int, samples: int) -> tuple:
        """dx (1, w), dy (h, 1), dz (h, 1) through a box of pixels, ``samples`` in each direction per pixel."""
        step = 2.0 / (self.size * samples)
        u = (np.arange(left * samples, right * samples) + 0.5) * step - 1
        v = 1 - (np.arange(top * samples, bottom * samples) + 0.5) * step
        dx, dy, dz = FOCAL * u, self.cos * FOCAL * v - self.sin, self.cos + self.sin * FOCAL * v
        return dx.astype(np.float32)[None], dy.astype(np.float32)[:, None], dz.astype(np.float32)[:, None]

    def box(self, solid: Mapping) -> tuple[int, int, int, int]:
        """left, right, top, bottom pixels around a solid."""
        half, height = (bound * solid["scale"] for bound in BOUNDS[solid["shape"]])
        corners = np.array([(sx * half, sy * height, sz * half) for sx in (-1, 1) for sy in (0, 1) for sz in (-1, 1)])
        px, py, pz = corners[:, 0] + solid["x"], corners[:, 1] - self.height, corners[:, 2] + solid["z"]
        depth = np.maximum(self.cos * pz - self.sin * py, 0.1) * FOCAL
        columns = (px / depth + 1) * self.size / 2
        rows = (1 - (self.cos * py + self.sin * pz) / depth) * self.size / 2
        edges = (columns.min() - 1, columns.max() + 2, rows.min() - 1, rows.max() + 2)
        return tuple(int(np.clip(edge, 0, self.size)) for edge in edges)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB (3,) float32 in [0, 1]."""
    offsets = np.array([5.0, 3.0, 1.0])
    k = (offsets + hue * 6) % 6
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _blobs(u: np.ndarray, v: np.ndarray, points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Sum of Gaussian blobs at points (K, 2) as an image (h, w): one small matrix product."""
    across = np.exp(-(((u[None] - points[:, :1]) / width) ** 2))
    down = np.exp(-(((v[None] - points[:, 1:]) / height) ** 2))
    return down.T @ across


def _wave(x: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """A square wave of period 2 in [-1, 1], faded out where a pixel (``footprint``) is too coarse for it."""
    sharpness = np.clip(0.6 / (footprint + 1e-3), 1, 8)
    return np.clip(np.sin(np.pi * x) * sharpness, -1, 1) * np.clip(1.6 - 1.6 * footprint, 0, 1)


def _sky(image: np.ndarray, p: Mapping, u: np.ndarray, v: np.ndarray, top: np.ndarray, low: np.ndarray) -> None:
    """Fill rows of ``image`` (h, w, 3) above the horizon; v is 0 at the horizon."""
    blend = np.clip(v / 0.9, 0, 1)[:, None, None].astype(np.float32)
    image[:] = low + (top - low) * np.sqrt(blend)
    kind, points = p["sky"], p["points"]
    if kind == "cloudy":
        centres = points[:9] * np.float32((2.4, 0.9)) + np.float32((-1.2, 0.12))
        cover = _smoothstep(_blobs(u, v, centres, 0.34, 0.1) * 1.5 - 0.25)[..., None]
        image += (np.float32(0.97) - image) * cover * 0.85
    elif kind == "banded":
        bands = np.sin(v[:, None] * 22 + 1.2 * np.sin(u[None] * 2.0 + 6 * points[0, 0]) + 6 * points[0, 1])
        image += (0.16 * np.clip(bands * 1.5, -1, 1))[..., None] * (1 - 0.5 * blend)
    elif kind == "starry":
        image *= 0.62
        radius = 0.028
        centres = points * np.float32((2.0, 1.0)) + np.float32((-1.0, 0.06))
        image += np.minimum(_blobs(u, v, centres, radius, radius), 1)[..., None] * (1 - image)


def _ground(image: np.ndarray, p: Mapping, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray, colors: tuple) -> tuple:
    """Fill rows below the horizon; returns the ground points' x (h, w) and z (h, 1)."""
    color, haze = colors
    t = p["camera"] / -dy
    x, z = dx * t, dz * t
    pixel = 2 * FOCAL / p["size_px"] * t  # width of a pixel on the ground
    depth = pixel * t / p["camera"]  # its length
    kind, period = p["ground"], 0.45 + 0.35 * p["ground_scale"]
    shift = p["points"][1]
    if kind == "checkered":
        mark = _wave(x / period + shift[0], pixel / period) * _wave(z / period + shift[1], depth / period)
    elif kind == "striped":
        slant = 1.6 * shift[0] - 0.8
        mark = _wave((x + slant * z) / period, (pixel + abs(slant) * depth) / period)
    elif kind == "spotted":
        cell = period * 1.7
        a, b = x / cell + shift[0], z / cell + shift[1]
        distance = np.hypot(a - np.floor(a) - 0.5, b - np.floor(b) - 0.5)
        coarse = depth / cell
        mark = np.clip((0.3 - distance) / (0.02 + 0.5 * coarse), -1, 1) * np.clip(1.5 - 2 * coarse, 0, 1)
    else:
        mark = np.zeros_like(x)
    near = np.exp(-np.maximum(z - 3, 0) / 14)[..., None]
    image[:] = haze + (color * (1 + 0.24 * mark[..., None]) - haze) * near
    return x, z


def _shade(image: np.ndarray, segments: np.ndarray, camera: _Camera, solid: Mapping, light: Mapping) -> None:
    """Draw one solid over ``image`` (H, W, 3); ``segments`` (H, W) takes its number where it covers most of a pixel."""
    left, right, top, bottom = camera.box(solid)
    if left >= right or top >= bottom:
        return
    dx, dy, dz = camera.rays(left, right, top, bottom, SAMPLES)
    scale, sin, cos = np.float32(solid["scale"]), np.float32(math.sin(solid["yaw"])), np.float32(math.cos(solid["yaw"]))
    # rays in the solid's own frame: scaled to unit size, turned by its yaw
    origin_x, origin_z = -solid["x"] / scale, -solid["z"] / scale
    origin = (cos * origin_x - sin * origin_z, camera.height / scale, sin * origin_x + cos * origin_z)
    direction = (cos * dx - sin * dz, dy + np.zeros_like(dx), sin * dx + cos * dz)
    t_in, t_out = _interval(solid["shape"], tuple(np.float32(o) for o in origin), direction)
    hit = t_out > t_in
    x, y, z = (o + t_in[hit] * d[hit] for o, d in zip(origin, direction, strict=True))
    nx, ny, nz = _normal(solid["shape"], x, y, z)

    first, second = solid["colors"]
    if solid["texture"] == "plain":
        albedo = first[None]
    else:
        albedo = np.where(_pattern(solid["texture"], x, y, z, (nx, ny, nz))[:, None], second, first)
    # back to world directions for light and view
    wx, wz = cos * nx + sin * nz, cos * nz - sin * nx
    lx, ly, lz = light["direction"]
    diffuse = np.maximum(wx * lx + ny * ly + wz * lz, 0)
    contact = 0.7 + 0.3 * np.clip(y / 0.5, 0, 1)  # less sky is seen near the ground
    ambient = (0.72 + 0.28 * ny) * contact
    color = albedo * (ambient[:, None] * light["ambient"] + diffuse[:, None] * light["sun"])
    if solid["shiny"]:
        rows, columns = np.nonzero(hit)
        view = np.stack([dx[0, columns], dy[rows, 0], dz[rows, 0]])
        view /= np.linalg.norm(view, axis=0)
        facing = -(view[0] * wx + view[1] * ny + view[2] * wz)
        half = np.array([lx, ly, lz], np.float32)[:, None] - view
        half /= np.linalg.norm(half, axis=0)
        gloss = np.maximum(half[0] * wx + half[1] * ny + half[2] * wz, 0) ** 36
        rim = (1 - np.clip(facing, 0, 1)) ** 3
        color = color + (0.85 * gloss)[:, None] + (0.4 * rim)[:, None] * (light["sky"] - color)

    layer = np.zeros((*hit.shape, 4), np.float32)
    layer[hit, :3] = np.clip(color, 0, 1)
    layer[hit, 3] = 1
    # sums of strided views: several times faster than a mean over two axes
    layer = sum(layer[i::SAMPLES, j::SAMPLES] for i in range(SAMPLES) for j in range(SAMPLES)) / SAMPLES**2
    target = image[top:bottom, left:right]
    target *= 1 - layer[..., 3:]
    target += layer[..., :3]
    segments[top:bottom, left:right][layer[..., 3] > 0.5] = solid["number"]


def _shadow(x: np.ndarray, z: np.ndarray, solid: Mapping, light: tuple) -> np.ndarray:
    """How much of the light the solid keeps from ground points; 0..1, broadcast shape of x and z."""
    scale, sin, cos = np.float32(solid["scale"]), np.float32(math.sin(solid["yaw"])), np.float32(math.cos(solid["yaw"]))
    px, pz = (x - np.float32(solid["x"])) / scale, (z - np.float32(solid["z"])) / scale
    lx, ly, lz = (np.float32(component) for component in light)
    origin = (cos * px - sin * pz, np.float32(1e-3), sin * px + cos * pz)
    t_in, t_out = _interval(solid["shape"], origin, (cos * lx - sin * lz, ly, sin * lx + cos * lz))
    return _smoothstep((t_out - np.maximum(t_in, 0)) * 2.2)


def render(p: Mapping, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene.

    Args:
        p: sky, ground, camera (height), azimuth and elevation of the light, hues, points (16, 2) in [0, 1] and
            ``solids``,
            far to near: what ``scenes`` draws for one index.
        size: height and width in pixels.

    Returns:
        image (size, size, 3) float32 in [0, 1], and segments (size, size) uint8: 0 sky, 1 ground, then the solids'
        numbers.
    """
    p = {**p, "size_px": size}
    camera = _Camera(p["camera"], size)
    dx, dy, dz = camera.rays(0, size, 0, size, 1)
    horizon = int((dy[:, 0] >= 0).sum())
    image, segments = np.empty((size, size, 3), np.float32), np.zeros((size, size), np.uint8)
    segments[horizon:] = 1

    top = _hsv(p["sky_hue"], 0.35 + 0.3 * p["sky_saturation"], 0.75)
    low = 0.5 * _hsv(p["haze_hue"], 0.35, 0.95) + 0.5 * np.float32(0.9)
    if p["sky"] == "starry":
        low = low * 0.75
    v = dy[:, 0] / (FOCAL * camera.cos)  # height above the horizon in units of v
    u = dx[0] / FOCAL
    _sky(image[:horizon], p, u, v[:horizon], top, low)

    azimuth, elevation = p["azimuth"], p["elevation"]
    # azimuth 0 is behind the camera; positive comes from the right
    direction = (
        math.sin(azimuth) * math.cos(elevation),
        math.sin(elevation),
        -math.cos(azimuth) * math.cos(elevation),
    )
    brightness = p["brightness"]
    light = {
        "direction": tuple(np.float32(component) for component in direction),
        "sun": np.array([0.82, 0.78, 0.70], np.float32) * brightness,
        "ambient": (0.36 + 0.16 * (top + low) / 2).astype(np.float32),
        "sky": low,
    }
    if horizon < size:
        ground = _hsv(p["ground_hue"], 0.15 + 0.35 * p["ground_saturation"], 0.5 + 0.3 * p["ground_value"])
        x, z = _ground(image[horizon:], p, dx, dy[horizon:], dz[horizon:], (ground * brightness, low * 0.9))
        dark = np.zeros((size - horizon, size), np.float32)
        reach = (z[:, 0] > 1.0) & (z[:, 0] < 14.0)  # rows that a shadow can touch
        for solid in p["solids"]:
            dark[reach] = np.maximum(dark[reach], _shadow(x[reach], z[reach], solid, direction))
        image[horizon:] *= (1 - 0.55 * dark)[..., None]
    if 0 < horizon < size:  # the horizon crosses its row at a fraction: antialias it
        fraction = np.clip((v[horizon - 1]) / (2 / size), 0, 1)
        image[horizon] += (image[horizon - 1] - image[horizon]) * np.float32(max(0.5 - fraction, 0))
    for solid in p["solids"]:
        _shade(image, segments, camera, solid, light)
    return np.clip(image, 0, 1), segments
