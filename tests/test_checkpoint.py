from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file  # noqa: E402

from unfuse.errors import EngineError  # noqa: E402
from unfuse.model import checkpoint  # noqa: E402
from unfuse.model.mmdit import MMDiT, MMDiTParams  # noqa: E402
from unfuse.model.vae import VAE, VAEParams  # noqa: E402

PUBLISHED = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
SECOND = "diffusion_pytorch_model-00002-of-00003.safetensors"


@pytest.fixture
def transformer(tmp_path: Path) -> Path:
    return shutil.copytree(PUBLISHED / "transformer", tmp_path / "transformer")


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return shutil.copytree(PUBLISHED / "vae", tmp_path / "vae")


def change_config(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def change_tensors(file: Path, **change: Any) -> None:
    """Replace tensors of a shard; None takes one away."""
    tensors = {**load_file(file), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


def test_shards_and_one_file_give_the_same_vae(vae: Path) -> None:
    sharded = checkpoint.load_vae(vae)
    tensors: dict[str, Any] = {}
    for shard in sorted(vae.glob("*.safetensors")):
        tensors |= load_file(shard)
        shard.unlink()
    (vae / "diffusion_pytorch_model.safetensors.index.json").unlink()
    save_file(tensors, vae / checkpoint.WEIGHTS)
    for path in (vae, vae / checkpoint.WEIGHTS):
        single = checkpoint.load_vae(path).state_dict()
        assert single.keys() == sharded.state_dict().keys()
        assert all(torch.equal(single[name], tensor) for name, tensor in sharded.state_dict().items())


def test_weights_come_in_the_wanted_precision() -> None:
    model = checkpoint.load_transformer(PUBLISHED / "transformer", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta for p in model.parameters())


def test_a_missing_shard_is_named(transformer: Path) -> None:
    (transformer / SECOND).unlink()
    with pytest.raises(EngineError, match=f"lacks {SECOND}"):
        checkpoint.load_transformer(transformer)


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors.index.json"])
def test_a_missing_or_broken_json_file_is_named(transformer: Path, name: str) -> None:
    (transformer / name).write_text("<html>")
    with pytest.raises(EngineError, match=f"{name} is not JSON"):
        checkpoint.load_transformer(transformer)
    (transformer / name).unlink()
    with pytest.raises(EngineError, match=name):
        checkpoint.load_transformer(transformer)


@pytest.mark.parametrize("size", [0, 5, 4000])
def test_a_broken_shard_is_named(transformer: Path, size: int) -> None:
    shard = transformer / SECOND
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(EngineError, match=f"{SECOND} is broken"):
        checkpoint.load_transformer(transformer)


def test_missing_unknown_and_misshaped_tensors_are_named(transformer: Path) -> None:
    last, third = transformer / SECOND.replace("00002", "00003"), torch.ones(3)
    whole = load_file(last)
    change_tensors(last, **{"proj_out.weight": None})
    with pytest.raises(EngineError, match=r"lacks the tensors proj_out\.weight"):
        checkpoint.load_transformer(transformer)
    save_file({**whole, "proj_out.lora": third}, last)
    with pytest.raises(EngineError, match=r"unknown tensors proj_out\.lora"):
        checkpoint.load_transformer(transformer)
    save_file({**whole, "proj_out.bias": third}, last)
    with pytest.raises(EngineError, match=r"proj_out\.bias is \(3,\), and its config asks for \(64,\)"):
        checkpoint.load_transformer(transformer)


def test_a_part_of_a_stacked_weight_that_is_misshaped_is_named(transformer: Path) -> None:
    for shard in transformer.glob("*.safetensors"):
        if "transformer_blocks.1.attn.to_k.bias" in load_file(shard):
            change_tensors(shard, **{"transformer_blocks.1.attn.to_k.bias": torch.ones(40)})
    with pytest.raises(EngineError, match=r"transformer_blocks\.1\.attn\.to_k\.bias is \(40,\)"):
        checkpoint.load_transformer(transformer)


def test_many_missing_tensors_are_counted(transformer: Path) -> None:
    change_config(transformer, num_layers=4)
    with pytest.raises(EngineError, match="and 27 more"):
        checkpoint.load_transformer(transformer)


@pytest.mark.parametrize("change", [{"use_layer3d_rope": False}, {"zero_cond_t": True}, {"guidance_embeds": True}])
def test_another_model_is_refused(transformer: Path, change: dict[str, Any]) -> None:
    change_config(transformer, **change)
    with pytest.raises(EngineError, match=next(iter(change))):
        checkpoint.load_transformer(transformer)


def test_a_config_that_describes_nothing_is_refused(transformer: Path, vae: Path) -> None:
    change_config(transformer, axes_dims_rope=[8, 8, 8])
    with pytest.raises(EngineError, match="does not describe a transformer: axes"):
        checkpoint.load_transformer(transformer)
    change_config(vae, latents_mean=[0.0])
    with pytest.raises(EngineError, match="does not describe a VAE: latent_mean"):
        checkpoint.load_vae(vae)


def test_an_rgb_vae_is_refused(vae: Path) -> None:
    change_config(vae, input_channels=3)
    with pytest.raises(EngineError, match="input_channels is 3, and only 4"):
        checkpoint.load_vae(vae)


VAE_ROW = VAEParams(base=4, multipliers=(1, 2), res_blocks=1, stem=4)
MMDIT_ROW = MMDiTParams(12, 2, 2, 5, 7, (2, 2, 2), None, shared_modulation=True, attention="alternate", kinds=0)


@pytest.mark.parametrize(("kind", "build", "params"), [(VAEParams, VAE, VAE_ROW), (MMDiTParams, MMDiT, MMDIT_ROW)])
def test_our_own_files_come_back(tmp_path: Path, kind: Any, build: Any, params: Any) -> None:
    model = build(params)
    path = tmp_path / "small.safetensors"
    checkpoint.save(model, params, path, stage="first", step=7)
    again, about = checkpoint.load(path, kind, build)
    assert again.params == params
    assert (about["stage"], about["step"]) == ("first", 7)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.json", "small.safetensors"]


def test_our_own_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    checkpoint.save(VAE(VAE_ROW), VAE_ROW, path)
    with pytest.raises(EngineError, match="does not describe MMDiTParams"):
        checkpoint.load(path, MMDiTParams, MMDiT)
    about = json.loads(path.with_suffix(".json").read_text())
    about["params"]["base"] = 8
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(EngineError, match="its config asks for"):
        checkpoint.load(path, VAEParams, VAE)
    path.unlink()
    with pytest.raises(EngineError, match="is missing"):
        checkpoint.load(path, VAEParams, VAE)


def test_a_fingerprint_tells_fine_tunes_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(PUBLISHED / "vae", tmp_path / name)
    one, other = (checkpoint.fingerprint(tmp_path / name) for name in ("a", "b"))
    assert one == other
    shard = tmp_path / "b" / SECOND
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert checkpoint.fingerprint(tmp_path / "b") != one
