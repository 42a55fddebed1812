"""Class paths that moved: old model files, checkpoints and configs name the old ones, and still load."""

MOVED = {  # a module or a class, as it was called until version 0.1 -> as it is called now
    "lvdm.diffusion.objective": "lvdm.diffusion.objectives",
    "lvdm.diffusion.schedule": "lvdm.diffusion.schedules",
    "lvdm.diffusion.weights": "lvdm.diffusion.loss_weights",
}


def current_path(target: str) -> str:
    """Return today's path of a class, given the path in a file of any version."""
    place, _, name = target.rpartition(".")
    return MOVED.get(target) or f"{MOVED.get(place, place)}.{name}"
