"""Scores a video of `clouds`: are brightness, contrast and colours those of clouds over a sky, do they drift as they should.

Letters: t frames, x across, y down, v velocity in pixels a frame, o opacity of the clouds. The scene's own formula,
light * (sky + o (white - sky)), is fitted to each frame with one light; what it leaves over says how wrong the colours are,
and o, free of sky and light, says how the clouds move: least squares on its change against its gradient (Lucas and Kanade).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lvdm.toys.clouds import SKIES, SPEED
from lvdm.toys.curves import FIRST, ToyCurves, checked

LIGHTS = np.linspace(0.70, 1.06, 19)  # tried for each frame; real light is .76 to 1
COARSE = 16  # blocks across, on which sky and light are fitted
MISFIT = 0.03  # mean absolute error of the formula; real frames leave .005, recoloured ones .06
BRIGHTNESS = (0.28, 0.87)  # mean of the channels; real frames lie within .34 and .80
CONTRAST = (0.04, 0.25)  # standard deviation about the row's mean; real frames lie within .058 and .191
SPEED_SLACK = (0.5, 1.35)  # times that range
HEADING_SLACK = 35.0  # degrees away from the whole video's heading
EXPLAINED = 0.4  # part of the change that drifting must account for
LAG, POOLED = 4, 9  # frames between the two that are compared; comparisons taken together
DRIFT_LIMIT = 0.05  # two skies differ by .1 and more


@dataclass(frozen=True)
class Fit:
    """The scene's formula, fitted to every frame."""

    sky: np.ndarray  # (t,) index of the best sky
    light: np.ndarray  # (t,)
    misfit: np.ndarray  # (sky, t) mean absolute error with the best light


@dataclass(frozen=True)
class Flow:
    velocity: np.ndarray  # (t, xy)
    explained: np.ndarray  # (t,) part of the change that is drift


def score_clouds(video: np.ndarray) -> ToyCurves:
    """Return the curves of a uint8 video (t, size, size, 3)."""
    image = checked(video, least=LAG + 1).astype(np.float32) / 255
    fit = fit_scene(image)
    flow = drift_of_clouds(opacity(image, fit))
    grey = image.mean(-1)
    brightness, contrast = grey.mean((1, 2)), (grey - grey.mean(2, keepdims=True)).std((1, 2))
    speed = np.linalg.norm(flow.velocity, axis=-1)
    turned, heading = _heading(flow.velocity)
    low, high = (slack * limit * image.shape[2] for slack, limit in zip(SPEED_SLACK, SPEED, strict=True))
    return ToyCurves(
        ok=_within(brightness, BRIGHTNESS) & _within(contrast, CONTRAST) & (fit.misfit.min(0) <= MISFIT),
        moving=(speed >= low) & (speed <= high) & (np.abs(turned) <= HEADING_SLACK) & (flow.explained >= EXPLAINED),
        speed=speed,
        drift=fit.misfit[np.bincount(fit.sky[:FIRST]).argmax()],
        drift_limit=DRIFT_LIMIT,
        more={"brightness": brightness, "contrast": contrast, "heading": heading},
    )


def _within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _colors(sky: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sky (rows, 1, 3) at the middle of each row, and what a cloud adds to it."""
    top, horizon, white = (np.array(color, dtype=np.float32) for color in SKIES[sky])
    down = ((np.arange(rows, dtype=np.float32) + np.float32(0.5)) / rows)[:, None, None]
    ground = (1 - down) * top + down * horizon
    return ground, white - ground


def _opacity(lit: np.ndarray, ground: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Return the least squares o of lit = ground + o cloud, within 0 and 1."""
    return np.clip(((lit - ground) * cloud).sum(-1) / (cloud * cloud).sum(-1), 0.0, 1.0)


def fit_scene(image: np.ndarray) -> Fit:
    """Return the best sky and light of each frame, by trying them all on coarse blocks."""
    frames, height, width = image.shape[:3]
    rows, columns = (np.array_split(np.arange(length), COARSE) for length in (height, width))
    coarse = np.add.reduceat(image, [row[0] for row in rows], axis=1)
    coarse = np.add.reduceat(coarse, [column[0] for column in columns], axis=2)
    coarse /= np.outer([len(row) for row in rows], [len(column) for column in columns])[..., None].astype(np.float32)
    errors = np.empty((len(SKIES), len(LIGHTS), frames))
    for s, sky in enumerate(SKIES):
        ground, cloud = _colors(sky, COARSE)
        for i, light in enumerate(LIGHTS.astype(np.float32)):
            made = light * (ground + _opacity(coarse / light, ground, cloud)[..., None] * cloud)
            errors[s, i] = np.abs(coarse - made).mean((1, 2, 3))
    best = errors.min(1).argmin(0)
    return Fit(sky=best, light=LIGHTS[errors[best, :, np.arange(frames)].argmin(1)], misfit=errors.min(1))


def opacity(image: np.ndarray, fit: Fit) -> np.ndarray:
    """Return (t, h, w) how much cloud each pixel shows, a little smoothed; it drifts and does nothing else."""
    found = np.empty(image.shape[:3], dtype=np.float32)
    for s, sky in enumerate(SKIES):
        here = fit.sky == s
        found[here] = _opacity(image[here] / fit.light[here, None, None, None].astype(np.float32), *_colors(sky, image.shape[1]))
    sigma = image.shape[2] / 64
    return ndimage.gaussian_filter(found, (0, sigma, sigma))


def drift_of_clouds(cover: np.ndarray) -> Flow:
    """Return the velocity around each frame: the v for which cover's change is best -v . gradient, over `POOLED` pairs."""
    early, between, late = cover[:-LAG], cover[LAG // 2 : -LAG // 2], cover[LAG:]
    change = late - early
    down, across = np.gradient((early + 4 * between + late) / 6, axis=(1, 2))  # Simpson's mean over the time between
    parts = {"x": across, "y": down, "t": change}
    sums = {a + b: _pooled(np.einsum("thw,thw->t", parts[a], parts[b])) for a, b in ("xx", "xy", "yy", "xt", "yt", "tt")}
    determinant = np.maximum(sums["xx"] * sums["yy"] - sums["xy"] ** 2, 1e-12)
    x = (sums["xy"] * sums["yt"] - sums["yy"] * sums["xt"]) / determinant  # moved in LAG frames
    y = (sums["xy"] * sums["xt"] - sums["xx"] * sums["yt"]) / determinant
    explained = -(x * sums["xt"] + y * sums["yt"]) / np.maximum(sums["tt"], 1e-12)
    return Flow(velocity=_at_frames(np.stack([x, y], axis=-1) / LAG, len(cover)), explained=_at_frames(explained, len(cover)))


def _pooled(values: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter1d(values.astype(float), min(POOLED, len(values)), mode="nearest")


def _at_frames(values: np.ndarray, frames: int) -> np.ndarray:
    """Return the values of pairs (f, f + LAG) at the frames between them; the ends repeat."""
    return values[np.clip(np.arange(frames) - LAG // 2, 0, len(values) - 1)]


def _heading(velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the degrees between each frame's velocity and the whole video's, and its heading (0 right, 90 down, 180 left)."""
    heading = np.arctan2(velocity[:, 1], velocity[:, 0])
    whole = np.arctan2(np.sin(heading).mean(), np.cos(heading).mean())
    turned = np.degrees(np.angle(np.exp(1j * (heading - whole))))
    return turned, (np.degrees(whole) + 90) % 360 - 90 + turned
