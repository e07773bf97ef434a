from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("transformers")

from unfuse.engines import Engine, Step, load
from unfuse.engines.qwen import Qwen
from unfuse.errors import Cancelled, EngineError

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"


@pytest.fixture(scope="module")
def engine() -> Qwen:
    return Qwen(CHECKPOINT, area=64 * 48, device="cpu")


def test_it_takes_up_to_twenty_layers(engine: Qwen) -> None:
    (answer,) = run(engine, layers=[20], steps=1)
    assert len(answer.pixels) == 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")


def pictures(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, 48, 64, 4), dtype=np.float32)


def run(engine: Qwen, count: int = 1, **changes: Any) -> Any:
    inputs: dict[str, Any] = {
        "pictures": pictures(count),
        "layers": [2] * count,
        "prompts": ["a red sneaker"] * count,
        "steps": 2,
        "seeds": list(range(count)),
    }
    return engine.decompose(**{**inputs, **changes})


def test_it_is_an_engine(engine: Qwen) -> None:
    checked: Engine = engine
    assert (checked.name, checked.default_steps, checked.max_layers) == ("qwen", 50, 20)
    assert len(checked.weights_sha256) == 64


@pytest.mark.parametrize(
    ("area", "size", "bucket"),
    [
        (640 * 640, (300, 300), (640, 640)),
        (640 * 640, (1920, 1080), (848, 480)),
        (1024 * 1024, (1920, 1080), (1360, 768)),
        (640 * 640, (12000, 200), (4960, 80)),
        (640 * 640, (1, 100000), (16, 25600)),
    ],
)
def test_bucket(area: int, size: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert Qwen(CHECKPOINT, area=area, device="cpu").bucket(size) == bucket


def test_layers_are_bottom_to_top_pictures_of_the_bucket(engine: Qwen) -> None:
    (answer,) = run(engine, layers=[3])
    assert answer.pixels.shape == (3, 48, 64, 4)
    assert answer.pixels.dtype == np.float32
    assert answer.pixels.min() >= 0
    assert answer.pixels.max() <= 1
    assert answer.kinds == (None,) * 3


def test_a_batch_gives_each_picture_what_it_gets_alone(engine: Qwen) -> None:
    prompts = ["a red sneaker", "on a white table, a soft shadow", "x"]
    batch = run(engine, 3, layers=[2, 3, 2], prompts=prompts)
    assert [len(answer.pixels) for answer in batch] == [2, 3, 2]
    for i, answer in enumerate(batch):
        (alone,) = run(engine, pictures=pictures(3)[i : i + 1], layers=[[2, 3, 2][i]], prompts=[prompts[i]], seeds=[i])
        np.testing.assert_allclose(answer.pixels, alone.pixels, atol=1e-4)
        assert answer.notes == alone.notes


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(engine: Qwen) -> None:
    first, again, other = (run(engine, seeds=[seed])[0].pixels for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_guidance_is_never_silently_off() -> None:
    with_it, without, normalised = (
        run(Qwen(CHECKPOINT, device="cpu", **options))[0].pixels
        for options in ({"normalise": False}, {"guidance": 1.0}, {})
    )
    assert np.abs(with_it - without).max() > 0.01
    assert np.abs(with_it - normalised).max() > 0.01


def test_steps_are_told_and_previews_end_in_the_answer() -> None:
    told: list[Step] = []
    engine = Qwen(CHECKPOINT, device="cpu", previews=True)
    one, two = run(engine, 2, layers=[1, 2], on_step=told.append)
    assert [(step.step, step.steps) for step in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for step, answer in ((told[1], one), (told[3], two)):
        assert step.preview is not None
        np.testing.assert_allclose(step.preview, np.concatenate(list(answer.pixels), axis=1), atol=1e-6)


def test_cancelling(engine: Qwen) -> None:
    def stop(step: Step) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(engine, on_step=stop)


def test_an_empty_prompt_is_captioned_once_and_the_caption_is_told(
    engine: Qwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(engine, "say", told.append)
    monkeypatch.setattr(engine.text, "caption", partial(engine.text.caption, max_tokens=6))

    def at_once(step: Step) -> None:  # in time to stop
        assert any(line.startswith("caption, by the text encoder: ") for line in told)

    (answer,) = run(engine, prompts=["  "], on_step=at_once)
    assert told.count(f"caption, by the text encoder: {answer.caption}") == 1
    assert f"caption, by the text encoder: {answer.caption}" in answer.notes
    assert list(engine.captions.values()) == [answer.caption]
    (again,) = run(engine, prompts=[answer.caption])
    np.testing.assert_array_equal(again.pixels, answer.pixels)
    assert f"caption, as given: {answer.caption}" in again.notes
    engine.captions = dict.fromkeys(engine.captions, "a red sneaker")  # changed by hand
    (changed,) = run(engine, prompts=[""])
    assert changed.caption == "a red sneaker"
    np.testing.assert_array_equal(changed.pixels, run(engine)[0].pixels)


def test_the_whole_is_compared_with_the_picture(engine: Qwen) -> None:
    (answer,) = run(engine)
    assert any("of the whole differs from the input by" in note for note in answer.notes)
    assert any("its layers may be poor" in note for note in answer.notes)  # the weights are noise


def test_auto_says_that_it_does_not_know(engine: Qwen) -> None:
    (answer,) = run(engine, layers=["auto"], steps=1)
    assert len(answer.pixels) == 4
    assert answer.notes[0].startswith("4 layers: the model cannot tell")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [0]}, "layers is 0: 1 to 20"),
        ({"layers": [21]}, "layers is 21: 1 to 20"),
        ({"layers": [2.5]}, "layers is 2.5: 1 to 20"),
        ({"steps": 0}, "steps is 0"),
        ({"seeds": [1, 2]}, "1 pictures, 1 layer counts, 1 prompts and 2 seeds"),
        ({"pictures": np.zeros((1, 50, 64, 4), np.float32)}, "multiples of 16"),
        ({"pictures": np.zeros((1, 48, 64, 3), np.float32)}, "b h w 4"),
        ({"pictures": np.zeros((1, 48, 64, 4))}, "float64: float32"),
        ({"seeds": [2**64]}, r"seed is 18446744073709551616: a whole number from -2\^63"),
        ({"seeds": [0.5]}, r"seed is 0\.5: a whole number"),
        ({"prompts": ["a \udcff"]}, "the prompt 'a .udcff' is no text in Unicode"),
    ],
)
def test_wrong_input_is_refused(engine: Qwen, change: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        run(engine, **change)


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is not a folder"):
        Qwen(tmp_path / "nothing")
    with pytest.raises(EngineError, match=r"model_index\.json is missing"):
        Qwen(tmp_path)


@pytest.mark.parametrize("plan", ["swapped", "precomputed", "disk"])
def test_every_plan_gives_the_same_and_frees_the_text_encoder(engine: Qwen, plan: str) -> None:
    told: list[str] = []
    planned = Qwen(CHECKPOINT, area=64 * 48, device="cpu", plan=plan, say=told.append)
    (answer,), (expected,) = run(planned), run(engine)
    np.testing.assert_allclose(answer.pixels, expected.pixels, atol=1e-4)
    assert "model" in vars(planned)
    assert "text" not in vars(planned)
    assert [line.split()[1] for line in told if line.startswith(">")] == [plan]
    assert [line for line in told if line.startswith("reading")] == [
        "reading the text encoder",
        "reading the transformer and the VAE",
    ]
    assert any("on this CPU about" in line for line in told)
    assert f"plan: {plan}, on cpu" in answer.notes
    run(planned, prompts=["another"])
    assert "text" not in vars(planned)


def test_out_of_memory_falls_to_the_next_plan_and_at_last_says_so() -> None:
    import torch

    told: list[str] = []
    planned = Qwen(CHECKPOINT, area=64 * 48, device="cpu", plan="int8", say=told.append)
    errors: list[Exception] = [torch.OutOfMemoryError("no room for 9 GB")]

    def full(step: Step) -> None:
        if errors:
            raise errors.pop()

    (answer,) = run(planned, on_step=full)
    assert "out of memory under the plan 'int8' on cpu (no room for 9 GB): going on with the next" in told
    assert "plan: disk, on cpu" in answer.notes
    errors.append(MemoryError())
    with pytest.raises(EngineError, match="under the last plan too: take a smaller area"):
        run(planned, on_step=full)
    assert "model" not in vars(planned)
    errors.append(RuntimeError("CUDA error: out of memory"))  # as page-locking says it
    run(planned, on_step=full)
    assert any("'int8' on cpu (CUDA error: out of memory): going on" in line for line in told)
    errors.append(RuntimeError("not memory"))
    with pytest.raises(RuntimeError, match="not memory"):
        run(planned, on_step=full)


def test_what_ran_out_of_memory_is_gone_before_the_next_plan_is_sought() -> None:
    import weakref

    held: list[bool] = []

    def say(line: str) -> None:
        if line.startswith("out of memory"):  # a GPU was given its memory back just before
            held.append(models[0]() is not None)

    planned = Qwen(CHECKPOINT, area=64 * 48, device="cpu", plan="int8", say=say)
    models: list[Any] = []

    def full(step: Step) -> None:
        if not models:
            models.append(weakref.ref(planned.model))
            raise MemoryError

    run(planned, on_step=full)
    assert held == [False]


def test_options_reach_the_sampler(engine: Qwen) -> None:
    expected = run(engine, steps=4)[0].pixels
    for option in ({"interval": (0.0, 0.5)}, {"shift": 3.0}, {"reuse": 0.9}):
        changed = Qwen(CHECKPOINT, area=64 * 48, device="cpu", steps=4, **option)
        (answer,) = run(changed, steps=4)
        assert changed.default_steps == 4
        assert np.abs(answer.pixels - expected).max() > 1e-3
        assert any(note.startswith("step cache: ") for note in answer.notes) == ("reuse" in option)


def test_guidance_on_an_interval_says_at_how_many_steps_it_is(engine: Qwen) -> None:
    def notes(interval: tuple[float, float]) -> str:
        return "\n".join(run(Qwen(CHECKPOINT, device="cpu", interval=interval, say=lambda _: None), steps=4)[0].notes)

    assert "guidance at" not in "\n".join(run(engine, steps=4)[0].notes)
    assert "guidance at 3 of 4 steps" in notes((0.0, 0.9))
    assert re.search(
        r"guidance at 0 of 4 steps, whose noise levels go from 1\.00 to 0\.\d+: widen", notes((0.98, 0.99))
    )


def test_captions_in_english_and_chinese(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`unfuse caption` prints what `decompose` would use, in the language that is asked for."""
    from PIL import Image

    from unfuse import cli, pixels
    from unfuse.model.text import TextEncoder

    monkeypatch.setattr(TextEncoder, "caption", partialmethod(TextEncoder.caption, max_tokens=6))
    source, said = CHECKPOINT.parent / "caption_image.png", {}
    for language in ("en", "zh"):
        options = ["--set", f"language={language}", "--set", "area=4096"]
        with pytest.raises(SystemExit) as end:
            cli.main(["caption", str(source), "--engine", f"qwen:{CHECKPOINT}", *options])
        assert not end.value.code
        said[language] = capfd.readouterr().out
        used: Any = load(f"qwen:{CHECKPOINT}", language=language, area=4096)
        small = pixels.resize(pixels.read(source).pixels, used.bucket(Image.open(source).size))
        shown = Image.fromarray(np.uint8(small[..., :3] * 255 + 0.5))
        assert said[language] == used.text.caption(shown, language) + "\n"
    assert said["en"] != said["zh"]


@pytest.mark.parametrize("kind", ["rgb", "grey", "rgba 16 bit", "tensor"])
def test_every_kind_of_picture_at_its_own_size(engine: Qwen, kind: str) -> None:
    import torch

    import unfuse
    from unfuse.composite import residual

    levels = np.random.default_rng(1).integers(0, 256, (50, 70, 4)).astype(np.uint8)
    source: Any = {
        "rgb": levels[..., :3],
        "grey": levels[..., 0],
        "rgba 16 bit": levels.astype(np.uint16) * 257,
        "tensor": torch.from_numpy(levels[..., :3]),
    }[kind]
    stack = unfuse.decompose(source, 2, engine=engine, prompt="x", steps=1, text=False)
    assert stack.size == (70, 50)
    shown = levels[..., :1].repeat(3, 2) if kind == "grey" else np.asarray(source)
    assert residual(stack, shown).max <= 1


def test_mixed_sizes_several_stacks_and_a_prompt_for_each(engine: Qwen) -> None:
    import unfuse

    wide, tall = pictures(2)[0], pictures(2)[1].transpose(1, 0, 2)
    options: dict[str, Any] = {"engine": engine, "steps": 1, "text": False}
    said, seeds = ["a hat", "a hat", "a shoe"], [3, 4, 3]
    many = unfuse.decompose_many([wide, wide, tall], 2, prompt=said, seed=seeds, **options)
    assert [stack.size for stack in many] == [(64, 48), (64, 48), (48, 64)]
    assert [(s.provenance.prompt, s.provenance.seed) for s in many] == list(zip(said, seeds, strict=True))
    for stack, source, prompt, seed in zip(many, [wide, wide, tall], said, seeds, strict=True):
        alone = unfuse.decompose(source, 2, prompt=prompt, seed=seed, **options)
        for layer, other in zip(stack, alone, strict=True):
            apart = layer.to_canvas(stack.size).astype(int) - other.to_canvas(stack.size)
            assert np.abs(apart).max() <= 257  # of 65535: the pictures are floats
    assert many[0][0].pixels is not None
    assert many[1][0].pixels is not None
    assert not np.array_equal(many[0][0].pixels, many[1][0].pixels)
    with pytest.raises(EngineError, match="2 values of seed for 1 pictures"):
        unfuse.decompose_many([wide], 2, seed=[1, 2], **options)


def test_states_of_prompts_without_a_text_encoder(engine: Qwen, folder: Path) -> None:
    expected = run(engine)[0].pixels
    shutil.rmtree(folder / "text_encoder")
    blind = Qwen(folder, device="cpu", say=lambda _: None)
    with pytest.raises(EngineError, match=r"text_encoder/config\.json is missing"):
        run(blind)
    blind.states = dict(engine.states)
    np.testing.assert_allclose(run(blind)[0].pixels, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ((1, 5, 32), r"\(1, 5, 32\) torch.float32"),
        ((5, 31), r"\(5, 31\)"),
        ((0, 32), r"\(0, 32\)"),
        (None, "ndarray"),
        (float("nan"), r"\(5, 32\)"),
    ],
)
def test_states_that_are_none_are_refused(states: Any, found: str) -> None:
    import torch

    engine, given = Qwen(CHECKPOINT, device="cpu", guidance=1, say=lambda _: None), np.zeros((5, 32))
    made: Any = torch.zeros(states) if isinstance(states, tuple) else torch.full((5, 32), states or 0.0)
    engine.states = {"a red sneaker": given if states is None else made}  # type: ignore[dict-item]
    with pytest.raises(EngineError, match=rf"states of 'a red sneaker' are {found}.*: a tensor t d .* d 32, as"):
        run(engine)


def test_a_prompt_that_is_too_long_is_told(engine: Qwen) -> None:
    (answer,) = run(engine, prompts=["very " * 600 + "red"], steps=1)
    assert any(note.startswith("only the first 512 tokens of the caption count") for note in answer.notes)
    (answer,) = run(engine, steps=1)
    assert not any("tokens" in note for note in answer.notes)


def test_without_a_compiler_the_cure_is_said(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(
        "import sys, numpy as np; from unfuse.engines.qwen import Qwen; from unfuse.errors import EngineError\n"
        "engine = Qwen(sys.argv[1], device='cpu', compiled=True, say=lambda _: None)\n"
        "asked = {'prompts': ['a hat'], 'steps': 1, 'seeds': [0]}\n"
        "try: engine.decompose(np.zeros((1, 48, 64, 4), np.float32), [2], **asked)\n"
        "except EngineError as error: print(error)"
    )
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "run.py", str(CHECKPOINT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert re.search(r"cannot be compiled here \(.*compiler.*\): leave 'compiled' off, or install", done.stdout), done


def test_the_python_of_the_page_makes_layers_out_of_tensors(engine: Qwen) -> None:
    import torch

    page = (Path(__file__).parents[1] / "docs/qwen.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(from pathlib.*?)```", page, re.DOTALL)
    for said, meant in (("checkpoints/layered", str(CHECKPOINT)), ("A poster of ...", "a red sneaker")):
        code = code.replace(said, meant)
    for said, meant in (("height=640", "height=48"), ("width=640", "width=64"), ("steps=50", "steps=2")):
        code = code.replace(said, meant)
    made: dict[str, Any] = {"pictures": torch.from_numpy(pictures(1))}
    exec(code, made)
    assert made["latents"].shape == (1, 5, 16, 6, 8)
    (expected,) = run(engine, layers=[4])
    np.testing.assert_allclose(made["layers"].numpy(), expected.pixels, atol=1e-4)


def test_damaged_weights_are_not_layers(folder: Path) -> None:
    file = max((folder / "transformer").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-4000:] = b"\xff" * 4000  # the length is right, the numbers are not
    file.write_bytes(content)
    told: list[Step] = []
    with pytest.raises(EngineError, match=r"no numbers: a file of its weights is damaged"):
        run(Qwen(folder, device="cpu", say=lambda _: None), on_step=told.append)
    assert told == []  # said in the first step, and the others are spared


def test_a_text_encoder_cut_short_is_named(folder: Path) -> None:
    file = next((folder / "text_encoder").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(EngineError, match=r"text encoder cannot be loaded|is broken"):
        run(Qwen(folder, device="cpu", say=lambda _: None))


def test_a_lora_changes_the_layers_and_the_fingerprint(engine: Qwen, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path / "lora.safetensors"
    save_file({"proj_out.lora_A.weight": torch.randn(2, 48), "proj_out.lora_B.weight": torch.randn(64, 2)}, file)
    with_it, without = (Qwen(CHECKPOINT, area=64 * 48, device="cpu", loras=[(file, s)]) for s in (1.0, 0.0))
    assert len({e.weights_sha256 for e in (with_it, without, engine)}) == 3
    expected = run(engine)[0].pixels
    np.testing.assert_array_equal(run(without)[0].pixels, expected)
    assert np.abs(run(with_it)[0].pixels - expected).max() > 0.01


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"area": 100}, "area is 100: 256 to 16777216 pixels"),
        ({"area": 1e30}, "area is 1e.30: 256 to 16777216 pixels"),
        ({"steps": 0}, "steps is 0: 1 or more"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"guidance": 0.5}, "guidance is 0.5: 1 for none"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"normalise": "yes"}, "normalise 'yes' is unknown: one of True, False"),
        ({"negative": 3}, "negative is 3: a text"),
        ({"interval": (0.5, 0.1)}, "interval is"),
        ({"interval": (0.5,)}, "interval is"),
        ({"interval": 5}, "interval is 5: two noise levels"),
        ({"interval": "ab"}, "interval is ab: two noise levels"),
        ({"shift": 0.0}, "shift is 0.0: above 0"),
        ({"reuse": 1.0}, "reuse is 1.0"),
        ({"plan": "fast"}, "plan 'fast' is unknown: one of whole, swapped"),
        ({"precision": "float16"}, "precision 'float16' is unknown: one of float32, bfloat16"),
        ({"language": "fr"}, "language 'fr' is unknown: one of en, zh"),
        ({"device": "gpu"}, "device 'gpu' is unknown: 'cpu', 'cuda'"),
        ({"device": "meta"}, "device 'meta' is unknown: 'cpu', 'cuda'.*memory plans"),
        ({"device": 5}, "device 5 is unknown"),
        ({"transformer": 5}, "transformer 5 is not a file: give a .safetensors or .gguf"),
        ({"say": "loud"}, "say is 'loud'"),
        ({"loras": ["nothing.safetensors"]}, "LoRA nothing.safetensors is not a file"),
        ({"loras": 5}, r"LoRA 5: give a \.safetensors file, or"),
        ({"loras": None}, "LoRA None: give"),
        ({"loras": [("a.safetensors", "b")]}, r"LoRA \('a.safetensors', 'b'\): give"),
        ({"loras": [("a.safetensors", 1, 2)]}, "LoRA .*, 1, 2.: give"),
    ],
)
def test_wrong_options_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Qwen(CHECKPOINT, **{"device": "cpu", **option})


def test_a_missing_gpu_is_said() -> None:
    import torch

    device = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(EngineError, match=f"device is '{device}', and "):
        Qwen(CHECKPOINT, device=device)


def test_it_is_in_the_table() -> None:
    engine = load(f"qwen:{CHECKPOINT}")
    assert isinstance(engine, Qwen)
    assert engine.folder == CHECKPOINT
    assert load(f"qwen:{CHECKPOINT}") is engine
    few = load(f"qwen:{CHECKPOINT}", steps=8, guidance=1.0, shift=3.0)
    assert (few.default_steps, load(f"qwen:{CHECKPOINT}").default_steps) == (8, 50)


def test_another_pipeline_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "QwenImagePipeline"}))
    with pytest.raises(EngineError, match="holds a QwenImagePipeline"):
        Qwen(folder)


def test_a_partial_download_is_refused_at_once(folder: Path) -> None:
    (folder / "vae/diffusion_pytorch_model-00003-of-00003.safetensors").unlink()
    with pytest.raises(EngineError, match="lacks diffusion_pytorch_model-00003-of-00003"):
        Qwen(folder)


def test_another_scheduler_is_refused(folder: Path) -> None:
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace('"linear"', '"exponential"'))
    with pytest.raises(EngineError, match="time_shift_type is 'exponential'"):
        run(Qwen(folder, device="cpu"))


def test_a_text_encoder_without_vision_wants_a_prompt(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    for shard in (folder / "text_encoder").glob("*.safetensors"):
        blind = {name: tensor for name, tensor in load_file(shard).items() if not name.startswith("visual.")}
        save_file(blind, shard, metadata={"format": "pt"})
    index = folder / "text_encoder/model.safetensors.index.json"
    names = json.loads(index.read_text())
    names["weight_map"] = {k: v for k, v in names["weight_map"].items() if not k.startswith("visual.")}
    index.write_text(json.dumps(names))
    engine = Qwen(folder, device="cpu")
    assert len(run(engine)) == 1
    with pytest.raises(EngineError, match=r"no vision weights.*give a prompt"):
        run(engine, prompts=[""])


def test_a_text_encoder_that_is_not_whole_is_refused(folder: Path) -> None:
    (folder / "text_encoder/model-00002-of-00004.safetensors").unlink()
    with pytest.raises(EngineError, match="model-00002-of-00004"):
        run(Qwen(folder, device="cpu"))


def test_without_torch_the_message_is_the_pip_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    code = "import unfuse.engines.qwen as q; q.Qwen('anywhere')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MissingExtra: the engine 'qwen' needs torch: pip install 'unfuse[qwen]'" in done.stderr
