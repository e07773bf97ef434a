"""The HTTP API, asked over real sockets: pixels equal the Python API's, to the bit."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unfuse
from unfuse import formats, recipe
from unfuse.errors import UnfuseError
from unfuse.saving import write_flat

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from serving import Running, picture_of, png
from stacks import SRGB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("server") / "data", "--engine", "embedded", "--engine", "slow")
    yield running
    running.stop()


@pytest.fixture
def stack(server: Running) -> Any:
    return server.stack(layers=4)


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGBA"))


def same(told: Any, stack: unfuse.LayerStack) -> None:
    """What the API says of layers is what they are."""
    assert [entry["name"] for entry in told["layers"]] == [layer.name for layer in stack]
    assert [entry["box"] for entry in told["layers"]] == [list(layer.box) for layer in stack]


def test_a_picture_becomes_the_stack_that_the_library_makes(server: Running) -> None:
    data = png(picture_of(300, 200))
    here = unfuse.decompose(data, engine="embedded")
    made = server.decompose(data, "Lamp on a wall.png", engine="embedded")
    assert made.status == 202
    assert made.headers["location"] == f"/v1/jobs/{made.json['id']}"
    done = server.finished(made.json["id"])
    assert (done["state"], done["kind"], done["error"], done["stage"]) == ("done", "decomposition", None, "done")
    told = server.get(f"/v1/stacks/{done['stack']}").json
    same(told, here)
    assert (told["name"], told["version"], told["width"], told["height"]) == ("Lamp on a wall", 1, 300, 200)
    assert told["recomposition"] == {"max": 0.0, "mean": 0.0}
    for entry, layer in zip(told["layers"], here, strict=True):
        assert layer.pixels is not None
        np.testing.assert_array_equal(pixels(server.get(entry["url"]).image), layer.pixels)
    np.testing.assert_array_equal(pixels(server.get(told["flat"]).image), picture_of(300, 200))
    np.testing.assert_array_equal(pixels(server.get(told["original"]).image), picture_of(300, 200))
    assert not pixels(server.get(f"/v1/stacks/{told['id']}/difference.png").image)[..., :3].any()


def test_sixteen_bits_profile_and_resolution_come_through(server: Running) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (30, 50, 4)).astype(np.uint16)
    deep[..., 3] |= 0x8000
    file = BytesIO()
    write_flat(file, deep, icc=SRGB, dpi=300, suffix=".png")
    here = unfuse.decompose(file.getvalue(), 3, engine="fake")
    told = server.stack(file.getvalue(), layers=3)
    assert (told["depth"], told["dpi"]) == (16, 300.0)
    back = project(server, told)
    assert (back.provenance, back.icc) == (here.provenance, SRGB)
    assert recipe.fingerprint(back) == recipe.fingerprint(here)


def project(server: Running, told: Any) -> unfuse.LayerStack:
    """The stack as its project says."""
    data = server.get(f"/v1/stacks/{told['id']}/export/zip").body
    stack: unfuse.LayerStack = formats.find("back.zip").load().read(BytesIO(data), what="back", max_pixels=10**6)
    return stack


EDITS: list[dict[str, Any]] = [
    {"op": "move", "layer": -1, "x": 7.25, "y": -3},
    {"op": "rotate", "layer": -1, "degrees": 20},
    {"op": "recolor", "layer": 1, "color": "#e4002b"},
    {"op": "drop_shadow", "layer": 2, "blur": 4},
]


def test_edits_undo_and_redo_equal_the_library_to_the_bit(server: Running, stack: Any) -> None:
    here = project(server, stack)
    base = f"/v1/stacks/{stack['id']}"
    for number, edit in enumerate(EDITS, 1):
        here = unfuse.edit(here, [edit])
        answer = server.post(f"{base}/edits", {"edits": [edit]}, if_match=str(number))
        assert answer.status == 200, answer.body
        assert (answer.json["version"], answer.json["position"]) == (number + 1, number)
        assert answer.headers["etag"] == f'"{number + 1}"'
    told = answer.json
    same(told, here)
    assert [step["edit"] for step in told["history"]] == [[edit] for edit in EDITS]
    assert [step["name"] for step in told["history"]] == ["Move", "Rotate", "Recolor", "Drop shadow"]
    for entry, layer in zip(told["layers"], here, strict=True):
        assert layer.pixels is not None
        np.testing.assert_array_equal(pixels(server.get(entry["url"]).image), layer.pixels)
    np.testing.assert_array_equal(pixels(server.get(told["flat"]).image), np.asarray(here.flatten()))
    assert recipe.fingerprint(project(server, told)) == recipe.fingerprint(here)

    back = server.ask("PUT", f"{base}/position", {"position": 1}).json
    here = here.undo().undo().undo()
    assert (back["position"], len(back["history"])) == (1, 4)
    assert recipe.fingerprint(project(server, back)) == recipe.fingerprint(here)
    assert recipe.fingerprint(project(server, server.post(f"{base}/redo").json)) == recipe.fingerprint(here.redo())
    assert server.post(f"{base}/undo").json["position"] == 1
    assert server.post(f"{base}/undo").json["layers"] == stack["layers"]
    assert server.post(f"{base}/undo").status == 422
    assert "nothing to undo" in server.post(f"{base}/undo").json["error"]["message"]
    assert server.get(base).json["history"] == told["history"]


def test_a_recipe_is_one_step_and_all_or_nothing(server: Running, stack: Any) -> None:
    base = f"/v1/stacks/{stack['id']}"
    told = server.post(f"{base}/edits", {"edits": EDITS}).json
    assert [step["name"] for step in told["history"]] == ["Move and 3 more"]
    wrong = server.post(f"{base}/edits", {"edits": [*EDITS, {"op": "mvoe", "layer": 1}]})
    assert (wrong.status, wrong.error) == (422, "StackError")
    assert "did you mean 'move'?" in wrong.json["error"]["message"]
    assert server.get(base).json == told


def test_an_edit_of_an_old_version_is_refused(server: Running, stack: Any) -> None:
    base = f"/v1/stacks/{stack['id']}"
    assert server.post(f"{base}/edits", {"edits": EDITS[:1]}, if_match='"1"').status == 200
    stale = server.post(f"{base}/edits", {"edits": EDITS[:1]}, if_match="1")
    assert (stale.status, stale.error) == (409, "Stale")
    assert server.get(base).json["version"] == 2


def test_a_picture_of_one_stack_can_be_used_in_it(server: Running, stack: Any) -> None:
    base = f"/v1/stacks/{stack['id']}"
    other = png(picture_of(33, 21, seed=4))
    here = unfuse.edit(project(server, stack), [{"op": "replace_picture", "layer": 1, "picture": other}])
    sent = server.ask("POST", f"{base}/pictures", file=("file", "new.png", other, {}))
    assert (sent.status, sent.json["width"], sent.json["height"]) == (201, 33, 21)
    edit = {"op": "replace_picture", "layer": 1, "picture": sent.json["picture"]}
    told = server.post(f"{base}/edits", {"edits": [edit]}).json
    assert told["history"][0]["edit"] == [edit]
    assert recipe.fingerprint(project(server, told)) == recipe.fingerprint(here)


def test_a_layer_is_split(server: Running, stack: Any) -> None:
    base, layer = f"/v1/stacks/{stack['id']}", stack["layers"][-1]
    here = project(server, stack)
    job = server.post(f"{base}/layers/{layer['id']}/split", {"layers": 3, "engine": "fake"})
    assert job.status == 202
    done = server.finished(job.json["id"])
    assert (done["state"], done["kind"], done["stack"]) == ("done", "split", stack["id"])
    after = here.split(layer["id"], 3, engine="fake")[-1]
    told = server.get(base).json
    assert (told["layers"][-1]["kind"], told["history"][0]["name"]) == ("group", "Split")
    assert [entry["name"] for entry in told["layers"][-1]["layers"]] == [inner.name for inner in after.layers]
    assert server.get(told["layers"][-1]["url"]).image.size == (60, 40)
    assert server.post(f"{base}/undo").json["layers"] == stack["layers"]


def test_variants(server: Running, stack: Any) -> None:
    name = stack["layers"][-1]["name"]
    table = f'name,"{name}.x","{name}.visible"\none,5,\ntwo,,no\n'.encode()
    job = server.ask("POST", f"/v1/stacks/{stack['id']}/variants", file=("table", "t.csv", table, {}))
    assert job.status == 202, job.body
    assert server.finished(job.json["id"])["state"] == "done"
    result = server.get(f"/v1/jobs/{job.json['id']}/result")
    with zipfile.ZipFile(BytesIO(result.body)) as archive:
        assert sorted(archive.namelist()) == ["contact.png", "one.png", "two.png"]
        shown = pixels(Image.open(BytesIO(archive.read("two.png"))))
    here = unfuse.edit(project(server, stack), [{"op": "hide", "layer": -1}])
    np.testing.assert_array_equal(shown, np.asarray(here.flatten()))


def test_rows_that_fail_are_told_and_the_others_made(server: Running, stack: Any) -> None:
    name = stack["layers"][-1]["name"]
    table = f'name,"{name}.x"\none,5\ntwo,far\n'.encode()
    job = server.ask("POST", f"/v1/stacks/{stack['id']}/variants", file=("table", "t.csv", table, {})).json["id"]
    done = server.finished(job)
    assert (done["state"], done["error"]["type"]) == ("done", "RowsFailed")
    assert done["error"]["message"].startswith("not made: two: move: the field 'x' is 'far': ")
    with zipfile.ZipFile(BytesIO(server.get(f"/v1/jobs/{job}/result").body)) as archive:
        assert sorted(archive.namelist()) == ["contact.png", "one.png"]


@pytest.mark.parametrize("suffix", [x[1:] for row in formats.FORMATS for x in row.suffixes if x not in (".avif",)])
def test_every_format_is_exported(server: Running, stack: Any, suffix: str, tmp_path: Path) -> None:
    answer = server.get(f"/v1/stacks/{stack['id']}/export/{suffix}")
    wrong = ""
    try:
        project(server, stack).save(tmp_path / f"here.{suffix}")
    except UnfuseError as error:
        wrong = str(error)
    if wrong:  # such as a film where there is no ffmpeg: the server says the same
        assert (answer.status, answer.json["error"]["message"]) == (422, wrong)
        return
    assert answer.status == 200
    assert f'filename="test.{suffix}"' in answer.headers["content-disposition"]
    if suffix not in ("pptx",):  # which has the time in it
        assert answer.body == (tmp_path / f"here.{suffix}").read_bytes()


def test_pictures_have_sizes_and_etags(server: Running, stack: Any) -> None:
    url = stack["layers"][0]["url"]
    whole = server.get(url)
    assert whole.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert whole.image.size == (60, 40)
    small = server.get(f"{url}&size=30")
    assert small.image.size == (30, 20)
    assert small.headers["etag"] != whole.headers["etag"]
    assert server.get(f"{url}&size=4000").image.size == (60, 40)
    assert server.get(url.replace(".png", ".webp")).headers["content-type"] == "image/webp"
    again = server.get(url, if_none_match=whole.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert server.get(url.partition("?")[0]).headers["cache-control"] == "private, no-cache"
    assert server.get(f"{url}&size=0").status == 422


def test_a_groups_picture_is_what_its_box_has_on_the_canvas(server: Running) -> None:
    stack = server.stack(layers=3)
    edits = [
        {"op": "group", "layer": [stack["layers"][-1]["id"]], "name": "Some"},
        {"op": "outline", "layer": "Some", "width": 3},
        {"op": "move", "layer": "Some", "x": -8, "y": 5},
    ]
    told = server.post(f"/v1/stacks/{stack['id']}/edits", {"edits": edits}).json
    group, here = told["layers"][-1], project(server, stack)["Some"]
    left, top, right, bottom = (min(max(x, 0), most) for x, most in zip(group["box"], (60, 40) * 2, strict=True))
    assert (left, top, right, bottom) != tuple(group["box"])
    shown = server.get(group["url"]).image
    assert shown.size == (right - left, bottom - top) != (60, 40)
    np.testing.assert_array_equal(pixels(shown), here.to_canvas((60, 40))[top:bottom, left:right])
    away = {"edits": [{"op": "move", "layer": "Some", "x": 500}]}
    gone = server.post(f"/v1/stacks/{stack['id']}/edits", away).json["layers"][-1]
    assert pixels(server.get(gone["url"]).image).tolist() == [[[0, 0, 0, 0]]]


@pytest.mark.parametrize("suffix", [".zip", ".psd"])
def test_a_stack_is_sent_as_a_file(server: Running, suffix: str, tmp_path: Path) -> None:
    here = unfuse.decompose(picture_of(), 3, engine="fake").move(-1, x=3)
    here.save(tmp_path / f"here{suffix}")
    data = (tmp_path / f"here{suffix}").read_bytes()
    sent = server.ask("POST", "/v1/stacks", file=("file", f"My poster{suffix}", data, {}))
    assert sent.status == 201, sent.body
    assert (sent.json["name"], sent.json["original"], sent.json["recomposition"]) == ("My poster", None, None)
    same(sent.json, here)
    np.testing.assert_array_equal(pixels(server.get(sent.json["flat"]).image), np.asarray(here.flatten()))
    assert server.get(f"/v1/stacks/{sent.json['id']}/original.png").status == 404
    assert len(sent.json["history"]) == (1 if suffix == ".zip" else 0)


def test_stacks_are_listed_renamed_and_removed(server: Running, stack: Any) -> None:
    base = f"/v1/stacks/{stack['id']}"
    listed = server.get("/v1/stacks").json
    assert listed[0]["id"] == stack["id"]
    assert listed[0]["layers"] == len(stack["layers"])
    assert server.get(listed[0]["thumbnail"]).image.size == (60, 40)
    assert server.ask("PATCH", base, {"name": "Übung / 2"}).json["name"] == "Übung / 2"
    assert "%C3%9Cbung%20_%202.png" in server.get(f"{base}/export/png").headers["content-disposition"]
    assert server.ask("DELETE", base).status == 204
    assert server.get(base).status == 404
    assert stack["id"] not in [row["id"] for row in server.get("/v1/stacks").json]


def test_the_same_request_twice_is_one_job(server: Running) -> None:
    def send(**fields: Any) -> Any:
        body = ("file", "a.png", png(picture_of()), fields)
        return server.ask("POST", "/v1/decompositions", file=body, idempotency_key="order 66")

    first, second = send(layers=2), send(layers=2)
    assert (first.status, second.status) == (202, 202)
    assert first.json["id"] == second.json["id"]
    other = send(layers=3)
    assert (other.status, other.error) == (409, "Conflict")


def test_events_tell_every_step_and_a_preview_is_shown(server: Running) -> None:
    job = server.decompose(png(picture_of()), engine="slow", steps=12, layers=2).json["id"]
    states = []
    preview = None
    for state in server.events(job):
        states.append(state)
        if state["step"] > 1 and preview is None and state["state"] == "running":
            preview = server.get(f"/v1/decompositions/{job}/preview")
    assert preview is not None
    assert preview.image.format == "WEBP"
    steps = [state["step"] for state in states]
    assert steps == sorted(steps)
    assert len(set(steps) & set(range(1, 13))) > 6  # who is slow to listen is told the latest
    assert any(state["seconds_left"] for state in states if 0 < state["step"] < 12)
    assert states[-1]["state"] == "done"
    assert server.get(f"/v1/decompositions/{job}/preview").status == 404


def test_a_job_is_cancelled_within_a_step(server: Running) -> None:
    job = server.decompose(png(picture_of()), engine="slow", steps=900, layers=2).json["id"]
    for state in server.events(job):
        if state["step"] == 2:
            assert server.ask("DELETE", f"/v1/decompositions/{job}").json["state"] == "cancelled"
    assert state["state"] == "cancelled"
    assert state["stack"] is None
    assert server.ask("DELETE", f"/v1/jobs/{job}").json["state"] == "cancelled"
    server.stack()  # the worker is free: 900 steps would have taken 45 s


def test_capabilities_and_examples(server: Running) -> None:
    told = server.get("/v1/capabilities").json
    takes = {engine["name"]: engine["takes"] for engine in told["engines"]}
    assert takes == {"fake": ["steps"], "embedded": [], "slow": ["prompt", "steps", "seed"]}
    assert told["ops"] == json.loads(json.dumps(recipe.schema()))
    assert {row["format"] for row in told["formats"]["write"]} >= {"zip", "psd", "pptx", "png"}
    assert len(told["examples"]) == 3
    for example in told["examples"]:
        assert server.get(example["url"]).image.format == "JPEG"
        assert max(server.get(example["thumbnail"]).image.size) == 320
    assert server.get("/v1/examples/..%2f..%2fpyproject").status == 404


def test_health_figures_and_logs(server: Running, stack: Any) -> None:
    assert server.get("/healthz").json == {"ok": True}
    assert server.get("/readyz").json == {"worker": True, "disk": True}
    given = server.get(f"/v1/stacks/{stack['id']}", x_request_id="my-own-1").headers["x-request-id"]
    assert given == "my-own-1"
    told: list[dict[str, Any]] = []
    ends = time.monotonic() + 10  # a request's line is written after its answer
    while not told and time.monotonic() < ends:
        lines = [json.loads(line) for line in server.said().splitlines() if line.startswith(b"{") and line[-1:] == b"}"]
        told = [line for line in lines if line.get("request") == "my-own-1"]
    (line,) = told
    assert (line["method"], line["path"], line["status"]) == ("GET", f"/v1/stacks/{stack['id']}", 200)
    text = server.get("/metrics").body.decode()
    assert 'unfuse_requests_total{method="GET",route="/v1/stacks/{stack}",status="200"}' in text
    assert "unfuse_workers_ready 1" in text
    assert "# TYPE unfuse_request_seconds histogram" in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layers": "17"}, "say 1 to 16"),
        ({"layers": "many"}, "layers"),
        ({"engine": "magic"}, "not offered here: say one of fake, embedded"),
        ({"colour": "red"}, "colour"),
        ({"steps": "0"}, "steps"),
    ],
)
def test_wrong_options_are_named(server: Running, fields: dict[str, str], said: str) -> None:
    answer = server.decompose(png(picture_of()), **fields)
    assert answer.status == 422
    assert said in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/stacks/s_00000000000000000000", 404),
        ("GET", "/v1/jobs/j_00000000000000000000/events", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/capabilities", 405),
    ],
)
def test_what_is_not_there_is_an_error_in_json(server: Running, method: str, path: str, status: int) -> None:
    answer = server.ask(method, path)
    assert answer.status == status
    assert answer.json["error"]["message"]
