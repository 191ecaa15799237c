"""Render a world as the camera sees it at one date."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from data_pipelines.synthetic.canvas import MARGIN, Canvas
from data_pipelines.synthetic.conditions import Conditions
from data_pipelines.synthetic.paints import (
    ASPHALT,
    BANK,
    BROADLEAF,
    CONIFER,
    COVERS,
    GREEN_COVERS,
    MAIN_ASPHALT,
    PAVEMENT,
    ROAD_MARK,
    WATER,
    Paint,
)
from data_pipelines.synthetic.world import Building, Car, Part, Road, Scene, Tree


def render(scene: Scene, seen: Conditions, rng: np.random.Generator) -> np.ndarray:
    """The image of a scene at one date, size x size x 3 uint8 RGB; `rng` draws the noise of the camera."""
    canvas = Canvas(scene.size)
    _draw_ground(canvas, scene, seen)
    _draw_water(canvas, scene)
    _draw_roads(canvas, scene.roads)
    for car in scene.cars_before if seen.date == "before" else scene.cars_after:
        _draw_car(canvas, car, seen)
    _draw_trees(canvas, scene.trees, seen)
    for building in scene.buildings:
        for part in building.standing(seen.date):
            canvas.cast(part.footprint, -seen.sun * (building.height * seen.shadow))
    for building in scene.buildings:
        _draw_building(canvas, building, seen)
    return _expose(canvas, scene.grain, seen, rng)


def _draw_ground(canvas: Canvas, scene: Scene, seen: Conditions) -> None:
    whole = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 2.0 * scene.size
    canvas.fill(whole, _cover_paint("meadow", 1.0, seen))
    for parcel in scene.parcels:
        cover = parcel.before if seen.date == "before" else parcel.after
        paint = _cover_paint(cover, parcel.tint, seen)
        canvas.fill(parcel.outline, paint)
        if parcel.furrows:
            canvas.stroke(parcel.furrows, 1.0, _lit(paint, 0.91))


def _cover_paint(cover: str, tint: float, seen: Conditions) -> Paint:
    paint = _lit(COVERS[cover], tint)
    return _mixed(paint, seen.season.grass, seen.season.grass_share) if cover in GREEN_COVERS else paint


def _draw_water(canvas: Canvas, scene: Scene) -> None:
    for line, width in scene.rivers:
        canvas.stroke([line], width + 7, BANK)
        canvas.stroke([line], width, WATER)
        canvas.stroke([line], width * 0.5, _lit(WATER, 0.92))
    for pond in scene.ponds:
        canvas.stroke([np.concatenate([pond, pond[:1]])], 4, BANK)
        canvas.fill(pond, WATER)


def _draw_roads(canvas: Canvas, roads: Sequence[Road]) -> None:
    for road in roads:
        canvas.stroke([road.line], road.width + 4, PAVEMENT)
    for road in sorted(roads, key=lambda road: road.main):
        canvas.stroke([road.line], road.width, MAIN_ASPHALT if road.main else ASPHALT)
    for road in roads:
        if road.marks:
            canvas.stroke(road.marks, 0.5, ROAD_MARK)


def _draw_car(canvas: Canvas, car: Car, seen: Conditions) -> None:
    body = car.body
    canvas.cast(body.footprint, -seen.sun * (2.2 * seen.shadow))
    canvas.light_fill(body.footprint, 255)
    canvas.fill(body.footprint, car.paint)
    canvas.fill(body.outline((0.2, -0.8), (0.45, -0.8), (0.45, 0.8), (0.2, 0.8)), _lit(car.paint, 0.45))


def _draw_trees(canvas: Canvas, trees: Sequence[Tree], seen: Conditions) -> None:
    """Shadows first: no crown darkens its neighbour. A crown is a ring of leaf clumps, bright towards the sun."""
    there = [tree for tree in trees if (tree.before if seen.date == "before" else tree.after) > 0]
    if not there:
        return
    centres = np.stack([tree.centre for tree in there])
    radii = np.array([tree.before if seen.date == "before" else tree.after for tree in there])
    broadleaf = _mixed(BROADLEAF, seen.season.leaf, seen.season.leaf_share)
    leaves = np.array([_lit(CONIFER if tree.conifer else broadleaf, tree.tint * seen.leaf_tint) for tree in there])
    canvas.light_discs(centres - seen.sun * (1.1 * seen.shadow * radii[:, None]), radii * 0.95, 0)
    canvas.light_discs(centres, radii * 0.9, 255)

    step = np.arange(6)
    angles = np.array([tree.turn for tree in there])[:, None] + step * 2.4  # the golden angle: clumps do not line up
    outward = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    clumps = centres[:, None] + outward * (radii[:, None] * (0.62 - 0.07 * step))[..., None]
    glow = 0.92 + 0.24 * (outward @ seen.sun)
    spots = np.concatenate([centres[:, None], clumps], axis=1)
    sizes = radii[:, None] * np.array([0.85] + [0.42] * 6)
    brightness = np.concatenate([np.full((len(there), 1), 0.72), glow], axis=1)
    paints = np.repeat(leaves[:, None], 7, axis=1)
    paints[..., :3] *= brightness[..., None]
    canvas.discs(spots.reshape(-1, 2), sizes.ravel(), paints.reshape(-1, 4))


def _draw_building(canvas: Canvas, building: Building, seen: Conditions) -> None:
    parts = building.standing(seen.date)
    for part in parts:
        canvas.light_fill(part.footprint, 255)
        if building.roof == "flat":
            _draw_flat_roof(canvas, part, building.paint)
        else:
            _draw_pitched_roof(canvas, part, building.paint, building.roof == "hipped", seen.sun)
    if parts:
        for along, across, size in building.fittings:
            _draw_fitting(canvas, Part(parts[0].at(along, across), size, size, parts[0].heading), seen)


def _draw_flat_roof(canvas: Canvas, part: Part, paint: Paint) -> None:
    """The parapet is a bright rim around the roof."""
    canvas.fill(part.footprint, _lit(paint, 1.12))
    inner = replace(part, length=part.length - 2, width=part.width - 2)
    canvas.fill(inner.footprint, paint)


def _draw_pitched_roof(canvas: Canvas, part: Part, paint: Paint, hipped: bool, sun: np.ndarray) -> None:
    """Faces shaded by their slope towards the sun; a joined part's ridge runs into its neighbour's roof."""
    ridge, slope = part.axes
    inset = part.width / part.length if hipped else 0.0  # hips fall at the pitch of the other faces
    start = (-1 - part.width / part.length if part.joined else -1 + inset, 0.0)
    end = (1 - inset, 0.0)
    for side in (-1, 1):
        canvas.fill(part.outline(start, end, (1, side), (-1, side)), _lit(paint, 1 + 0.3 * side * float(slope @ sun)))
    if hipped:
        canvas.fill(part.outline(end, (1, 1), (1, -1)), _lit(paint, 1 + 0.3 * float(ridge @ sun)))
        if not part.joined:
            canvas.fill(part.outline(start, (-1, 1), (-1, -1)), _lit(paint, 1 - 0.3 * float(ridge @ sun)))
    canvas.stroke([part.outline(start, end)], 0.5, _lit(paint, 1.25))


def _draw_fitting(canvas: Canvas, box: Part, seen: Conditions) -> None:
    canvas.cast(box.footprint, -seen.sun * (1.6 * seen.shadow))
    canvas.light_fill(box.footprint, 255)
    canvas.fill(box.footprint, Paint(178, 176, 172, 2))


def _expose(canvas: Canvas, grain: np.ndarray, seen: Conditions, rng: np.random.Generator) -> np.ndarray:
    """Light, texture, misregistration, blur, the camera's tones and its noise."""
    span = grain.shape[0]
    *colours, roughness = cv2.split(cv2.resize(canvas.surface, (span, span), interpolation=cv2.INTER_AREA))
    light = cv2.resize(canvas.light, (span, span), interpolation=cv2.INTER_AREA) * np.float32(1 / 255)
    texture = 1 + roughness * grain * np.float32(1 / 100)
    texture *= cv2.resize(seen.clouds, (span, span), interpolation=cv2.INTER_CUBIC)
    lit = [
        colour * (texture * (ambient + (1 - ambient) * light))
        for colour, ambient in zip(colours, seen.ambient, strict=True)
    ]
    image = cv2.merge(lit)
    image = cv2.GaussianBlur(image, (0, 0), seen.blur)
    dx, dy = seen.offset
    size = span - 2 * MARGIN
    shift = np.array([[1, 0, dx - MARGIN], [0, 1, dy - MARGIN]])
    image = cv2.warpAffine(image, shift, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    tones = cv2.LUT(np.clip(np.rint(image), 0, 255).astype(np.uint8), seen.tones)
    noisy = tones + seen.noise * rng.standard_normal(tones.shape, np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _lit(paint: Sequence[float], factor: float) -> Paint:
    return Paint(paint[0] * factor, paint[1] * factor, paint[2] * factor, paint[3])


def _mixed(paint: Paint, other: Paint, share: float) -> Paint:
    keep = 1 - share
    return Paint(
        keep * paint.red + share * other.red,
        keep * paint.green + share * other.green,
        keep * paint.blue + share * other.blue,
        paint.grain,
    )
