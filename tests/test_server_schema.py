"""The API is what its description says: schemathesis makes requests of it, right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
schemathesis = pytest.importorskip("schemathesis")

from serving import Running  # noqa: E402

EXAMPLES = 6  # of each operation


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("schema") / "data", "--queue", "1000", "--queue-each", "1000")
    yield running
    running.stop()


def test_answers_follow_the_description(server: Running) -> None:
    api = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    # Bytes out of the air are no picture, so a request that follows the description may be refused all the same.
    excluded = [schemathesis.checks.positive_data_acceptance]
    stack = server.stack(layers=2)
    known = {"stack": stack["id"], "layer": stack["layers"][1]["id"], "picture": f"{stack['layers'][1]['id']}.png"}
    wrong = []
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), real=st.booleans())
        def check(case: Any, real: bool) -> None:
            if real and case.method != "DELETE":
                case.path_parameters.update({key: known[key] for key in known if key in case.path_parameters})
            case.call_and_validate(excluded_checks=excluded)

        try:
            check()
        except Exception as error:  # of every kind of check; all are told together
            each = getattr(error, "exceptions", [error])
            wrong.append(f"{operation.label}: {'; '.join(str(inner) for inner in each)}")
    assert not wrong, "\n\n".join(wrong)


def test_the_description(server: Running) -> None:
    told = server.get("/openapi.json").json
    assert told["openapi"].startswith("3.1")
    routes = {path for path in told["paths"] if path.startswith("/v1/")}
    assert {"/v1/decompositions", "/v1/jobs/{job}/events", "/v1/stacks/{stack}/edits"} <= routes
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
    for name in ("Job", "Stack", "Recipe", "Position", "ErrorDetail"):
        assert "example" in str(told["components"]["schemas"][name]), name
