from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from unfuse.errors import EngineError  # noqa: E402
from unfuse.model import lora  # noqa: E402
from unfuse.model.checkpoint import Weights  # noqa: E402
from unfuse.model.placement import Transformer  # noqa: E402

FOLDER = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint/transformer"
RANK, ALPHA = 3, 6.0
MODULES = ("transformer_blocks.1.attn.to_k", "transformer_blocks.0.txt_mod.1", "proj_out")
SPELLINGS = {
    "peft": ("base_model.model.transformer.{}", "lora_A.weight", "lora_B.weight"),
    "peft, named": ("transformer.{}", "lora_A.default.weight", "lora_B.default.weight"),
    "plain": ("{}", "lora_down.weight", "lora_up.weight"),
    "original": ("diffusion_model.{}", "lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_unet_{}", "lora_down.weight", "lora_up.weight"),
}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(FOLDER)


@pytest.fixture(scope="module")
def pairs(weights: Weights) -> dict[str, tuple[Any, Any]]:
    """Random low-rank matrices for three modules: of an attention, a modulation and the outside."""
    torch.manual_seed(0)
    shapes = {module: weights.read(f"{module}.weight").shape for module in MODULES}
    return {module: (torch.randn(RANK, i), torch.randn(o, RANK)) for module, (o, i) in shapes.items()}


def write(
    path: Path, pairs: dict[str, tuple[Any, Any]], spelling: str, alpha: float | None = None, **metadata: Any
) -> Path:
    pattern, down_name, up_name = SPELLINGS[spelling]
    tensors: dict[str, Any] = {}
    for module, (down, up) in pairs.items():
        name = pattern.format(module.replace(".", "_") if spelling == "kohya" else module)
        tensors |= {f"{name}.{down_name}": down, f"{name}.{up_name}": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(int(alpha) if spelling == "kohya" else alpha)  # tools differ
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(metadata)} if metadata else None)
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_merged_weight_is_the_explicit_sum(
    tmp_path: Path, weights: Weights, pairs: dict[str, tuple[Any, Any]], spelling: str
) -> None:
    path = write(tmp_path / "lora.safetensors", pairs, spelling, ALPHA)
    loras = lora.LoRAs([(path, 0.5)], weights.files)
    for module, (down, up) in pairs.items():
        before = weights.read(f"{module}.weight").float()
        merged = loras.merge(f"{module}.weight", before)
        torch.testing.assert_close(merged, before + 0.5 * (ALPHA / RANK) * (up @ down))
        bias = weights.read(f"{module}.bias")
        assert loras.merge(f"{module}.bias", bias) is bias


@pytest.mark.parametrize(
    ("alpha", "metadata", "scale"),
    [(None, {}, 1.0), (ALPHA, {}, 2.0), (None, {"transformer.lora_alpha": 12, "transformer.r": RANK}, 4.0)],
)
def test_alpha(
    tmp_path: Path,
    weights: Weights,
    pairs: dict[str, tuple[Any, Any]],
    alpha: float | None,
    metadata: Any,
    scale: float,
) -> None:
    path = write(tmp_path / "lora.safetensors", pairs, "peft", alpha, **metadata)
    (change,) = lora.LoRAs([(path, 1.0)], weights.files).changes["proj_out.weight"]
    assert change.factor == scale


def test_the_model_has_every_file_in_its_stacked_weights(tmp_path: Path, pairs: dict[str, tuple[Any, Any]]) -> None:
    one = write(tmp_path / "one.safetensors", pairs, "peft", ALPHA)
    other = write(tmp_path / "other.safetensors", pairs, "kohya", ALPHA)
    plain, changed = Transformer(FOLDER), Transformer(FOLDER, loras=[(one, 1.0), (other, -0.25)])
    difference = {name: tensor - plain.model.state_dict()[name] for name, tensor in changed.model.state_dict().items()}
    sums = {module: 0.75 * (ALPHA / RANK) * (up @ down) for module, (down, up) in pairs.items()}
    qkv = torch.zeros_like(difference["blocks.1.image.qkv.weight"])
    width = len(qkv) // 3
    qkv[width : 2 * width] = sums[MODULES[0]]
    expected = {
        "blocks.1.image.qkv.weight": qkv,
        "blocks.0.text.modulation.linear.weight": sums[MODULES[1]],
        "image_out.weight": sums[MODULES[2]],
    }
    for name, found in difference.items():
        torch.testing.assert_close(found, expected.get(name, torch.zeros_like(found)), atol=1e-5, rtol=0)


def test_unknown_keys_are_named(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "lora.safetensors"
    for key in ("transformer.blocks.0.attn.to_q.lora_A.weight", "proj_out.dora_scale", "lora_te1_text_model.alpha"):
        save_file({key: torch.ones(2, 2), "proj_out.lora_A.weight": torch.ones(2, 2)}, path)
        with pytest.raises(EngineError, match=f"unknown keys {key.replace('.', '[.]')}: no LoRA of the layered"):
            lora.LoRAs([(path, 1.0)], weights.files)


def test_what_cannot_be_merged_is_refused(tmp_path: Path, weights: Weights, pairs: dict[str, tuple[Any, Any]]) -> None:
    path = tmp_path / "lora.safetensors"
    files = [(path, 1.0)]
    path.write_bytes(b"no weights")
    with pytest.raises(EngineError, match="is no LoRA file, or is broken"):
        lora.LoRAs(files, weights.files)
    save_file({}, path)
    with pytest.raises(EngineError, match="it is empty"):
        lora.LoRAs(files, weights.files)
    write(path, pairs, "peft", use_rslora=True)
    with pytest.raises(EngineError, match="uses use_rslora"):
        lora.LoRAs(files, weights.files)
    save_file({"proj_out.lora_A.weight": torch.ones(2, 2)}, path)
    with pytest.raises(EngineError, match="proj_out has no pair"):
        lora.LoRAs(files, weights.files)
    save_file({"proj_out.lora_A.weight": torch.ones(2, 9), "proj_out.lora_B.weight": torch.ones(9, 2)}, path)
    with pytest.raises(EngineError, match=r"changes proj_out\.weight as 9 x 9"):
        Transformer(FOLDER, loras=files)
    with pytest.raises(EngineError, match="nothing is not a file"):
        lora.checked([tmp_path / "nothing"])


def test_a_fingerprint_tells_files_and_strengths_apart(tmp_path: Path, pairs: dict[str, tuple[Any, Any]]) -> None:
    path = write(tmp_path / "lora.safetensors", pairs, "peft")
    prints = {lora.fingerprint("x", files) for files in ([], [(path, 1.0)], [(path, 0.5)], [(path, 1.0)] * 2)}
    assert len(prints) == 4
    assert lora.fingerprint("x", []) == "x"
