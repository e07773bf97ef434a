"""The page in a real browser, with a real server: a person's whole way, the keyboard's, and what screen readers get."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unfuse

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")
from serving import Running  # noqa: E402 - it needs what stands above

DATA, EXAMPLES = Path(__file__).parent / "data", Path(__file__).parents[1] / "examples"
SIZE = (403, 543)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt install chromium")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A poster, small."""
    path = tmp_path_factory.mktemp("picture") / "poster.png"
    with Image.open(EXAMPLES / "poster.jpg") as image:
        image.resize(SIZE).save(path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("page") / "data", "--engine", "slow", engine="embedded")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def made(server: Running, picture: Path) -> Any:
    """A stack of the poster, to look at."""
    return server.stack(picture.read_bytes(), engine="embedded", layers=4)


class Person:
    """A window, and what a person does in it. Anything that the page complains about to its console is an error."""

    def __init__(self, browser: Any, server: Running, **options: Any) -> None:
        self.server, self.complaints = server, list[str]()
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.heard)
        self.page.on("filechooser", lambda chooser: None)  # once asked for, none can come before anybody waits for it
        self.jobs: set[str] = set()
        self.page.on("request", lambda request: self.jobs.update(re.findall(r"/jobs/(j_\w+)/events", request.url)))
        self.page.goto(f"http://127.0.0.1:{server.port}/")

    def heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def choose(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(".dropzone").press("Enter")
        chooser.value.set_files(path)

    def open(self, stack: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self.server.port}/#/stack/{stack}")
        self.page.wait_for_selector(".row")

    def stack(self) -> Any:
        """What the server has of what is open, when it is saved."""
        self.page.get_by_text("Saved", exact=True).wait_for()
        return self.server.get(f"/v1/stacks/{self.page.url.rpartition('/')[2]}").json

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the canvas is on the screen."""
        paper = self.page.locator(".paper").bounding_box()
        assert paper
        width = self.stack()["width"]
        return paper["x"] + x * paper["width"] / width, paper["y"] + y * paper["width"] / width

    def names(self) -> list[str]:
        """Layers, top to bottom, as the list says them."""
        return [str(name) for name in self.page.locator(".row .name").all_inner_texts()]


@pytest.fixture
def person(browser: Any, server: Running) -> Iterator[Person]:
    someone = Person(browser, server)
    yield someone
    someone.context.close()
    assert someone.complaints == []


def point_in(stack: unfuse.LayerStack, number: int) -> tuple[int, int]:
    """A point of the canvas, well inside, at which a layer is the topmost that shows."""
    import cv2

    alphas = [np.asarray(layer.to_image(stack.size))[..., 3] for layer in stack]
    free = (alphas[number] > 200) & ~np.any([alpha > 0 for alpha in alphas[number + 1 :]] or [alphas[0] < 0], axis=0)
    inside = cv2.distanceTransform(np.pad(free.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(x), int(y)


def test_a_whole_way(person: Person, picture: Path, tmp_path: Path) -> None:
    """Upload, decompose, move, recolor, undo, reorder, export: the file is what the Python API makes, to the bit."""
    page, stack = person.page, unfuse.decompose(picture, layers=4, engine="embedded")
    person.choose(picture)
    page.locator("[name=layers][value='4']").check()
    page.get_by_role("button", name="Take it apart").click()
    page.wait_for_selector(".row")
    assert person.names() == [layer.name for layer in reversed(stack.layers)]
    numbers = {layer["id"]: number for number, layer in enumerate(person.stack()["layers"])}

    x, y = point_in(stack, 2)  # move: a click takes the layer that shows there, a drag takes it along
    page.mouse.click(*person.at(x, y))
    assert page.locator(".row.chosen .name").inner_text() == stack[2].name
    page.keyboard.down("Control")  # no catching on lines
    page.mouse.move(*person.at(x, y))
    page.mouse.down()
    page.mouse.move(*person.at(x - 20, y + 5), steps=3)
    page.mouse.move(*person.at(x - 40, y + 10), steps=3)
    page.mouse.up()
    page.keyboard.up("Control")
    (move,) = person.stack()["history"][0]["edit"]
    assert (move["op"], numbers[move["layer"]]) == ("move", 2)
    assert (abs(move["x"] + 40) <= 1, abs(move["y"] - 10) <= 1) == (True, True)

    page.get_by_role("button", name="Recolor to #e4002b").click()
    page.get_by_text("History").click()
    page.locator(".history [aria-current]", has_text=f"Recolor {stack[2].name}").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.locator(".history [aria-current]", has_text="Move").wait_for()
    page.get_by_role("button", name="Recolor to #1f4fd8").click()
    page.locator(".history [aria-current]", has_text="Recolor").wait_for()

    page.get_by_text("Layers", exact=True).click()
    rows = page.locator(".row")
    rows.nth(0).drag_to(rows.nth(2), target_position={"x": 60, "y": 40})  # the top layer below the third
    page.wait_for_function("name => document.querySelectorAll('.row .name')[2].innerText === name", arg=stack[3].name)

    told = person.stack()
    assert [step["edit"][0]["op"] for step in told["history"]] == ["move", "recolor", "reorder"]
    for step in told["history"]:
        for edit in step["edit"]:
            refers = [key for key in ("layer", "above", "below") if key in edit]
            stack = unfuse.edit(stack, edit | {key: named(stack, numbers[edit[key]], told) for key in refers})

    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Photoshop .psd").click()
    assert download.value.suggested_filename == "poster.psd"
    download.value.save_as(tmp_path / "poster.psd")
    exported = unfuse.load(tmp_path / "poster.psd")
    assert [layer.name for layer in exported] == [layer.name for layer in stack]
    for one, other in zip(exported, stack, strict=True):
        assert np.array_equal(np.asarray(one.to_image(stack.size)), np.asarray(other.to_image(stack.size)))
    assert np.array_equal(np.asarray(exported.flatten()), np.asarray(stack.flatten()))


def test_the_history_says_what_was_done_and_to_what(person: Person, server: Running, picture: Path) -> None:
    told = server.stack(picture.read_bytes(), engine="embedded", layers=4)
    (low, *_, high), base = told["layers"], f"/v1/stacks/{told['id']}"
    for edit in ({"op": "heal", "layer": low["id"], "under": high["id"]}, {"op": "lock", "layer": [high["id"]]}):
        assert server.post(f"{base}/edits", {"edits": [edit]}).status == 200
    person.open(told["id"])
    person.page.get_by_text("History").click()
    rows = person.page.locator(".history .name").all_inner_texts()
    assert rows == ["Taken apart", f"Fill in {low['name']} behind {high['name']}", f"Lock {high['name']}"]


def named(stack: unfuse.LayerStack, number: int, told: Any) -> str:
    """The name of the layer that was at a number from the bottom at first."""
    at_first = unfuse.LayerStack(stack.size, stack.past[0].layers) if stack.past else stack
    return at_first[number].name


def test_by_keyboard_alone(person: Person, picture: Path) -> None:
    page = person.page
    page.locator(".dropzone").wait_for()

    def tab_to(selector: str) -> None:
        for _ in range(60):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached")

    tab_to(".dropzone")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(picture)
    page.wait_for_selector(".dropzone.filled")
    tab_to("[name=layers]")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.locator("[name=layers]:checked").get_attribute("value") == "3"
    tab_to("[type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".row")
    before = person.names()

    tab_to(".row-name")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".row.chosen .name").inner_text() == before[1]
    page.keyboard.press("Alt+ArrowUp")
    page.wait_for_function("name => document.querySelector('.row .name').innerText === name", arg=before[1])
    page.get_by_text(f"{before[1]} is now above {before[0]}").wait_for(state="attached")
    page.keyboard.press("F2")
    page.keyboard.type("Headline")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Headline", exact=False).first.wait_for()
    tab_to(".board")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    page.get_by_role("status").filter(has_text="down").wait_for(state="attached")  # what was moved is said
    page.keyboard.press("Control+d")
    page.locator(".row", has_text="Headline copy").wait_for()
    page.keyboard.press("Control+z")
    page.locator(".row", has_text="Headline copy").wait_for(state="detached")
    told = person.stack()
    steps = [step["edit"][0] for step in told["history"][: told["position"]]]
    moves = [step for step in steps if step["op"] == "move"]  # one, unless the machine is slow
    assert [step["op"] for step in steps if step not in moves] == ["reorder", "rename"]
    assert (sum(move["x"] for move in moves), sum(move["y"] for move in moves)) == (3, 10)
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard and pointer").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")


def test_a_run_shows_how_far_it_is_and_can_be_cancelled(person: Person, picture: Path) -> None:
    page = person.page
    person.choose(picture)
    page.get_by_label("Engine").select_option("slow")
    page.get_by_label("Caption").fill("a poster with a green hat")
    page.get_by_label("Steps").fill("900")
    page.get_by_role("button", name="Take it apart").click()
    page.get_by_role("status").filter(has_text="of 900").wait_for()
    page.get_by_text("left", exact=False).last.wait_for()
    page.locator("img.preview").wait_for()
    page.reload()  # the address holds the job
    page.get_by_role("status").filter(has_text="of 900").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(".dropzone")
    (job,) = person.jobs
    assert person.server.get(f"/v1/jobs/{job}").json["state"] == "cancelled"


def test_sliders_show_and_save(person: Person, made: Any) -> None:
    page = person.page
    person.open(made["id"])
    page.locator(".row-name").first.click()
    page.get_by_label("Opacity, number").fill("40")
    page.get_by_label("Opacity, number").press("Enter")
    page.get_by_label("Blend").select_option("multiply")
    page.locator(".row .note", has_text="multiply, 40 %").wait_for()
    page.get_by_label("W", exact=True).fill("100")
    page.get_by_label("W", exact=True).press("Enter")
    page.get_by_role("button", name="Turn by 90°").click()
    top = person.stack()["layers"][-1]
    assert (top["opacity"], top["blend_mode"]) == (0.4, "multiply")
    assert abs(top["frame"][3] - top["frame"][1] - 100) < 0.01
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Lock").first.click()
    page.wait_for_function("document.querySelector('.row .icon-button.on') !== null")
    assert page.get_by_role("button", name="Remove").is_disabled()
    assert person.stack()["layers"][-1]["locked"]


def test_a_wrong_file_is_refused_and_nothing_is_lost(person: Person, picture: Path, made: Any, tmp_path: Path) -> None:
    page = person.page
    broken, words, project = tmp_path / "broken.png", tmp_path / "words.txt", tmp_path / "project.zip"
    broken.write_bytes(b"no picture at all")
    words.write_text("not a picture")
    project.write_bytes(b"PK nothing")
    person.choose(picture)
    page.locator("[name=layers][value='5']").check()
    for path, why in ((broken, "broken"), (words, "pictures are png"), (project, "project.zip")):
        person.choose(path)
        page.get_by_role("alert").filter(has_text=why).wait_for()
        assert path.name in page.get_by_role("alert").inner_text()
    assert page.locator(".dropzone b").inner_text() == "poster.png"
    assert page.locator("[name=layers]:checked").get_attribute("value") == "5"
    page.goto(f"http://127.0.0.1:{person.server.port}/#/stack/s_00000000000000000000")
    page.get_by_role("alert").filter(has_text="s_00000000000000000000").wait_for()
    person.open(made["id"])
    before = person.stack()
    data = json.dumps({"name": "notes.txt", "text": "not a picture"})
    page.evaluate(DROP, data)
    page.get_by_role("alert").filter(has_text="notes.txt").wait_for()
    assert person.stack() == before


DROP = """data => {
  const { name, text } = JSON.parse(data), files = new DataTransfer()
  files.items.add(new File([text], name))
  window.dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }))
}"""


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)], ids=["light", "dark", "360 px"]
)
def test_screen_readers_find_no_fault(browser: Any, server: Running, made: Any, scheme: str, width: int) -> None:
    someone = Person(browser, server, color_scheme=scheme, viewport={"width": width, "height": 780})
    page = someone.page

    def check(what: str) -> None:
        page.evaluate((DATA / "axe.min.js").read_text("utf-8"))
        found = page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] })).violations")
        assert [(what, rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.wait_for_selector(".chip")
    check("start")
    someone.open(made["id"])
    page.locator(".row-name").nth(1).click()
    if width < 800:
        page.locator(".tabs button", has_text="Edit").click()
    for section in ("Adjust", "Shadow"):
        page.locator("summary", has_text=section).click()
    check("layer")
    page.locator(".tabs button", has_text="History").click()
    page.get_by_role("button", name="Export").click()
    check("history and export")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    check("shortcuts")
    someone.context.close()
    assert someone.complaints == []


def test_the_screen_shows_what_the_server_draws(person: Person, made: Any) -> None:
    """The browser's own composition is near the server's, at the size of the screen."""
    assert abs(on_screen(person, made["id"]) - server_flat(person, made)).mean() < 2


def test_the_screen_shows_effects_of_groups(person: Person, picture: Path) -> None:
    """What the server lays around a group is seen, also when a layer in it was moved after."""
    made = person.server.stack(picture.read_bytes(), engine="embedded", layers=3)
    ids = [layer["id"] for layer in made["layers"]]
    fit = [{"op": "scale", "layer": ids[1], "factor": 0.3}, {"op": "scale", "layer": ids[2], "factor": 0.3}]
    dressed = [{"op": "group", "layer": ids[1:3]}, {"op": "outline", "layer": "Group", "width": 60, "color": "#00ff00"}]
    told = person.server.post(f"/v1/stacks/{made['id']}/edits", {"edits": [*fit, *dressed]})
    assert told.status == 200, told.json
    assert any("effects" in layer for layer in told.json["layers"])
    flat = server_flat(person, made)
    assert (flat == (0, 255, 0)).all(axis=-1).mean() > 0.02
    assert abs(on_screen(person, made["id"]) - flat).mean() < 2


def on_screen(person: Person, stack: str) -> Any:
    """What the page shows of a stack at its own size, `h w 3`."""
    page = person.page
    person.open(stack)
    page.locator(".history, .row").first.wait_for()
    page.keyboard.press("1")
    page.wait_for_timeout(300)
    shot = BytesIO(page.locator(".board").screenshot())
    board, paper = page.locator(".board").bounding_box(), page.locator(".paper").bounding_box()
    assert board
    assert paper
    left, top = round(paper["x"] - board["x"]), round(paper["y"] - board["y"])
    with Image.open(shot) as image:
        return np.asarray(image.convert("RGB").crop((left, top, left + SIZE[0], top + SIZE[1]))).astype(int)


def server_flat(person: Person, made: Any) -> Any:
    answer = person.server.get(f"/v1/stacks/{made['id']}/flat.png")
    return np.asarray(answer.image.convert("RGB")).astype(int)
