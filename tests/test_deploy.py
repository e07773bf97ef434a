"""The hosted demo and the ComfyUI nodes load, and work, without Gradio and ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unfuse
from unfuse.errors import UnfuseError

DEPLOY = Path(__file__).parents[1] / "deploy"


def loaded(path: str) -> Any:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(f"deploy_{Path(path).stem}", DEPLOY / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pixels() -> Any:
    """`h w 3` uint8: three bands with noise."""
    noise = np.random.default_rng(0).integers(0, 30, (48, 64, 3))
    return (np.repeat([20, 110, 200], 16)[:, None, None] + noise).astype(np.uint8)


def test_the_demo_takes_a_picture_apart(pixels: Any, tmp_path: Path) -> None:
    demo = loaded("gradio_app.py")
    Image.fromarray(pixels).save(tmp_path / "bands.png")
    steps: list[Any] = []
    layers, files, notes = demo.take_apart(str(tmp_path / "bands.png"), 3, "fake", steps.append)
    stack = unfuse.load(files[0])
    assert [name for _, name in layers] == [layer.name for layer in reversed(stack.layers)]
    assert [Path(file).name for file in files] == ["bands.psd", "bands.zip", "bands.pptx"]
    assert np.array_equal(np.asarray(stack.flatten().convert("RGB")), pixels)
    assert notes.startswith(f"{len(stack)} layers")
    assert steps
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(UnfuseError, match=r"words\.png"):
        demo.take_apart(str(tmp_path / "words.png"))
    assert "gradio" not in sys.modules


def test_the_nodes_of_comfyui(pixels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    module = loaded("comfyui/__init__.py")
    nodes = {name: node() for name, node in module.NODE_CLASS_MAPPINGS.items()}
    assert module.NODE_DISPLAY_NAME_MAPPINGS.keys() == nodes.keys()
    for node in nodes.values():
        asked = node.INPUT_TYPES()
        assert set(asked) <= {"required", "optional"}
        assert callable(getattr(node, node.FUNCTION))

    batch = torch.from_numpy(np.stack([pixels, pixels[::-1].copy()]).astype(np.float32) / 255)
    (stacks,) = nodes["UnfuseDecompose"].run(batch, 3, "fake")
    assert len(stacks) == 2
    image, mask, layers, masks = nodes["UnfuseFlatten"].run(stacks[0])
    assert torch.equal(image[0], batch[0])
    assert not mask.any()
    assert len(layers) == len(masks) == len(stacks[0])

    name = stacks[0][1].name
    (edited,) = nodes["UnfuseEditRecipe"].run(stacks[0], f"version: 1\nedits: [{{op: hide, layer: {name!r}}}]")
    assert not edited[1].visible
    with pytest.raises(UnfuseError, match="mvoe"):
        nodes["UnfuseEditRecipe"].run(stacks[0], "version: 1\nedits: [{op: mvoe, layer: 1}]")

    shown = [nodes["UnfuseSavePSD"].run(edited, "../../layers.psd")["ui"]["text"][0] for _ in range(2)]
    assert shown == [str(Path("output") / "layers.psd"), str(Path("output") / "layers_2.psd")]
    for path in shown:
        assert np.array_equal(np.asarray(unfuse.load(path).flatten()), np.asarray(edited.flatten()))

    half = torch.zeros(1, 48, 64)
    half[:, :, 32:] = 1
    (masked,) = nodes["UnfuseDecompose"].run(batch[:1], 2, "fake", mask=half)
    assert np.array_equal(np.asarray(masked[0].flatten())[..., 3], np.where(half[0] > 0, 0, 255))
