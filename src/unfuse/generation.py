"""A prompt in, layer stack out: no picture, the layers themselves are the picture.

Source: text to layers, the stage before pictures to layers in Qwen-Image-Layered's training (arXiv 2512.15603, section
3.3). The way is `decomposition`'s without its first half: nothing to resize, nothing to refine towards.
"""

from __future__ import annotations

from unfuse import __version__, engines, naming, pixels
from unfuse.decomposition import check, clean
from unfuse.engines import Count, Engine, Generator, OnStep
from unfuse.errors import EngineError
from unfuse.layers import Layer, LayerStack, Provenance


def generate(
    prompt: str,
    layers: Count = "auto",
    *,
    engine: str | Engine,
    size: tuple[int, int] | None = None,
    steps: int | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> LayerStack:
    """Make a stack of at most `layers` layers that shows what a prompt says, bottom to top, 8 bit, straight alpha.

    prompt: describes the whole, what is covered included. engine: one that can, such as "qwen:FOLDER". size: (width,
    height) in pixels, what the engine works at (for 'qwen' multiples of 16); None for its square. The rest is as
    `decompose` has it. With the published weights this is limited, and the stack's notes say so: they were tuned for
    pictures to layers.

    Raises EngineError for an engine that takes pictures apart alone, an empty prompt, a size or a number of layers that
    it cannot do.
    """
    runner = engines.load(engine) if isinstance(engine, str) else engine
    if not isinstance(runner, Generator):
        raise EngineError(
            f"the engine {runner.name!r} takes pictures apart, and makes no layers from a prompt alone: "
            "say qwen:FOLDER, the folder or hub name of the published checkpoint"
        )
    steps = runner.default_steps if steps is None else steps
    check(layers, steps, runner)
    size = runner.bucket((1, 1)) if size is None else size
    (answer,) = runner.generate(size, [layers], prompts=[prompt], steps=steps, seeds=[seed], on_step=on_step)
    small, kinds = clean(answer)
    drawn = pixels.quantise(small, 8)
    notes = answer.notes
    if layers not in ("auto", len(drawn)):
        notes += (f"asked for {layers} layers, found {len(drawn)}",)
    return LayerStack(
        size,
        tuple(Layer.from_canvas(n, k, p) for n, k, p in zip(naming.names(drawn, kinds), kinds, drawn, strict=True)),
        provenance=Provenance("", runner.name, runner.weights_sha256, seed, steps, prompt, __version__),
        notes=notes,
    )
