from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from unfuse.model.vae import VAE, VAEParams, rgba_from_rgb, with_alpha  # noqa: E402

SMALL = VAEParams(base=8, multipliers=(1, 2, 2), res_blocks=1, stem=2)


def test_published_sizes() -> None:
    with torch.device("meta"):
        vae = VAE(VAEParams())
    assert sum(p.numel() for p in vae.parameters()) == 44_601_332  # of 126.9 million; the rest is for video
    assert VAEParams().factor == 8


@pytest.mark.parametrize("params", [SMALL, VAEParams(base=4)])
def test_shapes(params: VAEParams) -> None:
    torch.manual_seed(0)
    vae = VAE(params)
    pixels = torch.rand(2, 4, 40, 24) * 2 - 1
    mean, logvar = vae.encode(pixels)
    assert mean.shape == logvar.shape == (2, 16, 5, 3)
    assert vae.decode(mean).shape == pixels.shape


def test_frames_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(1)
    vae = VAE(SMALL)
    pixels = torch.rand(3, 4, 16, 24) * 2 - 1
    alone = torch.cat([vae.encode(frame[None]).mean for frame in pixels])
    torch.testing.assert_close(vae.encode(pixels).mean, alone, atol=1e-5, rtol=0)


def test_normalise_and_back() -> None:
    vae = VAE(SMALL)
    latents = torch.randn(2, 16, 3, 4)
    torch.testing.assert_close(vae.denormalise(vae.normalise(latents)), latents)
    mean = torch.tensor(SMALL.latent_mean)[:, None, None]
    torch.testing.assert_close(vae.normalise(mean), torch.zeros_like(mean))


def test_rgb_enters_opaque() -> None:
    rgba = with_alpha(torch.rand(2, 3, 4, 5))
    assert rgba.shape == (2, 4, 4, 5)
    assert (rgba[:, 3] == 1).all()


@pytest.mark.parametrize("stem", [1, 2])
def test_an_rgba_vae_begins_as_the_rgb_one_and_says_opaque(stem: int) -> None:
    torch.manual_seed(2)
    params = VAEParams(base=4, multipliers=(1, 2), res_blocks=1, stem=stem)
    rgb, rgba = VAE(replace(params, channels=3)), VAE(params)
    rgba.load_state_dict(rgba_from_rgb(rgb.state_dict(), stem))
    pixels = torch.rand(1, 4, 8, 8) * 2 - 1
    latents = rgba.encode(pixels).mean
    torch.testing.assert_close(latents, rgb.encode(pixels[:, :3]).mean)
    torch.testing.assert_close(rgba.decode(latents), with_alpha(rgb.decode(latents)))


def test_params_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="latent_mean and latent_std need 8 numbers"):
        VAEParams(latent=8)


@pytest.mark.parametrize("params", [SMALL, VAEParams(base=4), VAEParams(base=4, multipliers=(2,))])
def test_tiles_change_nothing(params: VAEParams) -> None:
    torch.manual_seed(2)
    vae = VAE(params)
    latents = torch.randn(1, 16, 21, 34)
    whole = vae.decode(latents)
    for tile in (64, 100, 10_000):
        torch.testing.assert_close(vae.decode(latents, tile), whole, atol=1e-5, rtol=0)


def test_tiles_see_no_more_than_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    vae = VAE(VAEParams(base=4))
    latents = torch.randn(1, 16, 21, 34)
    whole = vae.decode(latents)
    monkeypatch.setattr(vae.decoder, "reach", lambda: VAEParams().res_blocks)
    assert (vae.decode(latents, 64) - whole).abs().max() > 1e-5
