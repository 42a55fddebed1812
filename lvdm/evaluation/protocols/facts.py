"""What the published codes do, with file and line, and the fields of our protocols that follow. `docs/protocols.md` shows it.

Nothing measures by these facts. They are what the protocols in `named.py` are held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REPOSITORIES = {  # short name -> repository and the commit that was read
    "SGV": ("universome/stylegan-v", "3fecd69c602e"),
    "LVDM": ("YingqingHe/LVDM", "d251dccfbf63"),
    "TATS": ("songweige/TATS", "03bbce1daa3d"),
    "PVDM": ("sihyun-yu/PVDM", "793172f7acbe"),
    "Latte": ("Vchitect/Latte", "b27c24a17487"),
    "CDFVD": ("songweige/content-debiased-fvd", "a1e037ab7cb0"),
    "TGAN2": ("pfnet-research/tgan2", "f892bc432da3"),
}


@dataclass(frozen=True)
class Fact:
    """What a code or a paper does, where (short name of the repository, path and lines), and the fields that follow from it."""

    says: str
    where: str
    fields: Mapping[str, Any] = field(default_factory=dict)


Facts = tuple[Fact, ...]
INFERRED = "inferred"  # where no source says it

_SGV_CLIPS: Facts = (
    Fact("the first 2048 items of the data set, in its order", "SGV src/metrics/metric_utils.py:222-230", {"num_real": 2048}),
    Fact("one flat folder, sorted by the base names of videos", "SGV src/training/dataset.py:283-326", {"order": "sorted"}),
    Fact(
        "videos of frames x stride frames or more",
        "SGV src/training/dataset.py:323-324",
        {"needed_frames": "frames * stride"},
    ),
    Fact(
        "one clip a video, which starts at 0 to length - frames x stride + stride - 1, both included",
        "SGV src/training/dataset.py:402-406",
        {"real_clips": "one random a video"},
    ),
    Fact("generated clips start at frame 0", "SGV src/metrics/frechet_video_distance.py:39", {"fake_clips": "first frames"}),
)
_SGV_SCORE: Facts = (
    Fact("the TorchScript I3D", "SGV src/metrics/frechet_video_distance.py:22-23", {"extractor": "i3d-torchscript"}),
    Fact(
        "FVD with covariance / N, and the matrix root of scipy",
        "SGV src/metrics/metric_utils.py:122-127 and frechet_video_distance.py:54-57",
        {"ddof": 0, "metrics": ("fvd",)},
    ),
    Fact("floats x 127.5 + 128, cut off", "SGV src/metrics/metric_utils.py:285", {"quantise": "round"}),
)
_SGV_PIXELS: Facts = (
    Fact(
        "the short side to the target size by Lanczos, then torchvision's centre crop",
        "SGV src/scripts/convert_videos_to_frames.py:73-75",
        {"resize": "lanczos, crop", "long_side": "floor", "crop": "round"},
    ),
    Fact("frames stored as JPEG of quality 75: the keyword q is ignored", "SGV src/scripts/convert_videos_to_frames.py:76"),
    Fact("256 pixels, as its results at that size", INFERRED, {"resolution": 256}),
)
_SGV_SPLIT = Fact("UCF-101: train and test together; other sets: train", "SGV issue 30")


def _sgv(lines: str, **fields: Any) -> Facts:
    own = Fact("FVD: frames, stride and counts", f"SGV src/metrics/metric_main.py:{lines}", {"num_fake": 2048, **fields})
    return own, *_SGV_CLIPS, *_SGV_PIXELS, *_SGV_SCORE, _SGV_SPLIT


_OF_TATS: Facts = (
    Fact("I3D with eps 1e-5, stretched to 224", "TATS tats/fvd/fvd.py:14-27 and pytorch_i3d.py:81", {"extractor": "i3d"}),
    Fact(
        "2048 real and 2048 generated clips",
        "TATS scripts/sample_vqgan_transformer_short_videos.py:26 and 114-125",
        {"num_real": 2048, "num_fake": 2048, "metrics": ("fvd", "kvd")},
    ),
    Fact("clips in shuffled order", "TATS tats/data.py:281-302", {"order": "shuffled"}),
    Fact("clips of 16 frames of 128 pixels", "TATS README.md:49 and 52-55", {"frames": 16, "resolution": 128}),
    Fact("covariance / (N - 1)", "TATS tats/fvd/fvd.py:83", {"ddof": 1}),
    Fact(
        "floats are cut off at whole levels; float noise loses one of 63 of 256 levels, ours does not",
        "TATS scripts/sample_vqgan_transformer_short_videos.py:99 and 113",
        {"quantise": "truncate"},
    ),
    Fact("the train part", "TATS scripts/sample_vqgan_transformer_short_videos.py:109"),
    Fact("published with a deviation, so over several runs; how many is not said", INFERRED, {"runs": 1}),
)
_VIDEOGPT_SIZES = {"resize": "bilinear, crop", "long_side": "ceil", "crop": "floor"}
_OF_PVDM: Facts = (
    Fact(
        "centre crop at the floor, then bilinear without antialiasing",
        "PVDM tools/data_utils.py:60-84",
        {"resize": "crop, bilinear", "crop": "floor", "antialias": False},
    ),
    Fact("floats are cut off at whole levels", "PVDM evals/eval.py:95-98", {"quantise": "truncate"}),
)


def _pvdm(frames: int) -> Facts:
    return (
        Fact(
            "2,048 clips of 16 and of 128 frames by StyleGAN-V's protocol, at 256 pixels",
            "PVDM paper, section 4.1",
            {"num_real": 2048, "num_fake": 2048, "frames": frames, "resolution": 256},
        ),
        *_OF_PVDM,
        *_SGV_CLIPS,
        Fact(
            "StyleGAN-V's extractor, order and covariance, because no code of this measurement was released",
            INFERRED,
            {"extractor": "i3d-torchscript", "ddof": 0, "metrics": ("fvd",)},
        ),
        Fact("the train part", "PVDM issue 30, which quotes appendix B.2"),
    )


FACTS: dict[str, Facts] = {
    "styleganv-fvd2048-16f": _sgv("115-118", frames=16),
    "styleganv-fvd2048-128f": _sgv("121-124", frames=128),
    "styleganv-fvd2048-128f-sub8": _sgv("127-131", frames=16, stride=8, fake_stride=8),
    "lvdm-fvd2048": (
        Fact(
            "10 runs, 2048 clips", "LVDM shellscripts/eval_lvdm_short.sh:14-16", {"runs": 10, "num_real": 2048, "num_fake": 2048}
        ),
        Fact(
            "one random clip a video, of Sky and of UCF-101: videos take the place of UCF-101's windows",
            "LVDM lvdm/data/frame_dataset.py:260-268 and 306-309",
            {"real_clips": "one random a video", "needed_frames": "span"},
        ),
        Fact("UCF-101: train and test together", "LVDM configs/lvdm_short/ucf.yaml:94-97"),
        Fact("Sky: train", "LVDM configs/lvdm_short/sky.yaml:94-96"),
        Fact("Taichi: all, frames next to each other whatever the stride", "LVDM lvdm/data/taichi.py:65-72"),
        Fact("16 frames of 256 pixels", "LVDM configs/lvdm_short/sky.yaml:91-92", {"frames": 16, "resolution": 256}),
        Fact(
            "other real clips in each run, the same generated ones",
            "LVDM scripts/eval_cal_fvd_kvd.py:46-59 and 146-149",
            {"order": "shuffled"},
        ),
        Fact(
            "the short side to 256, bilinear, then torchvision's centre crop",
            "LVDM lvdm/data/frame_dataset.py:286-291",
            {"resize": "bilinear, crop", "long_side": "floor", "crop": "round"},
        ),
        Fact("no antialiasing, the default of torchvision at the time", INFERRED, {"antialias": False}),
        Fact(
            "floats are cut off at whole levels; float noise loses one of 63 of 256 levels, ours does not",
            "LVDM scripts/eval_cal_fvd_kvd.py:50 and scripts/sample_utils.py:171",
            {"quantise": "truncate"},
        ),
        Fact(
            "I3D with eps 1e-5, stretched to 224",
            "LVDM scripts/fvd_utils/fvd_utils.py:11-24 and pytorch_i3d.py:81",
            {"extractor": "i3d"},
        ),
        Fact(
            "FVD with covariance / (N - 1), and KVD",
            "LVDM scripts/fvd_utils/fvd_utils.py:94 and 113-125",
            {"ddof": 1, "metrics": ("fvd", "kvd")},
        ),
    ),
    "pvdm-fvd2048": _pvdm(16),
    "pvdm-fvd2048-128f": _pvdm(128),
    "pvdm-rfvd": (
        Fact(
            "clips against their reconstructions, by I3D with eps 1e-5 on frames that cover 224",
            "PVDM evals/eval.py:70-126, evals/fvd/fvd.py:5-45 and pytorch_i3d.py:69",
            {"extractor": "i3d-cover"},
        ),
        Fact("FVD with covariance / (N - 1)", "PVDM evals/fvd/fvd.py:87", {"ddof": 1, "metrics": ("fvd",)}),
        Fact(
            "one random clip a video, in shuffled order",
            "PVDM tools/dataloader.py:91-94 and 142",
            {"real_clips": "one random a video", "order": "shuffled"},
        ),
        *_OF_PVDM,
        Fact("2,048 clips; 196 of Sky's test part", "PVDM paper, table 4", {"num_real": 2048, "num_fake": 2048}),
        Fact("16 frames of 256 pixels", "PVDM configs/autoencoder/base.yaml:14-15", {"frames": 16, "resolution": 256}),
        Fact("train and test are measured apart", "PVDM paper, table 4"),
    ),
    "tats": (
        Fact("every window of every video file", "TATS tats/data.py:57-71", {"real_clips": "every window"}),
        Fact(
            "the short side to 128 and the long one rounded up, bilinear without antialiasing, crop at the floor",
            "TATS tats/data.py:118-133",
            {**_VIDEOGPT_SIZES, "antialias": False},
        ),
        *_OF_TATS,
    ),
    "tats-frames": (
        Fact(
            "one random clip a folder of images that has more frames than a clip; the last start is never drawn",
            "TATS tats/data.py:565 and 592-594",
            {"real_clips": "one random a video", "needed_frames": "frames * stride + 1"},
        ),
        Fact(
            "centre crop at the floor, then Lanczos",
            "TATS tats/data.py:598-616",
            {"resize": "crop, lanczos", "crop": "floor"},
        ),
        *_OF_TATS,
    ),
    "latte": (
        Fact(
            "real frames 3 apart, generated 1",
            "Latte tools/metrics/frechet_video_distance.py:18, 29 and 43",
            {"stride": 3, "fake_stride": 1},
        ),
        Fact(
            "2048 clips of 16 frames",
            "Latte tools/metrics/metric_main.py:116-119",
            {"num_real": 2048, "num_fake": 2048, "frames": 16},
        ),
        Fact("a random subset of the videos", "Latte tools/metrics/metric_utils.py:233", {"order": "shuffled"}),
        Fact(
            "torchvision's centre crop, then Lanczos",
            "Latte tools/convert_videos_to_frames.py:78-79",
            {"resize": "crop, lanczos", "crop": "round"},
        ),
        Fact("256 pixels", "Latte tools/eval_metrics.sh:5", {"resolution": 256}),
        *_SGV_CLIPS[2:],
        *_SGV_SCORE,
        Fact("the train part", INFERRED),
    ),
    "cdfvd2048": (
        Fact("VideoMAE-v2", "CDFVD cdfvd/fvd.py:74-76", {"extractor": "videomae", "metrics": ("cdfvd",)}),
        Fact(
            "2048 generated clips and seed 42, the package's defaults; its default for real clips is all",
            "CDFVD cdfvd/fvd.py:58-59",
            {"num_fake": 2048, "seed": 42},
        ),
        Fact(
            "2048 real clips or all in its published statistics, which have seed 0; Kinetics with 128 frames has 2048 alone",
            "CDFVD README.md:38-45 and cdfvd/fvd.py:253",
            {"num_real": 2048},
        ),
        Fact("16 frames of 256 pixels", "CDFVD cdfvd/fvd.py:215", {"frames": 16, "resolution": 256, "stride": 1}),
        Fact(
            "one random clip a video file, in shuffled order; generated files too, arrays as they come",
            "CDFVD cdfvd/utils/data_utils.py:134 and 178-192",
            {"real_clips": "one random a video", "order": "shuffled"},
        ),
        Fact(
            "the short side to 256 and the long one rounded up, bilinear with antialiasing, crop at the floor",
            "CDFVD cdfvd/utils/data_utils.py:51-65",
            {**_VIDEOGPT_SIZES, "antialias": True},
        ),
        Fact("floats are cut off at whole levels", "CDFVD cdfvd/fvd.py:133 and 155", {"quantise": "truncate"}),
        Fact(
            "covariance / N, and the matrix root of scipy",
            "CDFVD cdfvd/utils/metric_utils.py:125-136 and cdfvd/fvd.py:94-98",
            {"ddof": 0},
        ),
        Fact("UCF-101: train and test together; other sets: train", "CDFVD README.md:40-45"),
    ),
    "tgan2-is": (
        Fact(
            "10 sets of 2048 clips of 16 frames, no split",
            "TGAN2 scripts/compute_inception_score.py:24-61",
            {"runs": 10, "num_fake": 2048, "splits": 1, "frames": 16},
        ),
        Fact(
            "floats of the generator, clipped and never rounded",
            "TGAN2 tgan2/evaluations/inception_score.py:69-83",
            {"quantise": "none"},
        ),
        Fact("1e-20 is added to probabilities", "TGAN2 tgan2/evaluations/inception_score.py:13 and 60", {"eps": 1e-20}),
        Fact(
            "C3D, of frames of any size",
            "TGAN2 tgan2/models/c3d/c3d_ucf101.py:67-73 and 164-168",
            {"extractor": "c3d", "resolution": None},
        ),
        Fact("the Inception score", "TGAN2 tgan2/evaluations/inception_score.py:57-66", {"metrics": ("is",)}),
    ),
    "styleganv-is": (
        Fact("2048 clips in 10 splits", "SGV src/metrics/metric_main.py:134-137", {"num_fake": 2048, "splits": 10}),
        Fact(
            "the TorchScript C3D, 16 frames",
            "SGV src/metrics/video_inception_score.py:15-24",
            {"extractor": "c3d-torchscript", "frames": 16},
        ),
        Fact(
            "clips shuffled by RandomState(42), nothing added to probabilities",
            "SGV src/metrics/video_inception_score.py:45-52",
            {"split_seed": 42, "eps": 0.0, "metrics": ("is",)},
        ),
        Fact("floats x 127.5 + 128, cut off", "SGV src/metrics/metric_utils.py:285", {"quantise": "round"}),
    ),
    "pvdm-is": (
        Fact("10,000 clips of 16 frames", "PVDM paper, section 4.1", {"num_fake": 10_000, "frames": 16, "metrics": ("is",)}),
        Fact(
            "network and eps of TGANv2, because no code of this measurement was released",
            INFERRED,
            {"extractor": "c3d", "eps": 1e-20},
        ),
        Fact("10 splits, because the paper does not say over what its deviation is", INFERRED, {"splits": 10}),
    ),
}
