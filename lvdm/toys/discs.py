"""`discs`: an orange and a cyan disc, bouncing off the walls and turning away when they touch, on a dim vertical gradient.

Letters: t frames, x across, y down, v velocity, in pixels and pixels a frame. A disc keeps its speed for ever and only its
heading changes, so the next frame follows from position and heading alone (Markov), and both can be seen in any two frames.
"""

from __future__ import annotations

import math

import numpy as np

from lvdm.toys.scene import ToyVideo, hsv, to_uint8, vertical_gradient

COLORS = {"orange": (1.0, 0.48, 0.10), "cyan": (0.13, 0.76, 1.0)}  # exchanging red and blue gives neither
RADIUS = 0.18  # of the side
SPEED = (0.19 / 64, 0.38 / 64)  # of the side, per frame
VALUE = (0.14, 0.30)  # brightness of the gradient's ends: dim
HUES = ("red", "yellow", "green", "teal", "blue", "purple")  # classes: the hue of the gradient's top, in sixths
SUBSTEPS = 4  # moves per frame

Vector = list[float]


def discs(rng: np.random.Generator, frames: int, size: int = 64) -> ToyVideo:
    """Draw a video of two discs from `rng` alone."""
    hues = rng.uniform(0.0, 1.0, 2)
    top, bottom = (hsv(hue, rng.uniform(0.6, 1.0), rng.uniform(*VALUE)) for hue in hues)
    speeds = rng.uniform(*SPEED, 2) * size
    position = trajectory(_places(rng, size), _velocities(rng, speeds), frames, size)  # (t, 2, 2)
    background = vertical_gradient(top, bottom, size)
    names = [HUES[int(hue * 6 + 0.5) % 6] for hue in hues]
    return ToyVideo(
        frames=draw(position, background, size),
        caption=_caption(speeds / size, names),
        label=HUES.index(names[0]),
        truth={"position": position.astype(np.float32), "speed": speeds, "background": background.astype(np.float32)},
    )


def _caption(speeds: np.ndarray, names: list[str]) -> str:
    middle = sum(SPEED) / 2
    pace = ["slow" if speed < middle else "quick" for speed in speeds]
    ground = names[0] if names[0] == names[1] else f"{names[0]} and {names[1]}"
    return f"a {pace[0]} orange disc and a {pace[1]} cyan disc over dim {ground}"


def _places(rng: np.random.Generator, size: int) -> list[Vector]:
    """Return two places inside the walls and apart, by trying until they are."""
    radius = RADIUS * size
    while True:
        places = rng.uniform(radius, size - radius, (2, 2))
        if np.hypot(*(places[0] - places[1])) > 2.1 * radius:
            return places.tolist()


def _velocities(rng: np.random.Generator, speeds: np.ndarray) -> list[Vector]:
    heading = rng.uniform(0.0, 2 * math.pi, 2)
    return (speeds[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)).tolist()


def trajectory(places: list[Vector], velocities: list[Vector], frames: int, size: int) -> np.ndarray:
    """Return the centres of both discs in every frame, (t, disc, xy) in pixels; the first pixel's centre is .5."""
    places, velocities = [list(place) for place in places], [list(v) for v in velocities]
    steps = [[value / SUBSTEPS for value in v] for v in velocities]
    path = [[list(place) for place in places]]
    for _ in range(frames - 1):
        for _ in range(SUBSTEPS):
            _advance(places, steps, RADIUS * size, float(size))
        path.append([list(place) for place in places])
    return np.array(path)


def _advance(places: list[Vector], steps: list[Vector], radius: float, side: float) -> None:
    """Make one small move in place: turn at the walls, turn away from each other, then go if there is room."""
    _turn_at_walls(places, steps, radius, side)
    if _gap(_moved(places[0], steps[0]), _moved(places[1], steps[1]), radius) < 0:
        _turn_away(places, steps)
        _turn_at_walls(places, steps, radius, side)
    for disc in (0, 1):  # pressed between the wall and its neighbour, a disc waits until the other has left
        goal = _moved(places[disc], steps[disc])
        if _gap(goal, places[1 - disc], radius) >= 0 or _gap(goal, places[1 - disc], radius) > _gap(places[0], places[1], radius):
            places[disc] = goal


def _turn_at_walls(places: list[Vector], steps: list[Vector], radius: float, side: float) -> None:
    for place, step in zip(places, steps, strict=True):
        for axis in (0, 1):
            if place[axis] + step[axis] < radius:
                step[axis] = abs(step[axis])
            elif place[axis] + step[axis] > side - radius:
                step[axis] = -abs(step[axis])


def _turn_away(places: list[Vector], steps: list[Vector]) -> None:
    """Mirror the velocity of each disc that heads for the other along their line; speeds stay as they are."""
    dx, dy = places[1][0] - places[0][0], places[1][1] - places[0][1]
    length = math.sqrt(dx * dx + dy * dy)
    normal = (dx / length, dy / length)
    for step, sign in zip(steps, (1.0, -1.0), strict=True):
        towards = sign * (step[0] * normal[0] + step[1] * normal[1])
        if towards > 0:
            for axis in (0, 1):
                step[axis] -= 2 * sign * towards * normal[axis]


def _moved(place: Vector, step: Vector) -> Vector:
    return [place[0] + step[0], place[1] + step[1]]


def _gap(one: Vector, other: Vector, radius: float) -> float:
    dx, dy = one[0] - other[0], one[1] - other[1]
    return math.sqrt(dx * dx + dy * dy) - 2 * radius


def draw(position: np.ndarray, background: np.ndarray, size: int) -> np.ndarray:
    """Return anti-aliased uint8 frames (t, size, size, 3) of discs at `position` (t, 2, 2) over `background` (size, 3)."""
    ground = np.broadcast_to(background[:, None], (size, size, 3))
    video = np.repeat(to_uint8(ground)[None], len(position), axis=0)
    reach = math.ceil(RADIUS * size) + 1
    across = np.arange(size) + 0.5
    for frame, centres in zip(video, position, strict=True):
        for (x, y), color in zip(centres, COLORS.values(), strict=True):
            rows, columns = (slice(max(0, int(c) - reach), int(c) + reach + 1) for c in (y, x))
            distance = np.sqrt((across[columns] - x) ** 2 + ((across[rows] - y) ** 2)[:, None])
            cover = np.clip(RADIUS * size + 0.5 - distance, 0.0, 1.0)[..., None]
            frame[rows, columns] = to_uint8(frame[rows, columns] / 255 * (1 - cover) + cover * np.array(color))
    return video
