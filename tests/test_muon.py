from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from unfuse.train.muon import RMS, Muon, orthogonal  # noqa: E402


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
def test_the_directions_stay_and_their_sizes_become_alike(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix)
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = torch.diagonal(u.T @ found @ v.T)  # the sizes in the matrix's own directions
    strong = sizes > sizes.max() / 20
    assert 0.6 < float(inside[strong].min()) <= float(inside.max()) < 1.3
    torch.testing.assert_close(u.T @ found @ v.T, torch.diag(inside), atol=0.03, rtol=0)


def test_a_step_by_hand() -> None:
    matrix, vector = torch.nn.Parameter(torch.zeros(4, 2, 1, 3)), torch.nn.Parameter(torch.ones(3))
    groups = [{"params": [matrix], "matrices": True}, {"params": [vector], "weight_decay": 0.5}]
    optimizer = Muon(groups, lr=0.1)
    gradient = torch.eye(4, 6).reshape(4, 2, 1, 3) * 7
    matrix.grad, vector.grad = gradient, torch.tensor([2.0, -3.0, 0.0])
    optimizer.step()
    size = RMS * 6**0.5  # of each of the four directions
    torch.testing.assert_close(matrix.detach(), -0.1 * size * gradient / 7, atol=0.03, rtol=0)
    torch.testing.assert_close(vector.detach(), torch.tensor([0.95 - 0.1, 0.95 + 0.1, 0.95]))  # Adam's first step


def test_adam_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.arange(5.0)) for _ in range(2))
    optimizers = [
        Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01),
        torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1),
    ]
    for _ in range(4):
        ours.grad = theirs.grad = torch.randn(5)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
