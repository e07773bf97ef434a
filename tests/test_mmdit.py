from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from unfuse.model.mmdit import MMDiT, MMDiTParams, apply_rope, rope  # noqa: E402
from unfuse.tokens import position_ids  # noqa: E402

ROW: dict[str, Any] = {"width": 24, "heads": 2, "depth": 4, "in_features": 5, "out_features": 7, "axes": (4, 4, 4)}
SLOTS = MMDiTParams(**ROW, text_width=None, shared_modulation=True, attention="alternate", kinds=0)
JOINT = MMDiTParams(**ROW, text_width=6)


def awake(params: MMDiTParams) -> MMDiT:
    """A model whose gates are open: fresh ones start as the identity."""
    torch.manual_seed(0)
    model = MMDiT(params).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def slot_inputs(slots: int = 3) -> tuple[Any, Any, Any]:
    ids = torch.from_numpy(position_ids(slots, 2, 3)).reshape(1, slots + 1, 6, 3).expand(2, -1, -1, -1)
    return torch.randn(2, slots + 1, 6, 5), ids, torch.tensor([0.2, 0.9])


def test_published_size() -> None:
    with torch.device("meta"):
        model = MMDiT(MMDiTParams())
    assert sum(p.numel() for p in model.parameters()) == 20_430_407_232


def test_rotation_keeps_lengths_and_only_differences_of_position_matter() -> None:
    x, y = torch.randn(2, 1, 1, 1, 12)
    ids = torch.tensor([[[3, -2, 5]], [[-1, 0, 4]]])
    for moved in (ids, ids + 7):
        (a, b) = (apply_rope(v, rope(i[None], (4, 4, 4))) for v, i in zip((x, y), moved, strict=True))
        torch.testing.assert_close(a.norm(), x.norm())
        if moved is ids:
            product = (a * b).sum()
    torch.testing.assert_close((a * b).sum(), product)


def test_position_zero_is_not_turned() -> None:
    x = torch.randn(2, 3, 2, 12)
    assert torch.equal(apply_rope(x, rope(torch.zeros(2, 3, 3, dtype=torch.int64), (4, 4, 4))), x)


@pytest.mark.parametrize("shared", [False, True])
def test_a_fresh_joint_model_with_gates_of_zero_is_the_identity_between_its_ends(shared: bool) -> None:
    torch.manual_seed(0)
    model = MMDiT(MMDiTParams(**ROW, text_width=None, shared_modulation=shared))
    if shared:
        for name, parameter in model.named_parameters():
            if name.endswith(".offset"):
                torch.nn.init.zeros_(parameter)
    image, ids = torch.randn(2, 6, 5), torch.zeros(2, 6, 3, dtype=torch.int64)
    inside = model.image_in(image)
    expected = model.image_out(torch.nn.functional.layer_norm(inside, (24,), eps=1e-6))
    torch.testing.assert_close(model(image, ids, torch.rand(2)), expected)


def test_a_padded_slot_changes_nothing() -> None:
    model = awake(SLOTS)
    image, ids, sigma = slot_inputs()
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]])
    answer = model(image, ids, sigma, slot_mask=mask)
    kept = [0, 1, 3]
    alone = model(image[:1, kept], ids[:1, kept], sigma[:1])
    torch.testing.assert_close(answer[:1, kept], alone, atol=1e-5, rtol=1e-5)
    other = image.clone()
    other[0, 2] += 1
    torch.testing.assert_close(model(other, ids, sigma, slot_mask=mask)[0, kept], answer[0, kept])


def test_alternating_blocks_carry_a_token_to_every_other() -> None:
    model = awake(SLOTS)
    image, ids, sigma = slot_inputs()
    moved = image.clone()
    moved[:, 0, 0] += 1
    assert ((model(moved, ids, sigma) - model(image, ids, sigma)).abs().amax(-1) > 0).all()


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    model = awake(SLOTS)
    image, ids, sigma = slot_inputs()
    alone = torch.cat([model(image[i : i + 1], ids[:1], sigma[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(model(image, ids, sigma), alone, atol=1e-5, rtol=1e-5)


def test_padded_text_changes_nothing() -> None:
    model = awake(JOINT)
    ids = torch.from_numpy(position_ids(2, 2, 3))[None]
    image, text, sigma = torch.randn(1, 18, 5), torch.randn(1, 4, 6), torch.tensor([0.5])
    padded = torch.cat([text, torch.randn(1, 3, 6)], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 3])
    torch.testing.assert_close(
        model(image, ids, sigma, padded, mask), model(image, ids, sigma, text), atol=1e-5, rtol=1e-5
    )


def test_gradients_reach_every_parameter_under_bfloat16_autocast() -> None:
    model = awake(SLOTS)
    with torch.autocast("cpu", torch.bfloat16):
        answer = model(*slot_inputs())
    assert answer.dtype == torch.bfloat16
    answer.float().square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_parameter_names_of_saved_weights_stay() -> None:
    outside = ("image_in", "sigma_in", "sigma_out", "modulation", "last", "image_out")
    block = ("qkv.weight", "qkv.bias", "q_norm.weight", "k_norm.weight", "out.weight", "out.bias")
    mlp = ("mlp_in.weight", "mlp_in.bias", "mlp_out.weight", "mlp_out.bias", "modulation.offset")
    expected = {f"{name}.{leaf}" for name in outside for leaf in ("weight", "bias")}
    expected |= {f"blocks.{i}.image.{name}" for i in range(4) for name in block + mlp}
    assert set(MMDiT(SLOTS).state_dict()) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [({"axes": (4, 4, 6)}, "must add up"), ({"attention": "alternate", "text_width": 6}, "no place for text")],
)
def test_params_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MMDiTParams(**{**ROW, **change})
