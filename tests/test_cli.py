"""The command line through its own door: real files, real pipes, real signals, one real terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import unfuse
from unfuse import cli, engines, formats
from unfuse.engines import Entry

COMMAND = [sys.executable, "-m", "unfuse.cli"]
SIZE = (48, 32)


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A smooth picture with a bright box, `poster.png` in the working directory."""
    monkeypatch.chdir(tmp_path)
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    pixels = np.stack([x * 4, y * 4, 90 + 0 * x], axis=-1).astype(np.uint8)
    pixels[8:20, 10:30] = (230, 40, 30)
    Image.fromarray(pixels).save("poster.png")
    return Path("poster.png")


@pytest.fixture
def stack(picture: Path) -> Path:
    """A project of three layers made of the picture."""
    unfuse.decompose(str(picture), layers=3, engine="fake").save("stack.zip")
    return Path("stack.zip")


def run(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """A command in this process: what it says on standard output and standard error."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    said = capfd.readouterr()
    assert end.value.code == code, said.err
    return said.out, said.err


def piped(*arguments: str, data: bytes = b"") -> bytes:
    """A command in its own process, fed by a pipe and read by a pipe: all it writes."""
    end = subprocess.run([*COMMAND, *arguments], input=data, capture_output=True, timeout=120, check=False)
    assert (end.returncode, end.stderr) == (0, b"")
    return end.stdout


def shown(data: bytes | Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGBA"))


def off(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b).max())


# --- decompose


def test_without_an_output_the_layers_go_into_a_folder_beside_the_picture(
    picture: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capfd, "decompose", str(picture.resolve()), "-n", "3", "--engine", "fake")
    assert out == f"{picture.resolve().with_name('poster-layers')}\n"
    assert err == ""
    made = unfuse.load("poster-layers")
    assert off(np.asarray(made.flatten()), shown(picture)) <= 1
    assert [layer.name for layer in made] == [
        layer.name for layer in unfuse.decompose(str(picture), layers=3, engine="fake")
    ]


def test_several_outputs_hold_the_same(picture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    places = ["a.zip", "a.psd", "a.pptx", "a.png", "a"]
    out, _ = run(capfd, "decompose", "poster.png", "--engine", "fake", *[x for place in places for x in ("-o", place)])
    assert out.split() == places
    flat = shown(Path("a.png"))
    assert off(flat, shown(picture)) <= 1
    for place in ("a.zip", "a.psd", "a"):
        assert off(np.asarray(unfuse.load(place).flatten()), flat) == 0
    assert Path("a.pptx").read_bytes()[:2] == b"PK"
    assert sorted(os.listdir()) == sorted([*places, "poster.png"])


def test_json_says_what_the_file_holds(picture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["-n", "3", "--engine", "fake", "--steps", "2", "--seed", "5", "--prompt", "a box", "-o", "a.zip"]
    out, err = run(capfd, "decompose", "poster.png", *arguments, "--json")
    said, made = json.loads(out), unfuse.load("a.zip")
    assert err == ""
    assert said["size"] == list(SIZE)
    assert said["outputs"] == ["a.zip"]
    assert said["notes"] == list(made.notes)
    for fields, layer in zip(said["layers"], made, strict=True):
        assert fields.pop("box") == list(layer.box)
        assert fields == {name: getattr(layer, name) for name in fields}
    error = np.abs(np.asarray(made.flatten()).astype(int) - shown(picture))
    assert said["recomposition"] == {"max": error.max(), "mean": pytest.approx(error.mean())}
    assert said["seconds"] > 0
    about = said["provenance"]
    assert (about["engine"], about["steps"], about["seed"], about["prompt"]) == ("fake", 2, 5, "a box")
    assert about["version"] == unfuse.__version__


def test_pipes_from_end_to_end(picture: Path) -> None:
    project = piped("decompose", "-", "-n", "3", "--engine", "fake", data=picture.read_bytes())
    psd = piped("convert", "-", "-", "--format", "psd", data=project)
    assert psd[:4] == b"8BPS"
    assert off(shown(piped("flatten", "-", "-o", "-", data=psd)), shown(picture)) <= 1
    assert sorted(os.listdir()) == ["poster.png"]


def test_the_picture_is_read_once(picture: Path) -> None:
    script = f'exec "$@" <(cat {picture}) --engine fake --json -o out.zip'  # what a pipe held is gone after that
    command = ["bash", "-c", script, "bash", *COMMAND, "decompose"]
    end = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert (end.returncode, end.stderr) == (0, b"")
    assert json.loads(end.stdout)["recomposition"] == {"max": 0.0, "mean": 0.0}


def test_a_reader_that_has_read_enough_is_no_error(picture: Path) -> None:
    arguments = [*COMMAND, "decompose", "poster.png", "--engine", "fake", "-o", "-"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_notes_go_to_standard_error(picture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", SIZE, "white").save("plain.png")
    out, err = run(capfd, "decompose", "plain.png", "-n", "4", "--engine", "fake", "-o", "a.zip")
    assert out == "a.zip\n"
    assert err == "unfuse: note: asked for 4 layers, found 1\n"


# --- flatten, convert, split, engines


def test_flatten(stack: Path, picture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, "flatten", "stack.zip", "-o", "a.png", "-o", "a.jpg", "-o", "a.webp")
    assert out.split() == ["a.png", "a.jpg", "a.webp"]
    assert off(shown(Path("a.png")), np.asarray(unfuse.load(stack).flatten())) == 0
    assert off(shown(Path("a.webp")), shown(Path("a.png"))) == 0
    assert Image.open("a.jpg").format == "JPEG"


def test_convert_there_and_back(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for source, target in (("stack.zip", "b.psd"), ("b.psd", "c"), ("c", "d.zip")):
        assert run(capfd, "convert", source, target) == (f"{target}\n", "")
    before, after = unfuse.load(stack), unfuse.load("d.zip")
    assert [layer.name for layer in before] == [layer.name for layer in after]
    assert off(np.asarray(before.flatten()), np.asarray(after.flatten())) == 0


def test_edit(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = unfuse.load(stack)
    Path("recipe.yaml").write_text(f'edits:\n  - {{op: rename, layer: "{before[1].name}", name: Box}}\n')
    out, _ = run(capfd, "edit", "stack.zip", "recipe.yaml", "--dry-run")
    assert out == f"{before[1].name}: name {before[1].name} becomes Box\n"
    assert run(capfd, "edit", "stack.zip", "recipe.yaml", "-o", "a.zip", "-o", "a.png")[0] == "a.zip\na.png\n"
    after = unfuse.load("a.zip")
    assert [layer.name for layer in after] == [before[0].name, "Box", before[2].name]
    assert off(shown(Path("a.png")), np.asarray(before.flatten())) == 0


def test_undo_and_redo(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = unfuse.load(stack)
    Path("recipe.yaml").write_text("- {op: move, layer: 1, x: 9}\n- {op: hide, layer: 2}\n")
    run(capfd, "edit", "stack.zip", "recipe.yaml", "-o", "a.zip")
    assert run(capfd, "undo", "a.zip", "-o", "b.zip")[0] == "b.zip\n"
    assert run(capfd, "redo", "b.zip", "-o", "c.zip")[0] == "c.zip\n"
    a, b, c = (unfuse.load(f"{name}.zip") for name in "abc")
    assert (a[1].box, b[1].box, c[1].box) == (before[1].box.moved(9, 0), before[1].box, before[1].box.moved(9, 0))
    assert "nothing to redo" in run(capfd, "redo", "a.zip", "-o", "d.zip", code=2)[1]


def test_variants(stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = unfuse.load(stack)[1].name
    Path("table.csv").write_text(f'name,"{name}.x"\nleft,-5\nright,5\n')
    assert run(capfd, "variants", "stack.zip", "table.csv", "-o", "out", "--workers", "1") == (
        "out/left.png\nout/right.png\n",
        "",
    )
    moved = unfuse.load(stack).move(1, x=5)
    assert off(shown(Path("out/right.png")), np.asarray(moved.flatten())) == 0
    Path("table.csv").write_text(f'name,"{name}.x"\nleft,-5\nwrong,far\n')
    out, error = run(capfd, "variants", "stack.zip", "table.csv", "-o", "out", "--workers", "1", code=2)
    assert out == "out/left.png\n"
    assert "1 of 2 variants failed: wrong: move: the field 'x' is 'far'" in error
    Path("table.csv").write_text(f'name,"{name}.blend"\ndark,multiply\n')
    for said in ("made", "remembered"):
        out, error = run(capfd, "variants", "stack.zip", "table.csv", "-o", "slides", "--format", "pptx")
        assert (out, error.startswith("unfuse: note: dark: PowerPoint has no ")) == ("slides/dark.pptx\n", True), said
    Path("table.csv").write_text(f'name;"{name}.x"\nwrong;far\n')
    assert run(capfd, "variants", "stack.zip", "table.csv", "-o", "none", "--workers", "1", code=2)[0] == ""


@pytest.mark.parametrize("by", ["name", "id", "number"])
def test_split(stack: Path, by: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = unfuse.load(stack)
    key = {"name": before[1].name, "id": before[1].id, "number": "1"}[by]
    out, _ = run(capfd, "split", "stack.zip", key, "-n", "2", "--engine", "fake", "-o", "stack.zip", "--json")
    after, said = unfuse.load(stack), json.loads(out)
    assert (after[1].id, after[1].kind, len(after[1].layers)) == (before[1].id, "group", 2)
    assert len(said["layers"][1]["layers"]) == 2
    assert said["recomposition"]["max"] == off(np.asarray(after.flatten()), np.asarray(before.flatten())) <= 1


def test_a_layer_that_is_one_thing_is_not_split(capfd: pytest.CaptureFixture[str], picture: Path) -> None:
    Image.new("RGB", SIZE, "white").save("plain.png")
    unfuse.decompose("plain.png", layers=1, engine="fake").save("plain.zip")
    _, err = run(capfd, "split", "plain.zip", "0", "--engine", "fake", "-o", "again.zip")
    assert "'0' is one thing" in err
    assert len(unfuse.load("again.zip")) == 1


def test_engines(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, "engines", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == list(engines.TABLE)
    assert rows["fake"]["ready"]
    assert "qwen:FOLDER, the folder of the release" in rows["qwen"]["cure"]
    assert "pip install 'unfuse[qwen]'" in rows["qwen"]["needs"]
    out, _ = run(capfd, "engines")
    assert all(name in out and entry.needs in out for name, entry in engines.TABLE.items())


def test_without_a_verb_there_is_help(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd)
    assert "decompose" in out
    assert run(capfd, "--version") == (f"unfuse {unfuse.__version__}\n", "")


# --- what is wrong is one line, exit code 2, and nothing written

WRONG = [
    (["decompose", "nowhere.png"], "nowhere.png: there is no such file"),
    (["decompose", "text.png"], "not a picture"),
    (["decompose", "."], "folder"),
    (["decompose", "stack.zip"], "stack.zip is no picture but layers, a .zip: 'unfuse split' takes one of them apart"),
    (["decompose", "empty.png"], "empty"),
    (["decompose", "poster.png", "--limit-megapixels", "0.001"], "48 x 32"),
    (["decompose", "poster.png", "-n", "17"], "1 to 16, or 'auto'"),
    (["decompose", "poster.png", "-n", "many"], "1 to 16, or 'auto'"),
    (["decompose", "poster.png", "--engine", "magic"], "embedded, qwen, trained, fake"),
    (["decompose", "poster.png", "--engine", "fake", "--steps", "0"], "steps=0"),
    (["decompose", "poster.png", "-o", "a.tga"], "'.tga' is not a known format"),
    (["decompose", "poster.png", "-o", "nowhere/a.psd"], "there is no folder"),
    (["decompose", "poster.png", "-o", "a.psd", "-o", "a.psd"], "twice"),
    (["decompose", "poster.png", "-o", "./poster.png"], "would replace what is read"),
    (["decompose", "poster.png", "-o", "-", "--json"], "--json"),
    (["decompose", "poster.png", "-o", "-", "--format", "tga"], "--format .tga: '.tga' is not a known format"),
    (["decompose", "poster.png", "-o", "-", "--format", ""], "not a folder"),
    (["decompose"], "Missing argument 'PICTURE'"),
    (["decompose", "poster.png", "second.png"], "second.png"),
    (["decompose", "poster.png", "--colour"], "--colour"),
    (["decompose", "poster.png", "--seed", "x"], "--seed"),
    (["dekompose", "poster.png"], "Did you mean 'decompose'?"),
    (["flatten", "stack.zip"], "--out"),
    (["flatten", "stack.zip", "-o", "a.psd"], "'unfuse convert' keeps the layers"),
    (["flatten", "text.png", "-o", "a.png"], "cannot be read as layers"),
    (["convert", "poster.png", "a.psd"], "'unfuse decompose' takes a picture apart"),
    (["flatten", "stack.tif", "-o", "stack.tif"], "-o stack.tif would replace what is read: choose another name"),
    (["flatten", "wrong.psd", "-o", "a.png"], "what it holds is a flat picture: decompose it"),
    (["flatten", "wrong.ora", "-o", "a.png"], "what it holds is a .psd: give it that suffix"),
    (["flatten", "wrong.tif", "-o", "a.png"], "what it holds is a .zip: give it that suffix"),
    (["flatten", "wrong.zip", "-o", "a.png"], "wrong.zip lacks 'manifest.json', which it needs: give one as it was"),
    (["undo", "stack.zip", "-o", "a.zip"], "nothing to undo: only a project, a .zip or a folder, keeps"),
    (["flatten", "nowhere.zip", "-o", "a.png"], "nowhere.zip: there is no such file"),
    (["split", "stack.zip", "Nobody", "-o", "a.zip"], "no layer is called 'Nobody'"),
    (["split", "stack.zip", "7", "-o", "a.zip"], "layer 7 is not in the stack"),
    (["edit", "stack.zip", "nowhere.yaml", "-o", "a.zip"], "nowhere.yaml cannot be read"),
    (["edit", "stack.zip", "text.png", "-o", "a.zip"], "its edits are 'this is not a picture': they must be a list"),
    (["edit", "stack.zip", "poster.png", "-o", "a.zip"], "is no text in UTF-8"),
    (["edit", "stack.zip", "text.png"], "give -o OUT, or --dry-run"),
    (["convert", "stack.zip", f"{'x' * 300}.psd"], "cannot be written (File name too long)"),
    (["convert", "stack.zip", "x" * 300], "cannot be used (File name too long): choose another place or name"),
    (["flatten", f"{'x' * 300}.zip", "-o", "a.png"], "there is no such file; check the path"),
    (["corpus", "build", "stack.zip"], "stack.zip cannot be used (File exists): choose another place or name"),
    (["convert", "stack.zip", "a.tga"], "'.tga' is not a known format"),
    (["train", "slots", "--pack", "nowhere", "--out", "run"], "unfuse corpus build nowhere"),
    (["train", "magic", "--pack", "nowhere", "--out", "run"], "stage 'magic' is unknown"),
    (["export", "nowhere", "a.onnx"], "nowhere holds no checkpoint.json"),
    (["export", "nowhere", "a.pt"], "nowhere holds no checkpoint.json"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_wrong_input(arguments: list[str], said: str, stack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if arguments[0] in ("train", "export"):
        pytest.importorskip("onnxscript", reason="training is not installed")
    Path("text.png").write_text("this is not a picture")
    Path("empty.png").touch()
    whole = unfuse.load(stack)
    for suffix in (".tif", ".psd", ".ora"):
        whole.save(f"stack{suffix}")
    for suffix, other in ((".psd", "poster.png"), (".ora", "stack.psd"), (".tif", "stack.zip")):
        shutil.copy(other, f"wrong{suffix}")
    with zipfile.ZipFile("wrong.zip", "w") as archive:
        archive.write("poster.png")
    before = sorted(os.listdir())
    out, err = run(capfd, *arguments, code=2)
    assert out == ""
    assert err.startswith("unfuse: ")
    assert err.count("\n") == 1
    assert said in err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("verb", ["flatten", "decompose"])
def test_a_pipe_with_nothing_in_it_is_told(verb: str, tmp_path: Path) -> None:
    command = [*COMMAND, verb, "-", "-o", "out.png" if verb == "flatten" else "out.zip"]
    end = subprocess.run(command, input=b"", capture_output=True, cwd=tmp_path, timeout=120, check=False)
    assert end.returncode == 2
    assert end.stderr.startswith(b"unfuse: standard input is empty (0 bytes): ")
    assert os.listdir(tmp_path) == []


def test_where_one_output_fails_the_others_are_kept_and_named(picture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("keep me")
    outs = ["-o", "a.zip", "-o", "mine", "-o", "b.psd"]
    out, err = run(capfd, "decompose", "poster.png", "--engine", "fake", *outs, code=2)
    assert out == ""
    assert "letter.txt" in err
    assert err.endswith("Written: a.zip, b.psd\n")
    assert len(unfuse.load("a.zip")) == len(unfuse.load("b.psd"))
    assert os.listdir("mine") == ["letter.txt"]


class Broken:
    name, weights_sha256, default_steps, max_layers = "broken", "", 1, 16

    def bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        raise ZeroDivisionError("a mistake of ours")


def test_a_mistake_of_ours_keeps_its_traceback(
    picture: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.TABLE, "broken", Entry(__name__, "Broken", "fails"))
    _, err = run(capfd, "decompose", "poster.png", "--engine", "broken", code=1)
    assert "Traceback" in err
    assert "ZeroDivisionError: a mistake of ours" in err
    assert "please report it" in err.splitlines()[-1]
    assert os.listdir() == ["poster.png"]


# --- signals and a terminal


def interrupted(arguments: Sequence[str], ready: Any, number: signal.Signals) -> int:
    """The exit code of a command that gets a signal as soon as `ready` says so."""

    def heed() -> None:  # a process started where signals are ignored would ignore them too
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen([*COMMAND, *arguments], preexec_fn=heed, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not ready():
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert err == b""
        return process.returncode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_it_writes(number: signal.Signals, code: int, picture: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png", compress_level=0)
    Path("a.zip").write_bytes(b"what was there")
    before = sorted(os.listdir())

    def writing() -> bool:
        return any(name.endswith(".part") for name in os.listdir())

    arguments = ["decompose", "noise.png", "-n", "5", "--engine", "fake", "-o", "a.zip"]
    assert interrupted(arguments, writing, number) == code
    assert sorted(os.listdir()) == before
    assert Path("a.zip").read_bytes() == b"what was there"


def test_a_terminal_sees_a_table(picture: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["decompose", "poster.png", "-n", "3", "--engine", "fake", "-o", "a.psd"]
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen([*COMMAND, *arguments], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # Linux: the other end is closed
                break
        assert process.wait(60) == 0
    os.close(ours)
    text = said.decode()
    for layer in unfuse.load("a.psd"):
        assert layer.name in text
    assert "Decomposing poster.png" in text
    assert "poster.png, 48 x 32: 3 layers, bottom to top" in text
    assert "Put together again: " in text
    assert "Written" in text


def test_a_file_is_not_written_to_a_terminal(picture: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "decompose", "poster.png", "-o", "-"], stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        _, err = process.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 2
    assert b"cannot be shown on a terminal" in err


# --- training, with the smallest stage there can be


def tiny_batch(want: Any) -> dict[str, NDArray[np.uint8]]:
    values = want.of_step().integers(0, 255, (want.count, 2), dtype=np.uint8)
    return {"x": values, "y": values.sum(1, keepdims=True, dtype=np.uint8)}


def test_train_says_where_the_run_is_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from unfuse.train import stages
    from unfuse.train.stage import Stage

    def loss(net: Any, arrays: dict[str, Any]) -> dict[str, Any]:
        return {"loss": ((net.weight.sum() - arrays["y"].float() / 255) ** 2).mean()}

    def validate(net: Any, arrays: dict[str, Any]) -> dict[str, float]:
        return {"error": float(loss(net, arrays)["loss"].detach())}

    tiny = Stage("tiny", "for this test", lambda _: torch.nn.Linear(2, 1), tiny_batch, loss, validate)
    monkeypatch.setitem(stages.STAGES, "tiny", tiny)
    (tmp_path / "pack.json").write_text("{}")
    run_folder = tmp_path / "run"
    arguments = ["train", "tiny", "--pack", str(tmp_path), "--out", str(run_folder), "--batch", "4", "--rate", "0.01"]
    out, err = run(capfd, *arguments, "--steps", "3")
    assert out == f"{run_folder}\n"
    assert "step 3 of 3: error " in err
    out, err = run(capfd, *arguments, "--steps", "5")
    steps = [json.loads(line)["step"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]
    assert json.loads((run_folder / "checkpoint.json").read_text())["step"] == 5


def test_every_format_can_be_named(picture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    suffixes = [suffix for row in formats.FORMATS for suffix in row.suffixes]
    suffixes = [suffix for suffix in suffixes if suffix != ".mp4" or shutil.which("ffmpeg")]
    outs = [x for suffix in suffixes for x in ("-o", f"a{suffix}")]
    out, _ = run(capfd, "decompose", "poster.png", "-n", "2", "--engine", "fake", *outs)
    assert out.split() == [f"a{suffix}" for suffix in suffixes]
    assert all(Path(name).stat().st_size > 0 for name in out.split())
