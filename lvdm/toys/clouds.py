"""`clouds`: smooth noise drifting at a constant velocity over a sky gradient, in light that changes slowly; all of it known.

Letters: t frames, x across, y down, v velocity in pixels a frame, k a wave's number. The noise is a sum of waves on a square
twice the frame's side, so it drifts by any part of a pixel without interpolation: at time t, wave k has its phase minus k . v t.
"""

from __future__ import annotations

import math

import numpy as np

from lvdm.toys.scene import ToyVideo, to_uint8, vertical_gradient

SKIES = {  # top, horizon, clouds
    "dawn": ((0.30, 0.28, 0.52), (0.86, 0.56, 0.48), (1.00, 0.86, 0.80)),
    "noon": ((0.16, 0.36, 0.74), (0.56, 0.74, 0.90), (1.00, 1.00, 1.00)),
    "dusk": ((0.14, 0.12, 0.36), (0.66, 0.34, 0.34), (0.94, 0.72, 0.66)),
}
WINDS = ("left", "right")  # classes: sky * 2 + wind
SPEED = (0.4 / 64, 0.8 / 64)  # of the side, per frame
TILT = math.radians(30)  # the wind's heading is at most this far from level
LIGHT = 0.12  # the light's swing about 1
LIGHT_PERIOD = (160, 320)  # frames
WAVES = (1.5, 5.0)  # k of the coarsest and the finest wave, 4/3 and 2/5 of the side long: every frame shows sky and clouds
COVER = (-0.5, 1.1)  # noise, in standard deviations, at which clouds begin and are whole

_NUMBERS = np.arange(-math.floor(WAVES[1]), math.floor(WAVES[1]) + 1)


def clouds(rng: np.random.Generator, frames: int, size: int = 64) -> ToyVideo:
    """Draw a video of drifting clouds from `rng` alone."""
    sky, wind = int(rng.integers(len(SKIES))), int(rng.integers(len(WINDS)))
    heading = rng.uniform(-TILT, TILT) + (math.pi if WINDS[wind] == "left" else 0.0)
    velocity = rng.uniform(*SPEED) * size * np.array([math.cos(heading), math.sin(heading)])
    period, phase = rng.uniform(*LIGHT_PERIOD), rng.uniform(0, 2 * math.pi)
    light = 1 - LIGHT + LIGHT * np.sin(2 * math.pi * np.arange(frames) / period + phase)
    opacity = drifting_noise(wave_amplitudes(rng), velocity, frames, size)
    name = list(SKIES)[sky]
    return ToyVideo(
        frames=draw(opacity, light, name, size),
        caption=f"clouds drift to the {WINDS[wind]} over a {name} sky",
        label=sky * len(WINDS) + wind,
        truth={"velocity": velocity, "light": light, "sky": np.array(sky)},
    )


def wave_amplitudes(rng: np.random.Generator) -> np.ndarray:
    """Return complex amplitudes (ky, kx) of waves that weaken with their number, as clouds' do; their standard deviation is 1."""
    length = np.hypot(_NUMBERS[:, None], _NUMBERS[None])
    strength = np.where((length >= WAVES[0]) & (length <= WAVES[1]), np.maximum(length, 1.0) ** -1.5, 0.0)
    phase = rng.uniform(0, 2 * math.pi, strength.shape)
    return strength * np.exp(1j * phase) / math.sqrt((strength**2).sum() / 2)


def drifting_noise(amplitudes: np.ndarray, velocity: np.ndarray, frames: int, size: int) -> np.ndarray:
    """Return noise (t, y, x) at pixel centres, moved by `velocity` (x, y) pixels from one frame to the next."""
    k = _NUMBERS * math.pi / size  # a square of twice the side
    at = np.arange(size)[None] - velocity[:, None, None] * np.arange(frames)[:, None]  # (xy, t, pixel)
    across, down = np.exp(1j * k[:, None] * at[:, :, None])  # (t, k, pixel) each
    rows = np.einsum("tky,kl->tly", down, amplitudes)
    return np.einsum("tly,tlx->tyx", rows, across).real


def draw(noise: np.ndarray, light: np.ndarray, sky: str, size: int) -> np.ndarray:
    """Return uint8 frames (t, size, size, 3): clouds over the sky at high noise, times the light."""
    top, horizon, white = (np.array(color) for color in SKIES[sky])
    ground = vertical_gradient(top, horizon, size)[:, None]  # (y, 1, 3)
    ramp = np.clip((noise - COVER[0]) / (COVER[1] - COVER[0]), 0.0, 1.0)
    opacity = (ramp * ramp * (3 - 2 * ramp))[..., None]  # (t, y, x, 1)
    return to_uint8(light[:, None, None, None] * (ground + opacity * (white - ground)))
