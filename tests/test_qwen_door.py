"""What the engine `qwen` says of a wrong folder, file or option: at once, before anything large is read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from unfuse.engines.qwen import Qwen  # noqa: E402
from unfuse.errors import EngineError  # noqa: E402
from unfuse.model.text import TextEncoder  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
SHARDS = sorted(path.relative_to(CHECKPOINT).as_posix() for path in CHECKPOINT.rglob("*.safetensors"))
INDEX = "diffusion_pytorch_model.safetensors.index.json"
NEEDED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "transformer/config.json",
    f"transformer/{INDEX}",
    "vae/config.json",
    f"vae/{INDEX}",
    *SHARDS,
]
A_SHARD = "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")


def refused(folder: Path, **options: Any) -> str:
    """What is said when the engine is made; nothing was loaded then."""
    with pytest.raises(EngineError) as error:
        Qwen(folder, **{"device": "cpu", "say": lambda _: None, **options})
    return str(error.value)


@pytest.mark.parametrize("file", NEEDED)
def test_every_file_that_is_missing_is_named_with_the_cure(folder: Path, file: str) -> None:
    (folder / file).unlink()
    said = refused(folder)
    assert Path(file).name in said
    assert re.search("download|give the folder", said)


@pytest.mark.parametrize("part", ["transformer", "vae", "tokenizer", "scheduler"])
def test_every_folder_that_is_missing_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert f"checkpoint/{part}" in refused(folder)


@pytest.mark.parametrize("shard", SHARDS)
def test_every_shard_that_is_cut_short_is_named(folder: Path, shard: str) -> None:
    (folder / shard).write_bytes((folder / shard).read_bytes()[:-100])
    said = refused(folder)
    assert f"{shard} is broken" in said
    assert said.endswith("download it again")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model_index.json", "[]", "model_index.json holds no JSON object"),
        ("model_index.json", "{", "model_index.json is not JSON"),
        (f"transformer/{INDEX}", "{}", f"{INDEX} names no shards"),
        (f"vae/{INDEX}", '{"weight_map": 3}', f"{INDEX} names no shards"),
        ("tokenizer/vocab.json", '{"a":', "vocab.json is not JSON"),
        (A_SHARD, "version https://git-lfs.github.com/spec/v1\n", "00002-of-00003.safetensors is broken"),
    ],
)
def test_files_that_hold_something_else_are_named(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    assert message in refused(folder)


def test_a_processor_is_missed_before_the_text_encoder_comes(folder: Path) -> None:
    (folder / "processor/preprocessor_config.json").unlink()
    engine = Qwen(folder, device="cpu", say=lambda _: None)
    with pytest.raises(EngineError, match=r"processor/preprocessor_config\.json is missing"):
        engine.caption(torch.zeros(48, 64, 4).numpy())
    assert "text" not in vars(engine)


def test_a_tokenizer_that_reads_texts_otherwise_is_refused(folder: Path) -> None:
    merges = folder / "tokenizer/merges.txt"
    whole = merges.read_text("utf-8")
    merges.write_text(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match=r"tokenizer is broken .*: download it again"):
        TextEncoder(folder)
    merges.write_text("\n".join(whole.splitlines()[:20]) + "\n")  # whole lines, but not all
    with pytest.raises(EngineError, match=r"reads the template's head as \d+ tokens, and the release's as 34"):
        TextEncoder(folder)


def test_a_text_encoder_with_unknown_tensors_is_refused(folder: Path) -> None:
    """Float8 with its scales, as other programs store it, would be read as other numbers."""
    shard = folder / "text_encoder/model-00002-of-00004.safetensors"
    tensors, index = load_file(shard), folder / "text_encoder/model.safetensors.index.json"
    name = next(name for name in tensors if name.endswith("proj.weight"))
    added = f"{name}_scale"
    save_file({**tensors, name: tensors[name].to(torch.float8_e4m3fn), added: torch.ones(1)}, shard, {"format": "pt"})
    named = json.loads(index.read_text("utf-8"))
    named["weight_map"][added] = shard.name
    index.write_text(json.dumps(named))
    with pytest.raises(EngineError, match=r"text_encoder has unknown tensors \S+weight_scale: take the published"):
        TextEncoder(folder)


def cast(folder: Path, kind: Any, some: str = "") -> None:
    """Store the tensors with `some` in their names as another type."""
    for shard in folder.glob("*.safetensors"):
        changed = {name: t.to(kind) if some in name else t for name, t in load_file(shard).items()}
        save_file(changed, shard, metadata={"format": "pt"})


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_weights_in_whole_numbers_are_refused(folder: Path, part: str) -> None:
    cast(folder / part, torch.int8, "bias")
    said = refused(folder)
    assert re.search(rf"{part}/\S+safetensors: \S+bias is I8, and weights are one of BF16, F16, F32", said)
    assert "transformer=FILE.gguf" in said


def test_whole_numbers_in_one_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    save_file({"model.diffusion_model.proj_out.weight": torch.ones(2, 2, dtype=torch.uint8)}, file)
    assert "proj_out.weight is U8" in refused(CHECKPOINT, transformer=file)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_mixed_precisions_run_in_the_one_of_the_run(folder: Path, precision: Any) -> None:
    """Attention stored as float32, the rest of the transformer and the text encoder as float16, the VAE as float64."""
    cast(folder / "transformer", torch.float16)
    cast(folder / "transformer", torch.float32, "attn")
    cast(folder / "text_encoder", torch.float16)
    cast(folder / "vae", torch.float64)
    mixed, plain = (Qwen(x, device="cpu", precision=precision, say=lambda _: None) for x in (folder, CHECKPOINT))
    for ours, theirs in (
        (mixed.model.transformer.model, plain.model.transformer.model),
        (mixed.model.vae, plain.model.vae),
    ):
        for name, tensor in ours.state_dict().items():
            assert tensor.dtype == getattr(torch, precision)
            torch.testing.assert_close(tensor, theirs.state_dict()[name], atol=1e-6, rtol=1e-2)
    states, _ = mixed.text.encode(["a hat"])
    assert states.dtype == getattr(torch, precision)


def test_a_lora_is_refused_at_once_and_told_what_is_known(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    down, up = torch.ones(2, 48), torch.ones(64, 2)
    save_file({"lora_unet_down_blocks_0.lora_down.weight": down}, file)
    said = refused(CHECKPOINT, loras=[file])
    assert "unknown keys lora_unet_down_blocks_0.lora_down.weight" in said
    assert "transformer_blocks.0.attn.to_q.lora_A.weight and lora_unet_transformer_blocks_0" in said
    pair = {"proj_out.lora_A.weight": down, "proj_out.lora_B.weight": up}
    for change, message in (
        ({"proj_out.lora_A.weight": down * float("nan")}, "proj_out has whole numbers, or values that are no numbers"),
        ({"proj_out.lora_A.weight": down.int()}, "proj_out has whole numbers"),
        ({"proj_out.alpha": torch.ones(3)}, r"alpha of proj_out is (3,), and one number is wanted"),
    ):
        save_file({**pair, **change}, file)
        assert message in refused(CHECKPOINT, loras=[file])
    save_file({"proj_out.lora_A.weight": torch.ones(2, 9), "proj_out.lora_B.weight": torch.ones(9, 2)}, file)
    assert "a LoRA changes proj_out.weight as 9 x 9, and it is (64, 48)" in refused(CHECKPOINT, loras=[file])
    for metadata in ("{x", "3"):
        save_file(pair, file, metadata={"lora_adapter_metadata": metadata})
        assert "its lora_adapter_metadata is no JSON object" in refused(CHECKPOINT, loras=[file])


def test_a_checkpoint_of_another_pipeline_says_what_is_wanted(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "QwenImagePipeline"}))
    assert "holds a QwenImagePipeline, and the engine 'qwen' runs a QwenImageLayeredPipeline" in refused(folder)
