"""Attacks on the server, one a promise of docs/server.md."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import unfuse
from unfuse import edits
from unfuse.errors import StackError

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from serving import Running, form, picture_of, png

from unfuse.server import allowed
from unfuse.server.options import Options, ServerError
from unfuse.server.safety import GUESSES

ALICE, BOB = "alice-has-a-long-token", "bob-has-another-long-one"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = ("--upload-megabytes", "1", "--limit-megapixels", "1", "--memory", "1500")
    running = Running(tmp_path_factory.mktemp("safe") / "data", *options)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text(f"# who may\n{ALICE}\n{BOB}\n")
    running = Running(folder / "data", "--token-file", str(folder / "tokens"), "--host", "0.0.0.0", token=ALICE)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def used(server: Running) -> Any:
    """A stack that refused edits leave as it is."""
    return server.stack()


# --- who may ask


def test_an_address_of_others_needs_a_token() -> None:
    command = [sys.executable, "-m", "unfuse.cli", "serve", "--host", "0.0.0.0", "--no-browser"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "can be reached from other machines: say who may use it with --token-file" in ended.stderr
    with pytest.raises(ServerError, match="can be reached"):
        Options(host="::")
    with pytest.raises(ServerError, match="at least 16"):
        Options(tokens=("short",))
    assert Options(host="::1").loopback


def test_without_its_token_nothing_is_told(guarded: Running) -> None:
    for path in ("/v1/stacks", "/v1/capabilities", "/openapi.json", "/metrics", "/", "/v1/nothing"):
        answer = guarded.get(path, authorization="")
        assert (answer.status, answer.error) == (401, "NoToken")
    for wrong in (f"Bearer {ALICE}x", f"Bearer {ALICE[:-1]}", f"Basic {ALICE}", "Bearer ÿþ"):
        assert guarded.get("/v1/stacks", authorization=wrong).status == 401
    assert guarded.get("/healthz", authorization="").status == 200


def test_who_guesses_has_to_wait(tmp_path: Path) -> None:
    running = Running(tmp_path / "data", "--token", ALICE, token=ALICE)
    try:
        statuses = [running.get("/v1/stacks", authorization=f"Bearer {n:020}").status for n in range(GUESSES + 2)]
        assert statuses == [401] * GUESSES + [429] * 2
        answer = running.get("/v1/stacks")  # right, but it may be the next guess
        assert (answer.status, answer.error) == (429, "TooManyGuesses")
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert running.get(f"/?token={ALICE}").status == 429
        assert running.get("/healthz").status == 200
    finally:
        running.stop()
    assert ALICE.encode() not in running.said()


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    from unfuse.server import safety

    seen: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def noted(known: bytes, given: bytes) -> bool:
        seen.append((known, given))
        return real(known, given)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    assert safety.same(BOB, {ALICE: "a", BOB: "b"}) == "b"
    assert [known for known, _ in seen] == [ALICE.encode(), BOB.encode()]  # the one that fits does not end it


def test_the_page_gets_a_cookie_for_its_token(guarded: Running) -> None:
    answer = guarded.get(f"/?token={BOB}", authorization="")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert BOB not in cookie
    for flag in ("HttpOnly", "SameSite=Strict", "Path=/"):
        assert flag in cookie
    assert guarded.get("/v1/stacks", authorization="", cookie=cookie.partition(";")[0]).status == 200
    assert guarded.get("/v1/stacks", authorization="", cookie="unfuse=guess").status == 401


def test_stacks_of_one_token_are_invisible_to_another(guarded: Running) -> None:
    stack = guarded.stack()
    base, layer = f"/v1/stacks/{stack['id']}", stack["layers"][0]
    job = guarded.decompose(png(picture_of())).json["id"]
    bob = {"authorization": f"Bearer {BOB}"}
    assert guarded.get("/v1/stacks", **bob).json == []
    for path in (base, layer["url"], stack["flat"], f"{base}/export/png", f"/v1/jobs/{job}", f"/v1/jobs/{job}/events"):
        assert guarded.get(path).status == 200
        assert guarded.get(path, **bob).status == 404
    etag = guarded.get(layer["url"]).headers["etag"]
    assert guarded.get(layer["url"], if_none_match=etag, **bob).status == 404
    for method, path in (("DELETE", base), ("POST", f"{base}/undo"), ("DELETE", f"/v1/jobs/{job}")):
        assert guarded.ask(method, path, **bob).status == 404
    split = guarded.ask("POST", f"{base}/layers/{layer['id']}/split", {}, **bob)
    assert (split.status, split.json["error"]["message"]) == (404, f"there is no stack {stack['id']!r}")
    assert guarded.get(base).json == stack


def test_no_secret_is_logged(guarded: Running) -> None:
    guarded.get(f"/?token={BOB}", authorization="")
    guarded.get(f"/v1/stacks?token={ALICE}")
    guarded.decompose(png(picture_of()), "salary letter.png", prompt="my secret plan")
    said = guarded.said()
    for secret in (ALICE, BOB, "salary letter", "secret plan"):
        assert secret.encode() not in said
    files = [path for path in Path(guarded.log.name).with_suffix("").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if ALICE.encode() in path.read_bytes()]


# --- browsers that are tricked


def test_another_host_name_is_refused(server: Running) -> None:  # DNS rebinding
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1:1", "127.0.0.1.evil.example", ""):
        answer = server.get("/v1/stacks", host=host)
        assert (answer.status, answer.error) == (421, "WrongHost")
    for host in (f"localhost:{server.port}", f"127.0.0.1:{server.port}", f"[::1]:{server.port}"):
        assert server.get("/v1/stacks", host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_other_sites_cannot_change_anything(server: Running, headers: dict[str, str]) -> None:
    stack = server.stack()
    body, kind = form("file", "a.png", png(picture_of()), {})
    for method, path in (("POST", "/v1/decompositions"), ("DELETE", f"/v1/stacks/{stack['id']}")):
        answer = server.ask(method, path, body, content_type=kind, **headers)
        assert (answer.status, answer.error) == (403, "CrossSite")
    own = {"origin": f"http://127.0.0.1:{server.port}", "sec_fetch_site": "same-origin"}
    assert server.ask("DELETE", f"/v1/stacks/{stack['id']}", **own).status == 204


def test_nothing_may_be_read_or_framed_by_other_sites(server: Running) -> None:
    for path in ("/", "/v1/stacks", "/v1/nothing", "/healthz"):
        headers = server.get(path, origin="https://evil.example").headers
        assert not [name for name in headers if name.startswith("access-control-")]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin"
    asked = {"origin": "https://evil.example", "access_control_request_method": "POST"}
    preflight = server.ask("OPTIONS", "/v1/stacks", **asked)
    assert not [name for name in preflight.headers if name.startswith("access-control-")]


# --- what is sent


def raw(server: Running, head: str, blocks: Iterator[bytes]) -> bytes:
    """Send something over a bare socket, as long as it is taken; the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(head.encode())
        try:
            for block in blocks:
                line.sendall(block)
        except OSError:
            pass
        answer = b""
        try:
            while block := line.recv(65536):
                answer += block
                if b"}}" in answer:
                    break
        except OSError:
            pass
        return answer


def test_uploads_are_capped_while_they_come(server: Running) -> None:
    head = "POST /v1/decompositions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    said = raw(server, f"{head}Content-Length: {1 << 40}\r\n\r\n", iter([part]))
    assert b" 413 " in said.split(b"\r\n")[0]
    sent = 0

    def blocks() -> Iterator[bytes]:  # without a length: chunked, for ever
        nonlocal sent
        yield f"{len(part):x}\r\n".encode() + part + b"\r\n"
        for _ in range(4096):
            sent += 65536
            yield b"10000\r\n" + bytes(65536) + b"\r\n"

    said = raw(server, f"{head}Transfer-Encoding: chunked\r\n\r\n", blocks())
    assert sent < 64 << 20
    assert not said or b" 413 " in said.split(b"\r\n")[0]
    large = server.ask("POST", "/v1/stacks/s_1/edits", b'{"edits": ["' + bytes(5 << 20) + b'"]}')
    assert large.status == 413
    left = Path(server.log.name).with_suffix("") / "new"
    assert not list(left.iterdir())


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that says a size, with any bytes as its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png_header(30_000, 30_000, zlib.compress(bytes(900_000))), "more than the limit of 1"),
        (png_header(100, 100, b"no zlib"), "broken or cut short"),
        (b"", "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1:1/'/></svg>", "no picture but layers"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file", "not a picture"),
        (b"http://127.0.0.1:1/secret.png", "not a picture"),
    ],
    ids=["bomb", "broken", "empty", "svg", "postscript", "url"],
)
def test_what_is_no_small_picture_is_refused(server: Running, data: bytes, said: str) -> None:
    answer = server.decompose(data)
    assert (answer.status, answer.error) == (422, "PictureError")
    assert said in answer.json["error"]["message"]
    assert "/" + "data" not in answer.json["error"]["message"]
    assert server.get("/healthz").status == 200


def test_decoding_has_limits_on_memory_and_time(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(picture_of(2000, 2000)))
    code = (
        "from unfuse.server.child import *\nfrom unfuse.server import decoding\n"
        "def spin(line):\n limit(4000, 1)\n while True: pass\n"
        "if __name__ == '__main__':\n"
        " args = (r'{0}/large.png', r'{0}/out.png', 10**8, {1}, 20)\n"
        " child = Child(FRESH, decoding.picture, *args)\n print(child.receive(50)['error']['message']); child.kill()\n"
        " child = Child(FRESH, spin)\n"
        " try: child.receive(50)\n"
        " except ChildDied as error: print(error)\n"
    )
    (tmp_path / "decode.py").write_text(code.format(tmp_path, 250))
    command = [sys.executable, str(tmp_path / "decode.py")]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    memory, processor = ended.stdout.splitlines()
    assert "memory" in memory
    assert "processor time" in processor
    assert not (tmp_path / "out.png").exists()


def test_nothing_is_fetched(server: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
        stack = server.stack()
        server.ask("POST", f"/v1/decompositions?url={url}", file=("file", url, url.encode(), {}))
        server.ask("POST", "/v1/decompositions", file=("file", "a.png", b"x", {"url": url}))
        edit = {"op": "replace_picture", "layer": 0, "picture": url}
        assert server.post(f"/v1/stacks/{stack['id']}/edits", {"edits": [edit]}).status == 422
        trap.settimeout(0.2)
        with pytest.raises(TimeoutError):
            trap.accept()


# --- names


@pytest.mark.parametrize(
    "picture", ["/etc/passwd", "../original.png", "p_0.png", "original.png", "", None, {"x": 1}, "."]
)
@pytest.mark.parametrize("op", ["replace_picture", "mask"])
def test_recipes_read_no_files_of_the_server(server: Running, used: Any, picture: Any, op: str) -> None:
    stack = used
    base = f"/v1/stacks/{stack['id']}"
    answer = server.post(f"{base}/edits", {"edits": [{"op": op, "layer": 0, "picture": picture}]})
    assert (answer.status, answer.error) == (422, "StackError")
    assert "was not sent to this stack" in answer.json["error"]["message"]
    assert server.get(base).json["version"] == 1


def test_a_picture_of_one_stack_is_none_of_another(server: Running) -> None:
    one, two = server.stack(), server.stack()
    sent = server.ask("POST", f"/v1/stacks/{one['id']}/pictures", file=("file", "a.png", png(picture_of()), {})).json
    edit = {"op": "replace_picture", "layer": 1, "picture": sent["picture"]}
    assert server.post(f"/v1/stacks/{two['id']}/edits", {"edits": [edit]}).status == 422
    assert server.post(f"/v1/stacks/{one['id']}/edits", {"edits": [edit]}).status == 200


@pytest.mark.parametrize("cell", ["/etc/passwd", "../original.png", "sub/../p.png", "other.png", "table.csv"])
def test_tables_read_no_files_of_the_server(server: Running, cell: str) -> None:
    stack = server.stack()
    table = f'"{stack["layers"][0]["name"]}.picture"\n{cell}\n'.encode()
    answer = server.ask("POST", f"/v1/stacks/{stack['id']}/variants", file=("table", "t.csv", table, {}))
    assert (answer.status, answer.error) == (422, "StackError")
    assert f"the picture {cell!r} was not sent to this stack" in answer.json["error"]["message"]


@pytest.mark.parametrize("table", [b"name", b"name,name\na,b", b"name,x\n\xff,1", b"name\n" + b"a" * (1 << 20)])
def test_what_is_wrong_with_a_table_is_said_without_where_the_server_keeps_it(server: Running, table: bytes) -> None:
    stack = server.stack()
    answer = server.ask("POST", f"/v1/stacks/{stack['id']}/variants", file=("table", "t.csv", table, {}))
    assert answer.status == 422
    assert answer.json["error"]["message"].startswith("the table ")
    assert "/" not in answer.json["error"]["message"]


def test_a_request_that_is_wrong_is_told_with_its_value(server: Running) -> None:
    url = f"/v1/stacks/{server.stack()['id']}/edits"
    sent = {
        b'{"edits": {"op": "hide"}}': "body.edits is {'op': 'hide'}: Input should be a valid list",
        b'{"op": "hide"}': "body.edits is missing: what is needed stands in /openapi.json; body.op is no field here",
        b'{"edits": [': "the body is not JSON, from character 11 on: Expecting value",
    }
    for body, message in sent.items():
        answer = server.ask("POST", url, body, content_type="application/json")
        assert (answer.status, answer.error) == (422, "InvalidRequest")
        assert answer.json["error"]["message"].startswith(message)
    assert "body.layers is 'abc': " in server.decompose(png(picture_of()), layers="abc").json["error"]["message"]


def test_layers_where_a_picture_belongs_are_told_where_to_go(server: Running) -> None:
    project = server.get(f"/v1/stacks/{server.stack()['id']}/export/zip").body
    answer = server.decompose(project, "a.zip")
    assert (answer.status, answer.error) == (422, "PictureError")
    assert answer.json["error"]["message"].endswith("is no picture but layers, a .zip: send it to /v1/stacks")


def test_splits_in_recipes_name_no_engine_of_the_disk(server: Running) -> None:
    stack = server.stack()
    edit = {"op": "split", "layer": 0, "engine": "qwen:/etc"}
    answer = server.post(f"/v1/stacks/{stack['id']}/edits", {"edits": [edit]})
    assert (answer.status, answer.error) == (422, "StackError")
    split = server.post(f"/v1/stacks/{stack['id']}/layers/{stack['layers'][0]['id']}/split", {"engine": "qwen:/etc"})
    assert (split.status, split.error) == (422, "EngineError")


@pytest.mark.parametrize(
    "field", [{"font": "/etc/passwd"}, {"font": "../x"}, {"font": "a.ttf"}, {"font": "C:\\x"}, {"folder": "/usr"}]
)
def test_fonts_are_families_and_not_files(server: Running, used: Any, field: dict[str, str]) -> None:
    edit = {"op": "replace_text", "layer": 0, "text": "new", **field}
    answer = server.post(f"/v1/stacks/{used['id']}/edits", {"edits": [edit]})
    assert (answer.status, answer.error) == (422, "StackError")
    assert "here" in answer.json["error"]["message"]
    allowed.check([{"op": "replace_text", "layer": 0, "text": "new", "font": "Source Han Sans"}], set())


HARMLESS = {  # every field of an edit that takes any text: what it is for; a path would have to be refused in `allowed`
    "layer", "above", "below", "under", "part", "folder", "name", "to", "anchors", "engine", "prompt", "model",
    "text", "font", "family", "anchor",
}  # fmt: skip


def texts(schema: Any) -> bool:
    """Whether a schema lets any text through."""
    if isinstance(schema, list):
        return any(texts(inner) for inner in schema)
    if not isinstance(schema, dict) or {"enum", "const", "pattern"} & schema.keys():
        return False
    kinds = schema.get("type", [])
    parts = [schema.get(key) for key in ("anyOf", "items", "prefixItems", "additionalProperties")]
    return "string" in ([kinds] if isinstance(kinds, str) else kinds) or any(texts(part) for part in parts if part)


def test_every_field_that_takes_text_is_known() -> None:
    for op in edits.TABLE.values():
        for name, (schema, _) in op.fields.items():
            assert name in allowed.open_fields(op.name) or not texts(schema) or name in HARMLESS, f"{op.name}.{name}"
    assert allowed.open_fields("replace_picture") == {"picture"}
    with pytest.raises(StackError, match="was not sent"):
        allowed.check([{"op": "mask", "layer": 0, "picture": "x"}], {"y"})


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/assets/..%2f..%2f..%2fapp.py",
        "/%2e%2e/app.py",
        "/assets/%2e%2e/%2e%2e/app.py",
        "//etc/passwd",
        "/assets/\\..\\app.py",
        "/v1/examples/%2e%2e%2fposter",
    ],
)
def test_no_address_leaves_its_folder(server: Running, path: str) -> None:
    said = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", iter(()))
    assert said.split(b" ", 2)[1] in (b"404", b"400")
    assert b"root:" not in said


def test_layers_and_exports_are_not_paths(server: Running) -> None:
    stack = server.stack()
    base = f"/v1/stacks/{stack['id']}"
    for path in (f"{base}/layers/..%2f..%2foriginal.png", f"{base}/layers/../original.png.png", f"{base}%2f..%2fx"):
        assert server.get(path).status == 404
    for name in ("..%2fzip", "zip%2f..%2f..", "folder", "exe"):
        assert server.get(f"{base}/export/{name}").status in (404, 422)


def archive(members: dict[str, bytes], link: str = "") -> bytes:
    """A zip with any names in it."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)
        if link:
            info = zipfile.ZipInfo("link.png")
            info.external_attr = 0o120777 << 16
            target.writestr(info, link)
    return file.getvalue()


def test_archives_never_leave_their_folder(server: Running, tmp_path: Path) -> None:
    unfuse.decompose(picture_of(), 2, engine="fake").save(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        good = {name: opened.read(name) for name in opened.namelist()}
    manifest = json.loads(good["manifest.json"])
    outside = tmp_path / "outside.png"
    shutil.copy(tmp_path / "a.zip", outside)
    manifest["layers"][0]["file"] = "../../outside.png"
    files = [
        archive(good | {"../../evil.png": b"x"}),
        archive(good | {"/evil.png": b"x"}),
        archive(good | {"C:\\evil.png": b"x"}),
        archive(good, link="/etc/passwd"),
        archive(good | {"manifest.json": json.dumps(manifest).encode()}),
        archive(good | {"bomb.png": bytes(40 << 20)}),
        archive({"manifest.json": b'{"a":' * 100_000}),
        archive({}),
        b"PK\x03\x04" + bytes(100),
        b"8BPS" + bytes(100),
    ]
    before = {path for path in Path(server.log.name).parent.rglob("*") if "evil" in path.name}
    for number, data in enumerate(files):
        answer = server.ask("POST", "/v1/stacks", file=("file", "../../../evil.zip", data, {}))
        assert answer.status == 422, (number, answer.body)
        assert answer.error == "FormatError", (number, answer.body)
        assert str(tmp_path.parent) not in answer.json["error"]["message"]
    assert {path for path in Path(server.log.name).parent.rglob("*") if "evil" in path.name} == before
    sent = server.ask("POST", "/v1/stacks", file=("file", "../../../evil.zip", archive(good), {}))
    assert (sent.status, sent.json["name"]) == (201, "evil")


def test_a_canvas_or_a_layer_that_is_too_large_is_refused(server: Running) -> None:
    stack = server.stack()
    base = f"/v1/stacks/{stack['id']}"
    for edit in ({"op": "canvas", "width": 90_000, "height": 90_000}, {"op": "scale", "layer": 0, "factor": 9000}):
        answer = server.post(f"{base}/edits", {"edits": [edit]})
        assert answer.status == 422, answer.body
    assert server.get(base).json == stack


def test_a_slow_client_keeps_nobody_waiting(server: Running) -> None:
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
    try:
        for line in lines:
            line.sendall(b"POST /v1/decompositions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
        began = time.monotonic()
        assert server.get("/v1/stacks").status == 200
        assert time.monotonic() - began < 30
    finally:
        for line in lines:
            line.close()
