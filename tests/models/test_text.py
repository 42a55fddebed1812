"""The text encoder is transformers' own network, frozen and apart; a denoiser that reads text is trained and sampled with it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_text import (
    CLIPS,
    END,
    START,
    TEXT_UNET,
    TOKENS,
    VOCABULARY,
    WIDTH,
    cached,
    clip_config,
    encode_config,
    text_config,
    text_node,
    write_captioned,
    write_clip,
)
from tiny_training import AUTOENCODER, UNET, video_set, write_config
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

import lvdm
from lvdm.checkpoints.model_file import read_info
from lvdm.cli import benchmark, encode, sample_short, train
from lvdm.config import instantiate
from lvdm.diffusion.objectives import VObjective
from lvdm.diffusion.schedules import Cosine
from lvdm.models.codec import Codec
from lvdm.models.denoisers import UNet3D
from lvdm.models.text import ClipText
from lvdm.sampling.pipeline import SamplingSettings
from lvdm.training import LatentDiffusion, previews
from lvdm.training.previews import Previews
from lvdm.training.seeding import Share, generator_for
from lvdm.training.tasks import Task
from lvdm.types import UserError


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("text") / "clip")


def numbers(*tokens: str) -> list[int]:
    """Start, these tokens, end, and ends up to 77."""
    known = [START, *(VOCABULARY.index(token) for token in tokens), END]
    return known + [END] * (TOKENS - len(known))


# The encoder -----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_caption_is_the_last_hidden_state_of_its_tokens_in_transformers_own_network(clip):
    tokens = torch.tensor([numbers("red</w>", "s", "k", "y</w>"), numbers()])
    expected = CLIPTextModel.from_pretrained(clip)(input_ids=tokens).last_hidden_state
    found = ClipText(clip)([" Red  SKY", ""])
    assert found.shape == (2, TOKENS, WIDTH) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_caption_is_cut_at_77_tokens_and_is_the_same_in_any_company_and_under_autocast(clip):
    encoder = ClipText(clip)
    long, cut = encoder(["a " * 200]), encoder(["a " * 75])
    assert torch.equal(long, cut) and not torch.equal(long, encoder(["a " * 74]))
    captions = [f"{letter} sky" for letter in "abcdefghij" * 7]  # more than go through the network at once
    torch.testing.assert_close(encoder(captions)[66:67], encoder([captions[66]]), atol=1e-6, rtol=1e-6)
    plain = encoder(["red"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(["red"]), plain)


def test_the_published_file_with_an_image_encoder_is_the_same_text_encoder(clip, tmp_path):
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
    whole = CLIPModel(CLIPConfig(text_config=clip_config().to_dict(), vision_config={**vision, "patch_size": 4}))
    text = {name.removeprefix("text_model."): weight for name, weight in load_file(clip / "model.safetensors").items()}
    missing = whole.text_model.load_state_dict(text, strict=False).missing_keys
    assert not [name for name in missing if "position_ids" not in name]
    whole.save_pretrained(tmp_path / "whole")
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(clip / file, tmp_path / "whole")
    one, other = ClipText(clip), ClipText(tmp_path / "whole")
    assert one.fingerprint() == other.fingerprint() and torch.equal(one(["a red sky"]), other(["a red sky"]))


def test_the_fingerprint_is_of_weights_settings_and_vocabulary_and_not_of_the_place(clip, tmp_path, monkeypatch):
    monkeypatch.setenv("LVDM_WEIGHTS", str(clip.parent))
    same = {ClipText(clip).fingerprint(), ClipText("clip").fingerprint(), ClipText(tmp_path / "gone" / "clip").fingerprint()}
    assert len(same) == 1, "found by its path, its name, and its name where the path is another machine's"
    settings = {"num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-3}
    others = {name: write_clip(tmp_path / name, **{name: value}) for name, value in {"seed": 1, **settings}.items()}
    others["vocabulary"] = write_clip(tmp_path / "vocabulary")
    swapped = {token: number for number, token in enumerate(["b", "a", *VOCABULARY[2:]])}
    (others["vocabulary"] / "vocab.json").write_text(json.dumps(swapped))
    assert len(same | {ClipText(folder).fingerprint() for folder in others.values()}) == 1 + len(others)


def test_loading_draws_nothing_and_a_copy_is_the_same_encoder(clip):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    encoder = ClipText(clip)
    encoder(["red"])
    assert torch.equal(torch.rand(3), expected)
    assert copy.deepcopy({"a": encoder})["a"] is encoder and encoder.to("cpu") is encoder


def without(file: str) -> object:
    return lambda folder: (folder / file).unlink()


def set_in(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def fewer_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[:-2]), folder / "model.safetensors")


def more_tokens(folder: Path) -> None:
    more = [*VOCABULARY, "sky</w>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(more)}))


REFUSED = {
    "no folder": ("put config.json, model.safetensors and tokenizer.json or vocab.json and merges.txt", shutil.rmtree),
    "no weights": ("has no model.safetensors; put the files", without("model.safetensors")),
    "no tokenizer": ("has no tokenizer.json or vocab.json and merges.txt", without("merges.txt")),
    "damaged config": ("cannot be read as a CLIP text model", lambda folder: (folder / "config.json").write_text("{")),
    "a setting": ("expected int, got str", lambda folder: set_in(folder / "config.json", hidden_size="x")),
    "settings": ("not a multiple of the number", lambda folder: set_in(folder / "config.json", num_attention_heads=3)),
    "truncated weights": ("cannot be read as a CLIP text model", cut_weights),
    "missing weights": ("does not hold 2 weights that config.json describes, first", fewer_weights),
    "more layers than weights": ("far larger than the", lambda folder: set_in(folder / "config.json", num_hidden_layers=10**7)),
    "no mapping": ("cannot be read as a CLIP text model", lambda folder: (folder / "config.json").write_text("3")),
    "another tokenizer": ("57 tokens and the network 56", more_tokens),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_used_is_one_sentence(case, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path / "weights"))
    words, spoil = REFUSED[case]
    shutil.copytree(clip, tmp_path / "clip")
    spoil(tmp_path / "clip")
    encoder = ClipText(tmp_path / "clip")
    with pytest.raises(UserError, match="clip") as refused:
        encoder(["red"])
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal", "dtype"])
def test_a_folder_cannot_name_a_kernel_on_a_hub(key, clip, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", lambda *a, **k: fetched.append(a), raising=False)
    shutil.copytree(clip, tmp_path / "clip")
    set_in(tmp_path / "clip" / "config.json", **{key: "stranger/kernel"})
    assert torch.equal(ClipText(tmp_path / "clip")(["red"]), ClipText(clip)(["red"])) and not fetched


# In training -----------------------------------------------------------------------------------------------------------------


def module_of(clip: Path, **options: object) -> LatentDiffusion:
    parts = {"schedule": Cosine(), "objective": VObjective(), "num_latents": 4, "codec": Codec(instantiate(AUTOENCODER))}
    return LatentDiffusion(**{"denoiser": UNet3D(**TEXT_UNET), "text_encoder": ClipText(clip), **parts, **options})


def test_the_encoder_is_no_part_of_the_module_that_trains(clip):
    module = module_of(clip)
    module.text_encoder(["red"])
    assert not [name for name in module.state_dict() if not name.startswith(("denoiser.", "codec."))]
    trained = {id(p) for group in module.build_optimizers()[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.denoiser.parameters()}
    assert copy.deepcopy(module).text_encoder is module.text_encoder, "as in the averaged weights"


def test_the_caption_reaches_the_network_as_text_or_as_features(clip):
    module = module_of(clip)
    for parameter in module.denoiser.parameters():  # some start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    batch = {"latent": torch.randn(2, 2, 4, 2, 2), "index": torch.arange(2), "fps": torch.ones(2)}

    def loss(**text: object) -> float:
        return module.loss(module.draw({**batch, **text}, [Task()] * 2, generator_for(0))).loss.item()

    said = loss(caption=["red sky", "a bird"])
    assert loss(context=module.text_encoder(["red sky", "a bird"])) == pytest.approx(said, rel=1e-6)
    assert loss(caption=["red sky", "some other words"]) != pytest.approx(said, rel=1e-4)


def test_captions_that_are_left_out_are_the_same_for_one_process_and_for_two(clip):
    module = module_of(clip, empty_caption=0.5)
    batch = {"latent": torch.randn(8, 2, 4, 2, 2), "caption": list("abcdefgh"), "index": torch.arange(8), "fps": torch.ones(8)}

    def contexts(share: Share) -> torch.Tensor:
        mine = {key: share.of(value) for key, value in batch.items()}
        rng = generator_for(0, 7)
        draw = module.draw(mine, [Task()] * 8, rng, share)
        return module.without_some_captions(draw, rng, share).cond.context

    whole, halves = contexts(Share()), [contexts(Share(rank, 2)) for rank in range(2)]
    for rank, half in enumerate(halves):
        torch.testing.assert_close(half, whole[rank::2], atol=1e-6, rtol=1e-6)
    full, empty = module.text_encoder(batch["caption"]), module.text_encoder([""])
    is_empty = [torch.allclose(row, empty[0], atol=1e-5) for row in whole]
    assert 0 < sum(is_empty) < 8
    assert all(torch.allclose(row, full[i], atol=1e-5) for i, row in enumerate(whole) if not is_empty[i])


def test_the_fraction_of_empty_captions_is_the_one_asked_for(clip):
    batch = {"latent": torch.zeros(500, 2, 4, 1, 1), "context": torch.ones(500, TOKENS, WIDTH), "index": torch.arange(500)}
    for fraction in (0.0, 0.2, 1.0):
        module, rng = module_of(clip, empty_caption=fraction), generator_for(0)
        draw = module.draw(batch, [Task()] * 500, rng)
        kept = (module.without_some_captions(draw, rng).cond.context == 1).flatten(1).all(dim=1)
        assert 1 - kept.double().mean() == pytest.approx(fraction, abs=0.06 if fraction == 0.2 else 0)


def test_what_has_no_effect_or_nothing_to_read_is_refused(clip):
    deaf = UNet3D(**UNET)
    for words, options in {
        "give a text_encoder, or leave its context_dim out": {"text_encoder": None},
        "have no effect on a denoiser that reads no text": {"denoiser": deaf},
        "text_encoder and empty_caption": {"denoiser": deaf, "text_encoder": None, "empty_caption": 0.1},
        "expected a fraction from 0 to 1": {"empty_caption": 1.5},
    }.items():
        with pytest.raises(UserError, match=words):
            module_of(clip, **options)
    batch = {"latent": torch.zeros(1, 2, 4, 1, 1), "index": torch.arange(1)}
    with pytest.raises(UserError, match="the data has no captions"):
        module_of(clip).draw(batch, [Task()], generator_for(0))
    told = {**batch, "context": torch.zeros(1, TOKENS, WIDTH), "caption": ["red"]}
    assert module_of(clip, denoiser=deaf, text_encoder=None).draw(told, [Task()], generator_for(0)).cond.context is None


@pytest.mark.parametrize(("guidance", "passes"), [(0.0, 1), (7.5, 2)])
def test_a_guided_preview_reckons_with_the_memory_of_both_passes(guidance, passes, clip, monkeypatch):
    module, asked = module_of(clip), []
    module.all_gather = lambda size: size
    trainer = SimpleNamespace(global_rank=0, val_dataloaders=[{"context": torch.zeros(2, TOKENS, WIDTH)}])
    monkeypatch.setattr(previews, "auto_batch", lambda elements, device: asked.append(elements) or 1)
    settings = SamplingSettings([2, 4, 2, 2], fps=8, guidance=guidance, steps=1)
    assert len(Previews(Path(), settings)._sample(trainer, module, 2)) == 2
    assert asked == [passes * 2 * 4 * 2 * 2]


# From captions to a video ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(clip: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 steps on cached captions, with previews."""
    folder = tmp_path_factory.mktemp("trained")
    videos = write_captioned(made / "videos", folder / "videos")
    settings = encode_config(made, videos, clip, folder / "latents", dtype="float16")
    assert encode.main([write_config(folder / "encode.yaml", settings)]) == 0
    config = text_config(made, clip, folder, cached(folder / "latents" / "train"), empty_caption=0.5)
    config |= {"previews": {"num": 1}, "average": 0}
    assert train.main([write_config(folder / "text.yaml", config)]) == 0
    return folder


def sampled(model: Path, out: Path, *options: str) -> bytes:
    arguments = [str(model), "--num", "1", "--format", "npz", "--out", str(out), "--device", "cpu", *options]
    assert sample_short.main(arguments) == 0
    return next(out.glob("*.npz")).read_bytes()


def test_a_prompt_makes_its_video_and_guidance_moves_it(trained, tmp_path):
    path = trained / "text" / "model.safetensors"
    assert (trained / "text" / "previews").is_dir()
    videos = {
        name: sampled(path, tmp_path / name, "--prompt", prompt, "--guidance", weight)
        for name, prompt, weight in [
            ("a", "red sky", "0"),
            ("b", "red sky", "0"),
            ("c", "a blue bird", "0"),
            ("d", "red sky", "9"),
        ]
    }
    assert videos["a"] == videos["b"]
    assert videos["a"] != videos["c"] and videos["a"] != videos["d"]
    model = lvdm.load(path)
    context = model.text_encoder(["red sky"])
    plain, guided = (model.sample_latents(1, context=context, guidance=weight) for weight in (0.0, 1.0))
    assert not torch.allclose(plain, guided, atol=1e-4)
    empty = model.sample_latents(1, context=model.text_encoder([""]), guidance=1.0)
    torch.testing.assert_close(empty, model.sample_latents(1, context=model.text_encoder([""]), guidance=0.0))


def test_a_model_file_names_its_text_encoder_and_holds_none_of_its_weights(trained, clip, tmp_path, capsys):
    path = trained / "text" / "model.safetensors"
    info = read_info(path)
    assert info.text_encoder == text_node(clip) and info.text_fingerprint == ClipText(clip).fingerprint()
    assert all(name.startswith(("codec.", "denoiser.")) for name in load_file(path))
    assert sample_short.main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert "this network takes text and got none; give a prompt" in capsys.readouterr().err


@pytest.mark.parametrize(("seed", "words"), [(1, "was trained with another text encoder"), (None, "there is no folder")])
def test_other_weights_or_none_are_refused_at_the_first_prompt(seed, words, trained, clip, monkeypatch, tmp_path, capsys):
    """The folder of training is not on this machine; one of its name is where LVDM_WEIGHTS says, or is not."""
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path / "weights"))
    if seed is not None:
        write_clip(tmp_path / "weights" / "clip", seed=seed)
    clip.rename(clip.with_name("away"))
    try:
        path = str(trained / "text" / "model.safetensors")
        model = lvdm.load(path)
        assert model.codec.decode(torch.zeros(1, 2, 4, 2, 2)).shape == (1, 3, 16, 16, 16), "decoding needs no text encoder"
        assert read_info(lvdm.save(model, tmp_path / "copy.safetensors")).text_fingerprint == read_info(path).text_fingerprint
        pytest.raises(UserError, model.encode_prompts, ["red"]).match(words)
        assert sample_short.main([path, "--prompt", "red", "--out", str(tmp_path / "out")]) == 2
    finally:
        clip.with_name("away").rename(clip)
    assert words in capsys.readouterr().err


def test_speed_and_memory_are_told_without_the_weights_of_the_text_encoder(made, tmp_path, capsys):
    config = text_config(made, tmp_path / "nowhere", tmp_path, video_set(made / "videos", **CLIPS), empty_caption=0.1)
    config["sampling"]["guidance"] = 1.0
    written = write_config(tmp_path / "a.yaml", config)
    assert train.main([written, "--dry-run"]) == 0
    assert benchmark.main([written, "--steps", "1", "--warmup", "0", "--device", "cpu"]) == 0
    assert "memory of a training step" in (said := capsys.readouterr().out) and "sample" in said
