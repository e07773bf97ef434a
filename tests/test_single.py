"""A transformer in one file, as other tools store it: the same numbers as the folder's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from unfuse.engines.qwen import Qwen  # noqa: E402
from unfuse.errors import EngineError  # noqa: E402
from unfuse.model.checkpoint import Weights  # noqa: E402
from unfuse.model.placement import Transformer  # noqa: E402
from unfuse.model.single import Single  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
FOLDER = CHECKPOINT / "transformer"
LINEAR = "transformer_blocks.0.attn.to_q.weight"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Any]:
    weights = Weights(FOLDER)
    return {name: weights.read(name).contiguous() for name in weights.files}


def state(file: Path) -> dict[str, Any]:
    return Transformer(FOLDER, file=file).model.state_dict()


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "transformer."])
def test_names_behind_a_prefix(tensors: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
    folder = Transformer(FOLDER).model.state_dict()
    assert all(torch.equal(tensor, folder[name]) for name, tensor in state(file).items())


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale", None])
def test_float8_is_read_as_the_numbers_it_means(tensors: dict[str, Any], scale: str | None, tmp_path: Path) -> None:
    stored = {name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for name, t in tensors.items()}
    if scale is not None:
        stored |= {f"{n.removesuffix('weight')}{scale}": torch.tensor(0.5) for n, t in tensors.items() if t.ndim == 2}
        stored["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    file = tmp_path / "one.safetensors"
    save_file(stored, file)
    factor = 1.0 if scale is None else 0.5
    assert torch.equal(Single(file).read(LINEAR), stored[LINEAR].float() * factor)
    assert set(Single(file).files) == set(tensors)
    torch.testing.assert_close(Single(file).read(LINEAR) / factor, tensors[LINEAR].float(), atol=0.01, rtol=0.07)


def test_gguf(tensors: dict[str, Any], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(file, "qwen_image")
    for name, tensor in tensors.items():
        if name == LINEAR:  # its rows, of 48, are no multiple of the block of 32: padded files do not exist
            writer.add_tensor(name, tensor.half().numpy())
        elif tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = Single(file)
    assert set(read.files) == set(tensors)
    assert torch.equal(read.read(LINEAR), tensors[LINEAR].half().float())
    for name, tensor in tensors.items():
        assert read.read(name).shape == tensor.shape
        torch.testing.assert_close(read.read(name), tensor.float(), atol=float(tensor.abs().max()) / 100, rtol=1e-3)


def test_an_engine_runs_on_one_file(tensors: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}, file)
    folder, one = Qwen(CHECKPOINT, plan="whole"), Qwen(CHECKPOINT, plan="whole", transformer=file)
    assert folder.weights_sha256 != one.weights_sha256
    for name, tensor in one.model.transformer.model.state_dict().items():
        assert torch.equal(tensor, folder.model.transformer.model.state_dict()[name])


def test_bad_files_are_named(tensors: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"nowhere\.gguf is not a file"):
        Qwen(CHECKPOINT, transformer=tmp_path / "nowhere.gguf")
    with pytest.raises(EngineError, match=r"\.safetensors or \.gguf"):
        Single(tmp_path / "model.ckpt")
    file = tmp_path / "part.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if name != LINEAR}, file)
    with pytest.raises(EngineError, match=rf"lacks the tensors {LINEAR}"):
        Transformer(FOLDER, file=file)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_float8_with_a_scale_for_each_row(tensors: dict[str, Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = tensors[LINEAR].float()
    scale = weight.abs().amax(dim=1) / 448
    stored = (weight / scale[:, None]).to(torch.float8_e4m3fn)
    module = LINEAR.removesuffix("weight")
    file = tmp_path / "one.safetensors"
    save_file({LINEAR: stored, f"{module}weight_scale": scale.reshape(shape)}, file)
    assert torch.equal(Single(file).read(LINEAR), stored.float() * scale[:, None])
    save_file({LINEAR: stored, f"{module}weight_scale": torch.ones(3, 2)}, file)
    with pytest.raises(EngineError, match=r"weight_scale is \(3, 2\), and a scale is one number, or one for each of"):
        Single(file).read(LINEAR)
