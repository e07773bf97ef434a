"""PSNR and SSIM against known answers; a VAE's report, with and without a user's own networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from unfuse.errors import FormatError, UnfuseError  # noqa: E402
from unfuse.evaluate import vae  # noqa: E402
from unfuse.evaluate.vae import VAESettings  # noqa: E402
from unfuse.train.vae import ssim  # noqa: E402

PSNR, SSIM = 24.2936862434186, 0.904925324833958  # of scikit-image 0.26, see below
PUBLISHED = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"


def pair() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two pictures in levels that anyone can make again."""
    y, x = np.mgrid[:40, :56].astype(np.float64)
    a = np.stack([127 + 100 * np.sin(x / 5), 127 + 90 * np.cos(y / 4 + x / 9), (x * 3 + y * 2) % 256], -1)
    b = np.stack([a[..., 0] * 0.9 + 10, np.roll(a[..., 1], 1, 0), a[..., 2] + 8 * np.sin(x * y)], -1)
    return np.floor(a.clip(0, 255)), np.floor(b.clip(0, 255))


def test_known_answers() -> None:
    """Of scikit-image: peak_signal_noise_ratio and structural_similarity with gaussian_weights, sigma 1.5, the sample
    covariance off, data_range 255.
    """
    a, b = pair()
    assert vae.psnr(a, b) == pytest.approx(PSNR, abs=1e-6)
    assert vae.ssim(a, b) == pytest.approx(SSIM, abs=1e-6)
    assert vae.psnr(a, a) == vae.BEST
    assert vae.ssim(a, a) == pytest.approx(1)
    assert vae.psnr(a, a + 1) == pytest.approx(20 * np.log10(255))


def test_training_and_evaluation_mean_the_same_by_ssim() -> None:
    a, b = pair()
    tensors = [torch.from_numpy(x / 255).permute(2, 0, 1)[None] for x in (a, b)]
    assert float(ssim(*tensors)) == pytest.approx(vae.ssim(a, b), abs=1e-6)


def test_frechet() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4000, 3))
    assert vae.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert vae.frechet(a, a + np.array([3, 0, 4])) == pytest.approx(25)
    assert vae.frechet(a, 2 * a) == pytest.approx(np.sum(a.mean(0) ** 2) + np.trace(np.cov(a, rowvar=False)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "rgba"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i, (width, height) in enumerate(((30, 21), (24, 32))):
        small = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def test_a_report_has_baselines_intervals_and_pictures(pictures: Path, tmp_path: Path) -> None:
    result = vae.evaluate_vae(pictures, PUBLISHED, tmp_path / "report", VAESettings(resamples=50))
    assert json.loads((tmp_path / "report/report.json").read_text())["summary"] == result["summary"]
    assert list(result["summary"]) == ["the VAE", "alpha set to 1", "an eighth and up"]
    of_vae = result["summary"]["the VAE"]
    assert of_vae["psnr"]["low"] <= of_vae["psnr"]["mean"] <= of_vae["psnr"]["high"]
    assert "lpips" not in of_vae
    page = (tmp_path / "report/index.html").read_text()
    assert page.count("data:image/png") == 6
    assert "Not measured: LPIPS, rFID" in page
    assert "2 pictures" in vae.lines(result)[0]
    first = next(vae.read(pictures, None))[1]
    grey = vae.over(first, vae.GROUNDS["grey"])
    np.testing.assert_array_equal(vae.over(vae.without_alpha(first), (0, 0, 0)), first[..., :3])
    assert np.abs(grey - first[..., :3]).max() > 1


def test_networks_of_the_user(pictures: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, float_ = onnx.helper, onnx.TensorProto.FLOAT

    def write(name: str, nodes: list[object], inputs: list[str]) -> Path:
        given = [helper.make_tensor_value_info(i, float_, [None, 3, None, None]) for i in inputs]
        graph = helper.make_graph(nodes, name, given, [helper.make_tensor_value_info("out", float_, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.onnx"

    mean = helper.make_node("ReduceMean", ["c"], ["out"], axes=[1, 2, 3])
    difference = [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Abs", ["d"], ["c"]), mean]
    lpips = write("distance", difference, ["a", "b"])
    inception = write("features", [helper.make_node("ReduceMean", ["a"], ["out"], axes=[2, 3], keepdims=0)], ["a"])
    settings = VAESettings(resamples=50, lpips=lpips, inception=inception)
    result = vae.evaluate_vae(pictures, PUBLISHED, tmp_path / "report", settings)
    name, levels = next(vae.read(pictures, None))
    pairs = [(vae.over(levels, g), vae.over(vae.without_alpha(levels), g)) for g in vae.GROUNDS.values()]
    expected = np.mean([np.abs(a - b).mean() / 127.5 for a, b in pairs])
    row = next(row for row in result["pictures"] if row["picture"] == name)
    assert row["methods"]["alpha set to 1"]["lpips"] == pytest.approx(expected, rel=1e-4)
    assert result["summary"]["the VAE"]["rfid"]["mean"] > 0


def test_what_is_no_vae_and_no_folder_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="holds no RGBA pictures"):
        vae.evaluate_vae(tmp_path, PUBLISHED, tmp_path / "report", VAESettings())
    with pytest.raises(UnfuseError, match="is no run of stage vae and no published folder"):
        vae.evaluate_vae(pictures, tmp_path, tmp_path / "report", VAESettings())
    with pytest.raises(UnfuseError, match="SSIM needs pictures of 11 pixels"):
        vae.ssim(np.zeros((10, 20, 3)), np.zeros((10, 20, 3)))
