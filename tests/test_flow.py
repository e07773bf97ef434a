from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unfuse import flow


def test_schedule_runs_from_noise_to_clean_and_is_linear_at_256_tokens() -> None:
    np.testing.assert_allclose(flow.schedule(4, tokens=256), [1, 0.75, 0.5, 0.25, 0], atol=1e-7)


@pytest.mark.parametrize("tokens", [24, 256, 1600, 4096])
def test_shift_is_the_published_formula(tokens: int) -> None:
    sigmas = np.linspace(0.02, 1, 50)
    mu = (tokens / 256) ** 0.5
    np.testing.assert_allclose(flow.shift(sigmas, flow.natural_shift(tokens)), mu / (mu + (1 / sigmas - 1)), rtol=1e-12)


def test_larger_pictures_stay_longer_at_noise() -> None:
    assert (flow.schedule(50, tokens=4096)[1:-1] > flow.schedule(50, tokens=1600)[1:-1]).all()


def test_euler_is_exact_where_the_velocity_is_constant() -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 3, 5))
    told: list[tuple[int, NDArray[np.floating]]] = []
    answer = flow.euler(lambda x, sigma: noise - clean, noise, flow.schedule(7, 1600), lambda *step: told.append(step))
    np.testing.assert_allclose(answer, clean, atol=1e-6)
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6, 7]
    for _, estimate in told:  # on a straight path every estimate of x_0 is x_0
        np.testing.assert_allclose(estimate, clean, atol=1e-6)


def test_what_on_step_raises_stops_euler() -> None:
    calls = []

    def velocity(x: NDArray[np.floating], sigma: float) -> NDArray[np.floating]:
        calls.append(sigma)
        return x

    def stop(step: int, estimate: NDArray[np.floating]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow.euler(velocity, np.ones(3), flow.schedule(5, 256), stop)
    assert len(calls) == 2


def test_guidance() -> None:
    rng = np.random.default_rng(1)
    cond, uncond = rng.standard_normal((2, 4, 6, 8))
    np.testing.assert_allclose(flow.guide(cond, uncond, 1, normalise=False), cond)
    np.testing.assert_allclose(flow.guide(cond, uncond, 0, normalise=False), uncond)
    plain, kept = (flow.guide(cond, uncond, 4, normalise=n) for n in (False, True))
    np.testing.assert_allclose(np.linalg.norm(kept, axis=-1), np.linalg.norm(cond, axis=-1))
    directions = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (plain, kept))
    np.testing.assert_allclose(*directions)


def test_training_noise_levels_are_logit_normal() -> None:
    normal = np.random.default_rng(2).standard_normal(100_000)
    sigmas = flow.logit_normal(normal, mean=0.5, std=0.8)
    assert sigmas.min() > 0
    assert sigmas.max() < 1
    logits = np.log(sigmas / (1 - sigmas))
    assert logits.mean() == pytest.approx(0.5, abs=0.01)
    assert logits.std() == pytest.approx(0.8, abs=0.01)


def test_noise_at_each_end() -> None:
    x, noise = np.random.default_rng(3).standard_normal((2, 3, 4, 5))
    mixed = flow.add_noise(x, noise, np.array([0.0, 1.0, 0.25]))
    np.testing.assert_allclose(mixed, np.stack([x[0], noise[1], 0.75 * x[2] + 0.25 * noise[2]]))


def test_torch_gets_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    a, b = np.random.default_rng(4).standard_normal((2, 2, 3, 4))
    s = np.array([0.3, 0.9])
    ta, tb, ts = (torch.from_numpy(x) for x in (a, b, s))
    for ours, theirs in (
        (flow.guide(a, b, 4, normalise=True), flow.guide(ta, tb, 4, normalise=True)),
        (flow.add_noise(a, b, s), flow.add_noise(ta, tb, ts)),
        (flow.shift(s, 2.5), flow.shift(ts, 2.5)),
        (flow.logit_normal(a), flow.logit_normal(ta)),
        (flow.euler(lambda x, _: x, a, [1.0, 0.5, 0.0]), flow.euler(lambda x, _: x, ta, [1.0, 0.5, 0.0])),
    ):
        np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-12)


def test_a_given_shift_stands_instead_of_the_natural_one() -> None:
    np.testing.assert_array_equal(flow.schedule(8, 1600, 2.5), flow.schedule(8, 1600))
    np.testing.assert_allclose(flow.schedule(4, 1600, 3.0), [1, 0.9, 0.75, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(flow.schedule(4, 99, 1.0), [1, 0.75, 0.5, 0.25, 0], rtol=1e-6)
