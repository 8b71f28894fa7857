"""Who may call, from where, and what a request outside of the routes gets. (HTTP reference, section 1.2.)"""

import httpx
import pytest

from front.conftest import StartFront
from front.running_front import RunningFront
from tpu_tgi.router.routes import OPERATIONS

BODY = {"inputs": "a eos-1"}


def test_an_api_key_guards_the_routes_that_infer_and_no_others(start_front: StartFront) -> None:
    with start_front(api_key="Secret-1") as front:
        for operation in OPERATIONS:
            response = front.client.request(operation.method, operation.path, json=BODY)
            if operation.needs_key:
                assert (response.status_code, response.content) == (401, b""), operation.path
                assert "www-authenticate" not in response.headers
            else:
                assert response.status_code != 401, operation.path
        assert {operation.path for operation in OPERATIONS if operation.needs_key} >= {
            "/", "/generate", "/generate_stream",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer Secret-1", 200),
        ("bearer sEcReT-1", 200),
        ("Bearer Secret-2", 401),
        ("Bearer  Secret-1", 401),
        ("Basic Secret-1", 401),
        ("Secret-1", 401),
        ("", 401),
        ("Bearer Sécret-1", 401),
    ],
)
def test_the_whole_header_is_compared_without_regard_to_case(
    start_front: StartFront, given: str, status: int
) -> None:
    with start_front(api_key="Secret-1") as front:
        headers = httpx.Headers([(b"authorization", given.encode("latin-1"))])
        assert front.client.post("/generate", json=BODY, headers=headers).status_code == status


def test_without_an_api_key_any_header_will_do(front: RunningFront) -> None:
    headers = {"authorization": "Bearer whatever"}
    assert front.client.post("/generate", json=BODY, headers=headers).status_code == 200


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


def test_web_pages_from_everywhere_may_call(front: RunningFront) -> None:
    headers = {"origin": "http://page"}
    preflight = front.client.options("/generate", headers=headers | PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert set(preflight.headers["access-control-allow-methods"].split(", ")) == {"GET", "POST"}
    answer = front.client.post("/generate", json=BODY, headers=headers)
    assert answer.headers["access-control-allow-origin"] == "*"
    for refused in (front.client.get("/nothing", headers=headers), front.generate("", temperature=0)):
        assert refused.status_code in (404, 422)


def test_only_listed_origins_may_call_if_any_are_listed(start_front: StartFront) -> None:
    with start_front(cors_allow_origin=("http://page", "http://other"), api_key="x") as front:
        # Browsers send a preflight without the key.
        granted = front.client.options("/generate", headers={"origin": "http://page"} | PREFLIGHT)
        assert granted.status_code == 200
        assert granted.headers["access-control-allow-origin"] == "http://page"
        refused = front.client.options("/generate", headers={"origin": "http://third"} | PREFLIGHT)
        assert "access-control-allow-origin" not in refused.headers
        answer = front.client.get("/info", headers={"origin": "http://third"})
        assert "access-control-allow-origin" not in answer.headers


def test_a_web_page_may_not_send_the_key_itself(front: RunningFront) -> None:
    """The stock router grants one header, so browsers stop here."""
    asked = {"origin": "http://page", "access-control-request-method": "POST"}
    headers = {**asked, "access-control-request-headers": "authorization"}
    granted = front.client.options("/generate", headers=headers).headers["access-control-allow-headers"]
    assert "authorization" not in granted.lower()


def test_head_is_answered_wherever_get_is(front: RunningFront) -> None:
    for operation in OPERATIONS:
        if operation.method == "GET":
            head, get = front.client.head(operation.path), front.client.get(operation.path)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers["content-type"] == get.headers["content-type"] if get.content else True


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/generate", "POST"),
        ("DELETE", "/", "POST,GET,HEAD"),
        ("POST", "/health", "GET,HEAD"),
        ("PUT", "/info", "GET,HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    front: RunningFront, method: str, path: str, allow: str
) -> None:
    response = front.client.request(method, path)
    assert (response.status_code, response.content) == (405, b"")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("traceparent", ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", "garbage", ""])
def test_a_trace_is_tolerated(front: RunningFront, traceparent: str) -> None:
    response = front.client.post("/generate", json=BODY, headers={"traceparent": traceparent})
    assert response.status_code == 200


def test_each_of_several_keys_lets_a_client_in(start_front: StartFront) -> None:
    with start_front(api_keys=("one-1", "two-2")) as front:
        statuses = {
            key: front.client.post(
                "/tokenize", json={"inputs": "a"}, headers={"authorization": f"Bearer {key}"}
            ).status_code
            for key in ("one-1", "two-2", "one-2")
        }
        assert statuses == {"one-1": 200, "two-2": 200, "one-2": 401}


def test_the_model_is_called_what_the_operator_says(start_front: StartFront) -> None:
    with start_front(served_model_name="mine") as front:
        assert front.client.get("/info").json()["model_id"] == "mine"
        assert front.client.get("/v1/models").json()["data"][0]["id"] == "mine"
        assert front.chat("a eos-1").json()["model"] == "mine"
