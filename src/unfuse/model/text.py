"""The prompt: Qwen2.5-VL turns a caption into states for the transformer, and a picture into a caption.

Source: Qwen-Image-Layered's released pipeline. A prompt describes the whole picture, what is covered included. It goes
into a fixed template, the picture does not; the states are the last hidden ones, without the template's first 34. The
captioner is the same model with the picture, and needs its vision weights.

The texts below are the released ones to the byte, line breaks in the middle of sentences included: they are what the
transformer was trained with.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unfuse.errors import EngineError, require
from unfuse.model.checkpoint import a_few, read_json, tensors_in, weight_files

if TYPE_CHECKING:
    from PIL import Image

TEXT_WEIGHTS = "model.safetensors"
PROCESSOR = "processor/preprocessor_config.json"
Language = Literal["en", "zh"]

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
TEMPLATE_TOKENS = 34  # before the prompt
MAX_TOKENS = 512  # of a prompt with the template's end, and of a caption

CAPTION_PROMPTS: dict[Language, str] = {
    "en": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n# Image Annotator\n"
        "You are a professional\nimage annotator. Please write an image caption based on the input image:\n"
        "1. Write the caption using natural,\ndescriptive language without structured formats or rich text.\n"
        "2. Enrich caption details by including: \n"
        " - Object\nattributes, such as quantity, color, shape, size, material, state, position, actions, and so on\n"
        " - Vision Relations\nbetween objects, such as spatial relations, functional relations, possessive relations, "
        "attachment relations, action\nrelations, comparative relations, causal relations, and so on\n"
        " - Environmental details, such as weather, lighting,\ncolors, textures, atmosphere, and so on\n"
        " - Identify the text clearly visible in the image, without translation or\nexplanation, and highlight it in "
        "the caption with quotation marks\n"
        "3. Maintain authenticity and accuracy:\n - Avoid\ngeneralizations\n"
        " - Describe all visible information in the image, while do not add information not explicitly shown in\n"
        "the image\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    ),
    "zh": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n# 图像标注器\n"
        "你是一个专业的图像标注器。请基于输入图像，撰写图注:\n"
        "1.\n使用自然、描述性的语言撰写图注，不要使用结构化形式或富文本形式。\n"
        "2. 通过加入以下内容，丰富图注细节：\n"
        " - 对象的属性：如数量、颜色、形状、大小、位置、材质、状态、动作等\n"
        " -\n对象间的视觉关系：如空间关系、功能关系、动作关系、从属关系、比较关系、因果关系等\n"
        " - 环境细节：例如天气、光照、颜色、纹理、气氛等\n"
        " - 文字内容：识别图像中清晰可见的文字，不做翻译和解释，用引号在图注中强调\n"
        "3.\n保持真实性与准确性：\n - 不要使用笼统的描述\n"
        " -\n描述图像中所有可见的信息，但不要加入没有在图像中出现的内容\n"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    ),
}
IMAGE_PAD = "<|image_pad|>"  # stands once in the text, and once for each visual token in what the model reads


class TextEncoder:
    """Qwen2.5-VL of a published checkpoint: folders `text_encoder`, `tokenizer` and, for captions, `processor`."""

    def __init__(self, checkpoint: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Load it. Raises MissingExtra without transformers, EngineError when weights or files are missing."""
        transformers = require("transformers", "qwen", "a prompt or a caption for the engine 'qwen'")
        self.checkpoint, self.device = checkpoint, device
        check_files(checkpoint)
        self.tokenizer = tokenizer(checkpoint / "tokenizer", transformers)
        try:
            self.model, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
                checkpoint / "text_encoder", dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise EngineError(f"{checkpoint}: the text encoder cannot be loaded: {error}") from error
        missing = {name for name in report["missing_keys"] if "visual." not in name}
        if missing:
            raise EngineError(f"{checkpoint / 'text_encoder'} lacks the tensors {a_few(missing)}: download it again")
        if unknown := report["unexpected_keys"]:  # such as the scales of float8, without which it is another number
            raise EngineError(
                f"{checkpoint / 'text_encoder'} has unknown tensors {a_few(unknown)}: take the published weights"
            )
        self.sees = not report["missing_keys"]
        self.model.to(device).eval()

    def tokens(self, prompt: str) -> list[int]:
        """The prompt in its template as token ids."""
        ids: list[int] = self.tokenizer(TEMPLATE.format(prompt)).input_ids
        return ids

    @torch.inference_mode()
    def encode(self, prompts: list[str], max_tokens: int = MAX_TOKENS) -> tuple[Tensor, Tensor]:
        """States `b t d` of the prompts, padded with zeros, and their mask `b t` bool, False where there is padding.

        Prompts are run one by one, so that a batch gives each what it would get alone.
        """
        return together([self.states(self.tokens(prompt))[:max_tokens] for prompt in prompts])

    def states(self, tokens: list[int]) -> Tensor:
        """Last hidden states `t d` of the tokens behind the template's head."""
        ids = torch.tensor([tokens], device=self.device)
        states: Tensor = self.model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return states[0, TEMPLATE_TOKENS:]

    @torch.inference_mode()
    def caption(self, picture: Image.Image, language: Language = "en", max_tokens: int = MAX_TOKENS) -> str:
        """A caption of an RGB picture, the likeliest next token each time (the release samples at temperature 1e-6)."""
        if not self.sees:
            raise EngineError(
                f"{self.checkpoint / 'text_encoder'} has no vision weights, so it cannot caption the picture: "
                "give a prompt that describes the whole picture"
            )
        read = self.look(picture, CAPTION_PROMPTS[language])
        written = self.model.generate(
            **read, max_new_tokens=max_tokens, do_sample=False, temperature=None, top_p=None, top_k=None
        )
        answer: str = self.tokenizer.decode(written[0, read["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.strip()

    def look(self, picture: Image.Image, text: str) -> dict[str, Tensor]:
        """What the model reads of a picture and a text with one `IMAGE_PAD` in it.

        transformers' own processor is not used: it wants torchvision for video, whatever it is given.
        """
        transformers = require("transformers", "qwen", "a caption for the engine 'qwen'")
        read_json(self.checkpoint / PROCESSOR)
        processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(
            self.checkpoint / "processor", local_files_only=True
        )
        seen: dict[str, Any] = processor(images=picture, return_tensors="pt")
        places = int(seen["image_grid_thw"].prod()) // processor.merge_size**2
        ids = torch.tensor([self.tokenizer(text.replace(IMAGE_PAD, IMAGE_PAD * places)).input_ids])
        read = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.model.config.image_token_id).int(),  # 0 text, 1 image
            "pixel_values": seen["pixel_values"].to(self.model.dtype),
            "image_grid_thw": seen["image_grid_thw"],
        }
        return {name: tensor.to(self.device) for name, tensor in read.items()}


def check_files(checkpoint: Path) -> None:
    """Raise EngineError, naming the file, where one that a prompt needs is missing or broken; reads headers alone."""
    tokens = checkpoint / "tokenizer"
    for part in (checkpoint / "text_encoder/config.json", tokens / "tokenizer_config.json"):
        read_json(part)
    if not (tokens / "tokenizer.json").is_file():
        read_json(tokens / "vocab.json")
        if not (tokens / "merges.txt").is_file():
            raise EngineError(f"{tokens / 'merges.txt'} is missing: the checkpoint is not complete, download it again")
    for file in weight_files(checkpoint / "text_encoder", TEXT_WEIGHTS):
        tensors_in(file)


def tokenizer(folder: Path, transformers: ModuleType) -> Any:
    """What makes token ids of texts. A damaged one would shift all that a prompt says, so its template is counted."""
    try:
        found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise EngineError(f"{folder} is broken ({error}): download it again") from error
    if (count := len(found(TEMPLATE.partition("{}")[0]).input_ids)) != TEMPLATE_TOKENS:
        raise EngineError(
            f"{folder} reads the template's head as {count} tokens, and the release's as {TEMPLATE_TOKENS}: its files "
            "are damaged, or another model's; download them again"
        )
    return found


def together(states: list[Tensor]) -> tuple[Tensor, Tensor]:
    """States `t d` of several prompts as `b t d`, padded with zeros, and their mask `b t` bool, False at padding."""
    mask = [torch.ones(len(state), dtype=torch.bool, device=state.device) for state in states]
    return pad_sequence(states, batch_first=True), pad_sequence(mask, batch_first=True)
