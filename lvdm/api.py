"""What `import lvdm` offers: load models, sample short and long videos."""

from lvdm.jobs.load import load
from lvdm.sampling.long_pipeline import sample_long
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import Condition

__all__ = ["Condition", "VideoModel", "load", "sample_long"]
