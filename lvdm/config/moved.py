"""Class paths that moved: old model files, checkpoints and configs name the old ones, and still load."""

MOVED = {  # a module or a class, as it was called until version 0.1 -> as it is called now
    "lvdm.data.datasets": "lvdm.data.video_folder",
    "lvdm.data.shards": "lvdm.data.layouts.shards",
    "lvdm.data.splits": "lvdm.data.layouts.splits",
    "lvdm.data.tables": "lvdm.data.layouts.tables",
    "lvdm.data.ucf101": "lvdm.data.layouts.ucf101",
    "lvdm.diffusion.objective": "lvdm.diffusion.objectives",
    "lvdm.diffusion.schedule": "lvdm.diffusion.schedules",
    "lvdm.diffusion.weights": "lvdm.diffusion.loss_weights",
}


def current_path(target: str) -> str:
    """Return today's path of a class, given the path in a file of any version."""
    place, _, name = target.rpartition(".")
    return MOVED.get(target) or f"{MOVED.get(place, place)}.{name}"
