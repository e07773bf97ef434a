"""What the package promises as a whole: it imports in no time, has one reading order, is documented, ships complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image

import unfuse
from unfuse import cli, engines, formats

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "unfuse"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "cv2", "PIL", "onnxruntime", "psd_tools", "pptx", "numpy", "jsonschema", "typer", "rich"}

# The reading order: a module imports only modules that stand above it. A folder of modules is one line; inside it
# modules may import each other.
ORDER = (
    *("errors", "pixels", "saving", "boxes", "textblock", "checked", "layers", "blend"),
    *("fields", "oklab", "effects", "composite"),
    *("recompose", "refine", "rematte", "cells", "saliency", "matte", "ink", "reading", "lettering"),
    *("affine", "looks"),
    *("render", "typefaces", "typeset"),
    *("flow", "tokens", "model"),
    *("selection", "edits", "recipe"),
    *("formats", "tables", "variants", "translate"),
    *("engines", "naming", "decomposition", "generation"),
    *("corpus", "train", "evaluate"),
    *("terminal", "server", "cli_corpus", "cli_prompt", "cli_serve", "cli_text", "cli_train", "cli_evaluate", "cli"),
)
DOORS = {
    "layers": {"composite", "edits", "effects", "formats", "decomposition"}
}  # methods of a stack, imported when called


def test_importing_costs_nothing() -> None:
    code = "import time; t = time.perf_counter(); import unfuse; print(time.perf_counter() - t)"
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    seconds, loaded = zip(*(fresh(code).splitlines() for _ in range(3)), strict=True)
    assert set(loaded[0].split()) & HEAVY == set()
    assert min(map(float, seconds)) < 0.2


def test_help_does_not_load_what_work_needs() -> None:
    heavy = HEAVY - {"numpy", "typer", "rich"}
    code = "import sys; from unfuse import cli; print(*{name.partition('.')[0] for name in sys.modules})"
    assert set(fresh(code).split()) & heavy == set()


def test_public_names() -> None:
    assert sorted(unfuse.PUBLIC) == sorted(unfuse.__all__)
    for name in unfuse.__all__:
        assert getattr(unfuse, name).__name__ == ("read" if name == "load" else name)
    with pytest.raises(AttributeError, match=r"has no attribute 'decompse': it has .*decompose"):
        unfuse.__getattr__("decompse")


def test_version() -> None:
    assert unfuse.__version__ == PROJECT["version"]


# --- the order of the modules


def part(path: Path) -> str:
    """The line of `ORDER` that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The lines of `ORDER` that a file imports, each with whether that happens as soon as the file is imported."""
    tree = ast.parse(path.read_text("utf-8"))
    later = {id(node) for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef) for node in ast.walk(outer)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            below = rest.partition(".")[0]
            if top == "unfuse" and (PACKAGE / below).is_dir() | (PACKAGE / f"{below}.py").is_file():
                yield below, id(node) not in later


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_what_stands_above_it(path: Path) -> None:
    here = part(path)
    assert here in ORDER, f"give {here} its place in ORDER"
    for other, at_once in imports(path):
        door = not at_once and other in DOORS.get(here, ())
        assert other == here or door or ORDER.index(other) < ORDER.index(here), f"{here} imports {other} from below it"


# --- what is there is documented

DOCS = "\n".join(path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def verbs(app: typer.Typer = cli.app, before: str = "") -> list[str]:
    """All verbs of the command line, those of groups as 'corpus build'."""
    found = [
        f"{before}{command.name or getattr(command.callback, '__name__', '')}" for command in app.registered_commands
    ]
    for group in app.registered_groups:
        assert group.typer_instance
        found += verbs(group.typer_instance, f"{before}{group.name} ")
    return found


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_is_in_the_docs(verb: str) -> None:
    assert re.search(rf"\bunfuse {verb}\b", DOCS)


def test_every_option_is_in_the_docs() -> None:
    for verb in verbs():
        shown = fresh(f"from unfuse import cli; cli.main({[*verb.split(), '--help']!r})")
        for option in set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}:
            assert option in DOCS, f"unfuse {verb} {option}"


def test_the_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    with Image.open(ROOT / "examples" / "poster.jpg") as picture:
        picture.resize((252, 340)).save(tmp_path / "poster.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"poster.jpg", "poster.psd", "same.png", "top.png"}


def test_every_format_and_engine_is_in_the_docs() -> None:
    missing = [suffix for row in formats.FORMATS for suffix in row.suffixes if f"`{suffix}`" not in DOCS]
    assert missing + [name for name in engines.TABLE if f"`{name}`" not in DOCS] == []


def test_every_extra_and_every_module_of_the_order_is_in_the_docs() -> None:
    readme, flow = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/flow.md"))
    assert [extra for extra in PROJECT["optional-dependencies"] if f"`{extra}`" not in readme] == []
    modules = flow.partition("## The modules, in reading order")[2]
    assert tuple(name for name in re.findall(r"`(\w+)`", modules) if name in ORDER) == ORDER


@pytest.mark.parametrize("name", ["README.md", "docs/flow.md", "docs/log.md", "docs/page.md", "examples/CREDITS.md"])
def test_links_in_the_docs_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)|<img[^>]* src=\"([^\"]+)\"", text):
        link = "".join(target)
        assert "://" in link or (ROOT / name).parent.joinpath(link).exists(), link


# --- what is shipped is complete


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.getinfo(name).file_size for name in archive.namelist()}
        metadata = archive.read(f"unfuse-{unfuse.__version__}.dist-info/METADATA").decode()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in PACKAGE.rglob("*.py")}
    data = {"unfuse/py.typed", "unfuse/formats/manifest.schema.json", "unfuse/recipe.schema.json"}
    data |= {"unfuse/formats/html.html", "unfuse/formats/html.js"}
    data |= {"unfuse/corpus/manifest.json"}
    data |= {"unfuse/fonts/Inter.ttf", "unfuse/fonts/OFL.txt"}
    data |= {"unfuse/server/page/index.html", "unfuse/server/page/build.json"}
    data |= {"unfuse/weights/slots.onnx", "unfuse/weights/slots.json", "unfuse/weights/saliency.onnx"}
    data |= {f"unfuse/weights/{name}" for name in ("matte.onnx", "matte.json", "ink.onnx", "ink.json")}
    assert sources | data <= set(files)
    assert {name for name in files if name.endswith(("LICENSE", "NOTICE", "entry_points.txt"))}
    assert sum(size for name, size in files.items() if "/weights/" in name) <= 48 * 2**20
    assert not [name for name in files if not name.startswith(("unfuse/", f"unfuse-{unfuse.__version__}.dist-info/"))]
    for extra in PROJECT["optional-dependencies"]:
        assert f"Provides-Extra: {extra}\n" in metadata


def test_the_base_install_is_light() -> None:
    assert not {re.split("[><=\\[]", line)[0] for line in PROJECT["dependencies"]} & {"torch", "torchvision", "onnx"}


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
