"""What `import lvdm` offers, in one place; `lvdm/__init__.py` lists the names."""

from lvdm.jobs.load import load as load
from lvdm.sampling.long_pipeline import sample_long as sample_long
from lvdm.sampling.pipeline import VideoModel as VideoModel
from lvdm.types import Condition as Condition
