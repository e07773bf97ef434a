"""Text to layers: a prompt and no picture, by the same latents, places, schedule and guidance as pictures to layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from einops import rearrange

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("transformers")

import unfuse  # noqa: E402
from unfuse import cli, flow, tokens  # noqa: E402
from unfuse.composite import flatten  # noqa: E402
from unfuse.engines import Generator, Step, load  # noqa: E402
from unfuse.engines.qwen import Qwen  # noqa: E402
from unfuse.errors import Cancelled, EngineError  # noqa: E402
from unfuse.model.layered import Layered, Prompt, level  # noqa: E402

CHECKPOINT = Path(__file__).parent / "data/qwen_layered_tiny/checkpoint"
SIZE = (64, 48)
ROWS, COLUMNS = 3, 4


@pytest.fixture(scope="module")
def engine() -> Qwen:
    return Qwen(CHECKPOINT, area=64 * 64, device="cpu", say=lambda _: None)


def run(engine: Qwen, **changes: Any) -> Any:
    inputs: dict[str, Any] = {"layers": [2], "prompts": ["a red sneaker"], "steps": 2, "seeds": [0]}
    return engine.generate(changes.pop("size", SIZE), **{**inputs, **changes})


# --- the model: the condition's tokens are absent, and nothing else is different


def states(layered: Layered, *lengths: int) -> list[Prompt]:
    torch.manual_seed(0)
    width = layered.transformer.model.params.text_width
    return [Prompt(torch.randn(2, t, width), torch.ones(2, t, dtype=torch.bool)) for t in lengths]


def test_a_zero_length_condition_in_the_general_way() -> None:
    """The sampler's answer, against steps by hand over the slots' tokens alone."""
    layered = Layered(CHECKPOINT)
    prompt, negative = states(layered, 5, 2)
    noise = layered.noise([3, 4], 3, 48, 64)
    seen: list[int] = []
    hook = layered.transformer.model.image_in.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    answer = layered.sample(noise, None, prompt, negative, steps=3)
    hook.remove()
    assert set(seen) == {3 * ROWS * COLUMNS}

    ids = torch.from_numpy(tokens.position_ids(3, ROWS, COLUMNS))[: 3 * ROWS * COLUMNS].expand(2, -1, -1)
    assert ids[..., 0].min() == 0  # no condition, which stands at -1

    def velocity(x: Any, sigma: float) -> Any:
        v, other = (layered.transformer(x, ids, level(sigma, torch.float32), p.states) for p in (prompt, negative))
        return flow.guide(v, other, 4.0, normalise=True)

    with torch.inference_mode():
        x = flow.euler(velocity, tokens.pack(noise), flow.schedule(3, ROWS * COLUMNS).tolist())
    torch.testing.assert_close(answer, tokens.unpack(x, ROWS, COLUMNS), atol=1e-5, rtol=0)


def test_text_stands_where_it_stands_beside_a_condition() -> None:
    """Layer3D RoPE (section 3.2): slots from 0, the condition at -1, so that its absence moves nothing."""
    for slots, rows, columns in ((3, 3, 4), (9, 2, 3), (2, 12, 4)):
        ids = torch.from_numpy(tokens.position_ids(slots, rows, columns))
        alone = ids[: slots * rows * columns]
        assert tokens.text_start(alone) == tokens.text_start(ids) == max(slots, rows // 2, columns // 2)


def test_a_condition_counts() -> None:
    layered = Layered(CHECKPOINT)
    (prompt,) = states(layered, 5)
    noise = layered.noise([3, 4], 3, 48, 64)
    without, with_it = (
        layered.sample(noise, condition, prompt, guidance=1.0, steps=2) for condition in (None, noise[:, 0])
    )
    assert (without - with_it).abs().max() > 1e-3


# --- the engine


def test_a_batch_of_two_is_two_batches_of_one(engine: Qwen) -> None:
    prompts = ["a red sneaker", "on a white table, a soft shadow"]
    both = run(engine, layers=[2, 3], prompts=prompts, seeds=[5, 6])
    assert [answer.pixels.shape for answer in both] == [(2, 48, 64, 4), (3, 48, 64, 4)]
    for i, answer in enumerate(both):
        (alone,) = run(engine, layers=[2 + i], prompts=prompts[i : i + 1], seeds=[5 + i])
        np.testing.assert_allclose(answer.pixels, alone.pixels, atol=1e-4)


def test_seed_and_prompt_decide(engine: Qwen) -> None:
    first, again, other, said = (
        run(engine, **c)[0].pixels for c in ({}, {}, {"seeds": [1]}, {"prompts": ["a green hat"]})
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - said).max() > 1e-3


@pytest.mark.parametrize("plan", ["precomputed", "disk"])
def test_every_plan_gives_the_same(engine: Qwen, plan: str) -> None:
    planned = Qwen(CHECKPOINT, device="cpu", plan=plan, say=lambda _: None)
    np.testing.assert_allclose(run(planned)[0].pixels, run(engine)[0].pixels, atol=1e-4)


# --- the whole way


def test_a_prompt_becomes_a_stack(engine: Qwen, tmp_path: Path) -> None:
    assert isinstance(engine, Generator)
    told: list[Step] = []
    stack = unfuse.generate("a red sneaker", 3, engine=engine, size=(80, 32), steps=2, seed=7, on_step=told.append)
    assert stack.size == (80, 32)
    assert 1 <= len(stack) <= 3
    assert [(step.step, step.steps) for step in told] == [(1, 2), (2, 2)]
    about = stack.provenance
    assert (about.engine, about.prompt, about.seed, about.steps) == ("qwen", "a red sneaker", 7, 2)
    assert (about.source_sha256, about.weights_sha256) == ("", engine.weights_sha256)
    assert any("text to layers, an earlier stage" in note for note in stack.notes)
    assert "caption, as given: a red sneaker" in stack.notes
    stack.save(tmp_path / "made.zip")
    np.testing.assert_array_equal(flatten(unfuse.load(tmp_path / "made.zip")), flatten(stack))


def test_flattened_it_is_the_engines_layers_put_together(engine: Qwen) -> None:
    (answer,) = run(engine, layers=[3], seeds=[2])
    under = np.zeros((48, 64, 4))
    for layer in answer.pixels:  # premultiplied source-over, the paper's equation
        under = (
            rearrange([*np.moveaxis(layer[..., :3] * layer[..., 3:], -1, 0), layer[..., 3]], "c h w -> h w c")
            + (1 - layer[..., 3:]) * under
        )
    stack = unfuse.generate("a red sneaker", 3, engine=engine, size=SIZE, steps=2, seed=2)
    flat = flatten(stack).astype(np.float64)
    flat[..., :3] *= flat[..., 3:] / 255
    if len(stack) == 3:  # nothing was empty or the same
        assert np.abs(flat - 255 * under).max() < 3


def test_the_size_is_the_engines_square_by_default(engine: Qwen) -> None:
    assert unfuse.generate("x", 1, engine=engine, steps=1).size == (64, 64)


def test_cancelling(engine: Qwen) -> None:
    def stop(step: Step) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(engine, on_step=stop)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"layers": 0}, "layers=0: say 1 to 20"),
        ({"layers": 21}, "layers=21: say 1 to 20"),
        ({"size": (100, 30)}, "size is 100 x 30: multiples of 16 are wanted, such as 96 x 32"),
        ({"size": (0, 64)}, "such as 16 x 64"),
        ({"steps": 0}, "steps=0"),
        ({"engine": "embedded"}, "'embedded' takes pictures apart.*say qwen:FOLDER"),
        ({"engine": "fake"}, "'fake' takes pictures apart"),
    ],
)
def test_wrong_input_is_refused(engine: Qwen, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"prompt": "x", "layers": 2, "engine": engine, "size": SIZE, "steps": 1, **change}
    with pytest.raises(EngineError, match=message):
        unfuse.generate(given.pop("prompt"), given.pop("layers"), **given)


def test_what_does_not_fit_into_memory_is_said_before_it_starts() -> None:
    told: list[str] = []
    engine = Qwen(CHECKPOINT, device="cpu", say=told.append)
    with pytest.raises(EngineError, match=r"no plan fits.*smaller area or fewer layers"):
        run(engine, size=(160_000, 160_000))


# --- the command line


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--engine", f"qwen:{CHECKPOINT}"])
    return int(end.value.code or 0), *capfd.readouterr()


def test_generate_on_the_command_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = ("--steps", "2", "--set", "guidance=1", "--set", "area=4096")
    code, out, err = command(capfd, "generate", "a red sneaker", "-n", "2", "--size", "64x48", "-o", "a.zip", *steps)
    assert (code, out) == (0, "a.zip\n")
    assert "caption, as given: a red sneaker" in err
    assert "text to layers, an earlier stage" in err
    engine = load(f"qwen:{CHECKPOINT}", guidance=1, area=4096)
    expected = unfuse.generate("a red sneaker", 2, engine=engine, size=SIZE, steps=2)
    np.testing.assert_array_equal(flatten(unfuse.load("a.zip")), flatten(expected))
    for wrong, message in (
        (("x", "--size", "64"), "--size 64: say WIDTHxHEIGHT"),
        (("x", "--set", "plan"), "--set plan: say NAME=VALUE"),
        (("x", "--set", "guidence=1"), "no option 'guidence' (did you mean 'guidance'?)"),
        (("",), "the prompt is empty"),
    ):
        code, _, err = command(capfd, "generate", *wrong, "-o", "b.zip")
        assert code == 2
        assert message in err
    assert not (tmp_path / "b.zip").exists()
