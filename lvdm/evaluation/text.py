"""Measure videos with a prompt each, from files or from a text-to-video model: how well each shows its prompt, by CLIP."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lvdm.data.loading import next_batch
from lvdm.evaluation.measure import scoring
from lvdm.evaluation.metrics.scores import ScoreOptions, mean_over
from lvdm.evaluation.protocols.pixels import to_levels
from lvdm.evaluation.results.provenance import ExtractorFacts, FakeSource, Origin, Prompts
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.sources.model import Sampling
from lvdm.evaluation.sources.sampled import group_size, groups
from lvdm.evaluation.sources.splits import parts_below
from lvdm.evaluation.sources.stored import fake_files
from lvdm.evaluation.sources.videos import Source, VideoSource, open_source
from lvdm.models.features.clip_similarity import ClipSimilarity
from lvdm.models.features.extractors import full_precision
from lvdm.processes import Process, gather, machine
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import TextEncoder, UserError

QUANTISE = "round"  # floats of a model to levels, as sample_short writes them


class Prompted(Protocol):
    """Videos, whole, each with its prompt."""

    @property
    def prompts(self) -> list[str]: ...

    def videos(self) -> Iterator[tuple[int, Tensor]]: ...  # those of this process: number and uint8 (t, h, w, 3)

    def facts(self) -> FakeSource: ...


@dataclass(frozen=True)
class PromptedFiles:
    source: Source
    prompts: list[str]
    workers: int = 0

    def videos(self) -> Iterator[tuple[int, Tensor]]:
        share = Process.this().share(len(self.prompts))
        loaded = iter(DataLoader(_Whole(self.source, share), batch_size=None, num_workers=self.workers))
        for number in share:
            video = next_batch(loaded)
            assert video is not None, "as many as this process's share"
            yield number, video

    def facts(self) -> FakeSource:
        return fake_files(self.source, range(len(self.prompts)))


class _Whole(Dataset[np.ndarray]):
    """Videos from their first to their last frame."""

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        number = self.numbers[index]
        return np.array(self.source.read(number, range(self.source.lengths[number])))


@dataclass(frozen=True)
class PromptedModel:
    """Video i of a seed shows prompt i; it is never stored."""

    origin: Origin
    model: VideoModel
    text_encoder: TextEncoder
    sampling: Sampling
    prompts: list[str]

    def videos(self) -> Iterator[tuple[int, Tensor]]:
        how, count = self.sampling, len(self.prompts)
        elements = 2 * math.prod(self.model.trained_settings().latent_shape)  # twice, for guidance
        options = {**how.of_any(), "seed": how.seed}
        for rows in groups(count, group_size(how.batch_size, count, elements, self.model.device)):
            context = self.text_encoder([self.prompts[min(row, count - 1)] for row in rows])
            latents = self.model.sample_latents(len(rows), first=rows[0], batch_size=len(rows), context=context, **options)
            for row, latent in zip(rows, latents.split(1), strict=True):
                if row < count:
                    yield row, to_levels(self.model.codec.decode(latent)[0], QUANTISE).permute(1, 2, 3, 0)

    def facts(self) -> FakeSource:
        settings, how = self.model.trained_settings(), self.sampling
        solver = self.model.solver(how)
        guidance = settings.guidance if how.guidance is None else how.guidance
        return FakeSource.of_model(self.origin, solver, guidance=guidance, seed=how.seed)


def measure_text(videos: Prompted, similarity: ClipSimilarity, *, resamples: int = 0) -> Result:
    """Return the mean similarity of videos and their prompts; every process takes its share and returns the same."""
    options = ScoreOptions((), resamples)
    scores, frames = similarities(videos, similarity)
    folder = similarity.name.removeprefix("clip ")
    return Result(
        protocol=None,
        values={f"clip_similarity_{folder.removeprefix('clip-')}": mean_over(scores, options, over="videos")},
        extractor=ExtractorFacts(similarity.name, similarity.model.config.projection_dim, True, folder, similarity.sha256),
        num_real=0,
        num_fake=len(scores),
        fake=videos.facts(),
        machine=machine(similarity.device),
        scoring=scoring(options),
        prompts=Prompts(prompts_sha256(videos.prompts), (min(frames), max(frames))),
    )


def prompts_sha256(prompts: Sequence[str]) -> str:
    """Return the hash of the prompts in their order."""
    return hashlib.sha256(json.dumps(list(prompts), ensure_ascii=False).encode()).hexdigest()


def similarities(videos: Prompted, similarity: ClipSimilarity) -> tuple[np.ndarray, list[int]]:
    """Return the similarities (n,) of all videos, and how many frames each has; CLIP sees one at a time, of any size."""
    found: list[tuple[int, float, int]] = []
    process = Process.this()
    total = len(process.share(len(videos.prompts)))
    with tqdm(total=total, desc="videos", unit="video", delay=2.0, mininterval=1.0, disable=process.rank > 0) as bar:
        for number, video in videos.videos():
            with full_precision(similarity.device):
                found.append((number, similarity(video[None], [videos.prompts[number]]).item(), len(video)))
            bar.update()
    everything = sorted(row for part in gather(found) for row in part)
    return np.array([score for _, score, _ in everything]), [frames for _, _, frames in everything]


def open_prompted(
    videos: str | Path | np.ndarray | Tensor, prompts: Sequence[str], *, each: int | None, workers: int
) -> PromptedFiles:
    """Return videos of a folder or an array, `each` videos of every prompt in turn; without prompts, with a folder's captions."""
    if isinstance(videos, str | Path):
        path = Path(videos)
        if path.is_dir() and (below := list(parts_below(path).values())):
            held = " and ".join(folder.name for folder in below)
            raise UserError(f"{path} holds {held}; give the folder of the videos, such as {below[-1]}")
        if path.suffix in (".yaml", ".yml"):
            raise UserError(f"{path} is a config; give the folder of its videos, whose metadata.jsonl holds the captions")
    source = open_source(videos, split="train", quantise=QUANTISE)
    parts = source.parts if isinstance(source, VideoSource) else ()
    found = [video for part in parts for video in part.listed]
    if not prompts:
        return PromptedFiles(source, _captions(source), workers)
    names = [video.name for video in found] or source.names  # of broken ones too, which have their prompts
    prompt_of = dict(zip(names, spread(prompts, 1 if each is None else each, len(names)), strict=True))
    return PromptedFiles(source, [prompt_of[name] for name in source.names], workers)


def spread(prompts: Sequence[str], each: int, count: int | None = None) -> list[str]:
    """Return every prompt `each` times in turn, for `count` videos if that is known."""
    if each < 1:
        raise UserError(f"num is {each}; give the number of videos of each prompt, 1 or more")
    if count is not None and count != each * len(prompts):
        many, rest = divmod(count, len(prompts))
        how = f"give num {many}" if many and not rest else "give a prompt for each video, or num, the videos of each prompt"
        raise UserError(f"{count} videos came with {len(prompts)} prompts and {each} videos of each; {how}")
    return [prompt for prompt in prompts for _ in range(each)]


def _captions(source: Source) -> list[str]:
    if not isinstance(source, VideoSource):
        raise UserError(f"{source.name} holds no prompts; give them as prompts")
    without = [video.name for video in source.videos if not video.description.caption]
    if without:
        raise UserError(f"{without[0]} has no caption in a metadata.jsonl of {source.name}; add it, or give prompts")
    return [video.description.caption or "" for video in source.videos]
