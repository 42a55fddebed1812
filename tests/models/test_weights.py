"""Weights of others: fetched whole or not at all, refused by hash and name, never unpickled; LPIPS and pixels."""

from __future__ import annotations

import hashlib
import http.server
import math
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from lvdm.models.features import download, weights
from lvdm.models.features.perceptual import TRUNKS, lpips_distance, lpips_of_clips
from lvdm.models.features.pixels import psnr, psnr_per_frame, ssim
from lvdm.models.features.weights import KNOWN, WeightsFile, find_weights, load_published, read_tensors, sha256_of
from lvdm.types import UserError

CONTENT = b"weights " * 40_000


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("LVDM_OFFLINE", raising=False)
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An address: /whole gives CONTENT, /page a page of text, anything else 404; test_downloads.py has other servers."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kinds = {"/whole": "application/octet-stream", "/page": "text/html"}
            self.send_response(200 if self.path in kinds else 404)
            self.send_header("Content-Type", kinds.get(self.path, "text/plain"))
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def know(monkeypatch: pytest.MonkeyPatch, *urls: str, sha256: str | None = None, by_hand: str = "") -> None:
    monkeypatch.setitem(KNOWN, "x.pt", WeightsFile("x.pt", "a file of this test", urls, sha256, by_hand))


# Finding ------------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_fetched_once_and_checked(folder, server, monkeypatch):
    know(monkeypatch, f"{server}/dead", f"{server}/whole", sha256=hashlib.sha256(CONTENT).hexdigest()[:8])
    path = find_weights("x.pt", without="leave it")
    assert path == folder / "x.pt" and path.read_bytes() == CONTENT
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **o: pytest.fail("it is there"))
    assert find_weights("x.pt", without="leave it") == path
    assert [file.name for file in folder.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("path", "sha256", "why"),
    [
        ("page", None, "a page of text came"),
        ("dead", None, "404"),
        ("whole", "00000000", "another file came: its sha256 is"),
    ],
)
def test_what_does_not_come_whole_leaves_no_file_and_is_one_sentence(folder, server, monkeypatch, path, sha256, why):
    know(monkeypatch, f"{server}/{path}", sha256=sha256, by_hand="the authors' page")
    with pytest.raises(UserError, match=rf"x.pt is not there and could not be fetched from .*/{path} \(.*{why}") as error:
        find_weights("x.pt", without="say --features random")
    for part in ("a file of this test", "the authors' page", "LVDM_WEIGHTS, or say --features random"):
        assert part in str(error.value)
    assert not list(folder.iterdir())


def test_offline_nothing_is_tried_and_a_file_without_address_is_asked_for_by_name(folder, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **o: pytest.fail("tried"))
    know(monkeypatch, by_hand="the authors' page")
    with pytest.raises(UserError, match="has no address to be fetched from.*the authors' page"):
        find_weights("x.pt", without="leave it")
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    for name, known in KNOWN.items():
        assert known.name == name and (known.urls or known.by_hand) and known.what
        with pytest.raises(UserError, match=f"{name} is not there and "):
            find_weights(name, without="leave it")


def test_a_file_of_another_hash_is_refused_by_name(folder, monkeypatch):
    folder.mkdir()
    (folder / "vgg16-397923af.pth").write_bytes(b"not VGG16")
    with pytest.raises(UserError, match=r"vgg16-397923af.pth is not the published .*[0-9a-f]{64}, .*397923af; put .*http"):
        find_weights("vgg16-397923af.pth", without="leave it")


def test_the_hash_of_a_file_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = sha256_of(path)
    assert first == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patched:
        patched.setattr(weights.hashlib, "sha256", lambda *a: pytest.fail("computed again"))
        assert sha256_of(path) == first
    path.write_bytes(b"three")
    assert sha256_of(path) == hashlib.sha256(b"three").hexdigest()


# Reading ------------------------------------------------------------------------------------------------------------------


def test_tensors_are_read_from_every_kind_of_file(tmp_path):
    tensors = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(3)}
    torch.save(tensors, tmp_path / "plain.pt")
    torch.save({"module": tensors, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(tensors, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **{name: value.numpy() for name, value in tensors.items()})
    for name in ("plain.pt", "wrapped.pth", "x.safetensors", "x.npz"):
        read = read_tensors(tmp_path / name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("code of the file ran",))


@pytest.mark.parametrize("suffix", ["pt", "npz", "safetensors"])
def test_foreign_hostile_and_truncated_files_are_one_sentence_by_name(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    tensors = {"a": torch.randn(64, 64)}
    if suffix == "pt":
        torch.save(tensors, path)
    elif suffix == "npz":
        np.savez(path, a=tensors["a"].numpy())
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    hostile = pickle.dumps({"a": Hostile()})
    for content in (b"", b"not weights", whole[: len(whole) // 2], whole[:20], hostile):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"x\.{suffix} cannot be read as weights .*truncated or another file"):
            read_tensors(path)
    if suffix == "npz":
        np.savez(path, a=np.array([Hostile()], dtype=object))
        with pytest.raises(UserError, match="cannot be read as weights"):
            read_tensors(path)


def test_a_file_without_tensors_says_so(tmp_path):
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"holds no named tensors \(it holds a list\)"):
        read_tensors(tmp_path / "x.pt")


def test_weights_that_do_not_fit_are_refused_by_the_first_name(tmp_path):
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    right = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    load_published(network, right, path=tmp_path, what="it")
    for wrong, said in (
        ({**right, "0.bias": torch.zeros(4)}, r"0.bias is \(4,\) in the file and \(3,\)"),
        ({name: value for name, value in right.items() if name != "0.weight"}, "0.weight is missing"),
        ({**right, "2.weight": torch.zeros(1)}, "2.weight is in no such network"),
    ):
        with pytest.raises(UserError, match=said):
            load_published(network, wrong, path=tmp_path, what="it")


# LPIPS and pixels ---------------------------------------------------------------------------------------------------------

STAGES = {"vgg": (0, 4, 9, 16, 23, 30), "alex": (0, 2, 5, 8, 10, 12)}  # where LPIPS cuts torchvision's features


@pytest.fixture(params=["vgg", "alex"])
def trunk(request, folder, monkeypatch) -> tuple[str, nn.Module]:
    """A file like torchvision's, with random features and no classifier, taken as the published one."""
    torch.manual_seed(0)
    net = request.param
    features = (torchvision.models.vgg16 if net == "vgg" else torchvision.models.alexnet)(weights=None).features
    folder.mkdir()
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, folder / TRUNKS[net])
    monkeypatch.setitem(KNOWN, TRUNKS[net], WeightsFile(TRUNKS[net], "random features"))
    return net, features.requires_grad_(False)


def test_lpips_by_hand(trunk):
    """Unit features, squared differences, calibrated and averaged over each layer, summed."""
    net, features = trunk
    distance = lpips_distance(net)
    images = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = torch.zeros(())
    layer = ((images - shift.view(3, 1, 1)) / scale.view(3, 1, 1)).flatten(0, 1)
    for before, stop, lin in zip(STAGES[net][:-1], STAGES[net][1:], distance.lins, strict=True):
        layer = features[before:stop](layer)
        a, b = (each / (each.square().sum(0, keepdim=True).sqrt() + 1e-10) for each in layer)
        total = total + lin.model[-1]((a - b).square()[None]).mean()
    assert float(distance(*images)) == pytest.approx(float(total), rel=1e-4)
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_lpips_of_clips_is_the_mean_over_frames_in_tiles_of_any_size():
    def distance(made: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        return (made - frames).square().mean((1, 2, 3), keepdim=True)

    video, made = torch.rand(2, 2, 3, 5, 8, 8) * 2 - 1
    expected = (video - made).square().mean((1, 2, 3, 4))
    for at_once in (1, 3, 100):
        torch.testing.assert_close(lpips_of_clips(distance, video, made, frames_at_once=at_once), expected)


def test_what_is_not_a_trunk_is_refused(folder, monkeypatch):
    with pytest.raises(UserError, match="the trunks vgg and alex, not 'squeeze'"):
        lpips_distance("squeeze")
    folder.mkdir()
    monkeypatch.setitem(KNOWN, TRUNKS["vgg"], WeightsFile(TRUNKS["vgg"], "a wrong one"))
    torch.save({"features.0.weight": torch.zeros(1)}, folder / TRUNKS["vgg"])
    with pytest.raises(UserError, match="does not hold the trunk vgg of LPIPS"):
        lpips_distance("vgg")


def test_psnr_of_a_clip_is_of_its_mean_error_and_psnr_per_frame_the_mean_of_frames():
    video = torch.zeros(1, 3, 2, 16, 16)
    made = video.clone()
    made[:, :, 0] += 0.2  # errors .04 and 0 of a peak of 2
    assert float(psnr(video, made)) == pytest.approx(10 * math.log10(4 / 0.02), rel=1e-5)
    assert float(psnr_per_frame(video, made)) == pytest.approx((20.0 + 100.0) / 2, rel=1e-5)
    made[:, :, 1] -= 0.2
    assert float(psnr_per_frame(video, made)) == pytest.approx(float(psnr(video, made)), rel=1e-5)


def test_ssim_of_constant_frames_is_the_term_of_their_means():
    """Without variance SSIM is (2ab + c1) / (a^2 + b^2 + c1), for means a, b in [0, 1] and c1 = .01^2."""
    a, b = 0.25, 0.75
    video, made = (torch.full((1, 3, 2, 16, 16), 2 * value - 1) for value in (a, b))
    assert float(ssim(video, made)) == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), rel=1e-4)
    assert float(ssim(video, video)) == pytest.approx(1.0)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (13, 40), (48, 32)])
def test_ssim_is_that_of_torchmetrics(height, width):
    oracle = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    generator = torch.Generator().manual_seed(height)
    video = torch.rand(2, 3, 3, height, width, generator=generator) * 2 - 1
    video[:, :, 1] = video[:, :, 1].mean()  # a flat frame, whose variance cancels
    made = video + 0.3 * torch.randn(video.shape, generator=generator)  # beyond [-1, 1] too
    levels = [((each.double().clamp(-1, 1) + 1) / 2).transpose(1, 2).flatten(0, 1) for each in (made, video)]
    expected = oracle(*levels, data_range=1.0, reduction="none").view(2, 3).mean(1)
    torch.testing.assert_close(ssim(video, made).double(), expected, rtol=0, atol=1e-6)


def test_ssim_of_a_large_clip_is_ten_times_as_fast_as_the_plain_window():
    oracle = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    video = torch.rand(1, 3, 1, 192, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    levels = ((video.double() + 1) / 2)[:, :, 0]

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    plain = [seconds(lambda: oracle(levels, levels, data_range=1.0)) for _ in range(3)]
    ours = [seconds(lambda: ssim(video, video)) for _ in range(3)]
    assert min(ours) < min(plain) / 10
