"""A hosted demo in one file: a picture in; layers, a PSD, a project and a PowerPoint file out.

    pip install unfuse gradio
    python gradio_app.py

On a Hugging Face Space this file is `app.py`, with `unfuse` in requirements.txt. The editor is `unfuse serve`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import unfuse
from unfuse.errors import UnfuseError

SUFFIXES = (".psd", ".zip", ".pptx")
MEGAPIXELS = 25


def take_apart(
    path: str, layers: int = 0, engine: str = "embedded", on_step: Callable[[Any], None] | None = None
) -> tuple[list[tuple[Any, str]], list[str], str]:
    """The layers of a picture, top first, as (PIL image, name); the files to take away; what to know about them.

    `layers` is 2 to 10, or 0 for as many as the engine finds. Raises UnfuseError for what is not a picture.
    """
    stack = unfuse.decompose(path, layers or "auto", engine=engine, on_step=on_step, limit_megapixels=MEGAPIXELS)
    folder = Path(tempfile.mkdtemp(prefix="unfuse-"))
    files = [str(folder / f"{Path(path).stem}{suffix}") for suffix in SUFFIXES]
    for file in files:
        stack.save(file)
    pictures = [(layer.to_image(stack.size), layer.name) for layer in reversed(stack.layers)]
    return pictures, files, "\n".join([f"{len(stack)} layers, top first.", *stack.notes])


def app() -> Any:
    """The page."""
    import gradio as gr

    def run(path: str | None, layers: int, progress: Any = gr.Progress()) -> Any:  # noqa: B008 - how Gradio asks for it
        if path is None:
            raise gr.Error("Choose a picture first.")
        try:
            return take_apart(path, int(layers), on_step=lambda step: progress((step.step, step.steps)))
        except UnfuseError as error:
            raise gr.Error(str(error)) from error

    with gr.Blocks(title="unfuse") as page:
        gr.Markdown("# unfuse\nOne flat picture in, a stack of editable layers out.")
        with gr.Row():
            with gr.Column(scale=1):
                picture = gr.Image(type="filepath", label="Picture")
                layers = gr.Slider(0, 10, value=0, step=1, label="Layers", info="0: as many as the picture needs")
                button = gr.Button("Take it apart", variant="primary")
            with gr.Column(scale=2):
                gallery = gr.Gallery(label="Layers", format="png", columns=3, object_fit="contain")
                files = gr.File(label="Files", file_count="multiple")
                notes = gr.Markdown()
        button.click(run, [picture, layers], [gallery, files, notes], concurrency_limit=1)
    return page


if __name__ == "__main__":
    app().queue(max_size=20).launch()
