"""The engine `trained`: what `unfuse train image-to-layers` made and `unfuse export` wrote, a folder of one's own.

`trained:FOLDER` names it. It works at the size that it was trained at; torch runs it, on the GPU where there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unfuse.engines import Count, EngineLayers, OnStep, Step
from unfuse.errors import EngineError, require

FILE = "layers.safetensors"
AUTO_LAYERS = 4


class Trained:
    """A `LayerFlow` as an `Engine`."""

    name = "trained"
    default_steps = 30
    max_layers = 16

    def __init__(self, folder: str | Path) -> None:
        """Read the folder. Raises EngineError where it is not one, or not whole."""
        torch = require("torch", "torch", "the engine 'trained'")
        require("safetensors", "torch", "the engine 'trained'")
        from unfuse.model.checkpoint import Weights, fill, read_json
        from unfuse.model.layerflow import LayerFlow, LayerFlowParams

        path = Path(folder).expanduser() / FILE
        about = read_json(path.with_suffix(".json"))
        try:
            params, self.side = LayerFlowParams.read(about["params"]), int(about["card"]["params"]["side"])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"{path.with_suffix('.json')} does not describe a model ({error}): export it again"
            ) from error
        with torch.device("meta"):
            net = LayerFlow(params)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.net = fill(net, Weights(path), device=self.device)
        self.weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) of the training pictures' area in the picture's proportions."""
        unit, (width, height) = self.net.side, size
        scale = self.side / (width * height) ** 0.5
        longest = self.side * self.side / unit  # a strip cannot be thinner than one token
        fitted = [max(1, round(min(side * scale, longest) / unit)) * unit for side in (width, height)]
        return fitted[0], fitted[1]

    def decompose(
        self,
        pictures: NDArray[np.float32],
        layers: Sequence[Count],
        *,
        prompts: Sequence[str],
        steps: int,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
    ) -> list[EngineLayers]:
        """See `Engine.decompose`. Each picture goes through alone, so that a batch gives it what it would get alone."""
        import torch

        answers = []
        for nth, (picture, count) in enumerate(zip(pictures, layers, strict=True)):
            wanted = AUTO_LAYERS if count == "auto" else count

            def told(step: int, _: object, before: int = nth * steps) -> None:
                if on_step is not None:
                    on_step(Step(before + step, len(pictures) * steps))

            pixels = rearrange(torch.from_numpy(picture), "h w c -> 1 c h w").to(self.device) * 2 - 1
            frames = self.net.sample(
                [prompts[nth]],
                wanted + 1,
                picture.shape[:2],
                picture=pixels,
                steps=steps,
                seeds=[seeds[nth]],
                on_step=told,
            )
            slots = rearrange(frames[0, 1:].float() / 2 + 0.5, "l c h w -> l h w c").cpu().numpy()
            notes = () if count != "auto" else (f"{AUTO_LAYERS} layers: this model cannot tell how many there are",)
            answers.append(EngineLayers(slots, (None,) * wanted, notes))
        return answers
