import httpx
import pytest

from godwit.base.errors import Failure
from godwit.client.failures import ApiFailure
from godwit.client.transport import Transport
from godwit.testing.fake_api import JumpingClock


class Server:
    """Answers in turn what it is given; an exception is a broken connection."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    async def __call__(self, request):
        await request.aread()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def transport(server, **more):
    clock = JumpingClock()
    made = Transport(
        "http://api.test/ignored",
        more.pop("token", "t"),
        http=httpx.MockTransport(server),
        pauses=clock,
    )
    return made, clock


async def test_sends_token_agent_and_the_parameters_that_are_set():
    server = Server(httpx.Response(200, json={"ok": 1}))
    api, _ = transport(server)
    assert await api.get("/v1/x", query={"a": 1, "b": True, "c": None}) == {"ok": 1}
    request = server.requests[0]
    assert str(request.url) == "http://api.test/v1/x?a=1&b=true"
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["user-agent"].startswith("godwit/")


async def test_an_empty_answer_is_nothing():
    api, _ = transport(Server(httpx.Response(204)))
    assert await api.call("DELETE", "/v1/x") is None


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("status", [429, 502, 503])
async def test_a_refusal_that_passes_is_tried_again_three_times(method, status):
    server = Server(*[httpx.Response(status) for _ in range(3)], httpx.Response(200, json=[]))
    api, clock = transport(server)
    assert await api.call(method, "/v1/x", body={"a": 1}) == []
    assert [request.content for request in server.requests] == [b'{"a":1}'] * 4
    assert clock.slept == [0.25, 0.5, 1.0]


async def test_a_server_may_say_how_long_to_wait():
    server = Server(httpx.Response(429, headers={"retry-after": "2"}), httpx.Response(200, json=1))
    api, clock = transport(server)
    assert await api.get("/v1/x") == 1
    assert clock.slept == [2.0]


async def test_a_refusal_that_stays_is_told():
    server = Server(*[httpx.Response(503, json={"error": "down"}) for _ in range(4)])
    api, _ = transport(server)
    with pytest.raises(ApiFailure) as caught:
        await api.get("/v1/x")
    assert (caught.value.code, caught.value.message) == ("unavailable", "down")
    assert len(server.requests) == 4


async def test_a_full_region_is_not_asked_again():
    body = {"error": "no room", "status": "insufficient_capacity"}
    server = Server(httpx.Response(503, json=body))
    api, _ = transport(server)
    with pytest.raises(Failure) as caught:
        await api.call("POST", "/v1/x", body={})
    assert caught.value.code == "insufficient_capacity"


async def test_a_read_survives_two_broken_connections():
    server = Server(
        httpx.ReadError("reset"), httpx.ReadError("reset"), httpx.Response(200, json=1)
    )
    api, _ = transport(server)
    assert await api.get("/v1/x") == 1


async def test_a_change_is_not_sent_again_after_a_broken_connection():
    server = Server(httpx.ReadError("reset"))
    api, _ = transport(server)
    with pytest.raises(Failure) as caught:
        await api.call("POST", "/v1/x", body={})
    assert caught.value.code == "unavailable"
    assert caught.value.message == "the connection to http://api.test/ignored broke: reset"


async def test_an_api_that_is_not_there_is_told_with_what_to_do():
    api, _ = transport(Server(httpx.ConnectError("refused")))
    with pytest.raises(Failure) as caught:
        await api.get("/v1/x")
    assert caught.value.code == "unavailable"
    assert caught.value.message == "nothing answers at http://api.test/ignored"
    assert "godwit up" in caught.value.hint


async def test_an_answer_that_does_not_come_in_time_is_a_deadline():
    api, _ = transport(Server(httpx.ReadTimeout("slow")))
    with pytest.raises(Failure) as caught:
        await api.get("/v1/x")
    assert caught.value.code == "deadline_exceeded"


async def test_something_that_is_not_json_is_not_believed():
    api, _ = transport(Server(httpx.Response(200, text="<html>")))
    with pytest.raises(Failure, match="not JSON"):
        await api.get("/v1/x")


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, {"error": "bad config"}, "invalid_argument", "bad config"),
        (401, {"message": "Unauthorized"}, "unauthenticated", "Unauthorized"),
        (403, {"error": "not yours"}, "permission_denied", "not yours"),
        (404, {"error": "gone"}, "not_found", "gone"),
        (408, {"error": "deadline_exceeded: too slow"}, "deadline_exceeded", "too slow"),
        (409, {"error": "stale"}, "conflict", "stale"),
        (412, {"error": "failed_precondition: running"}, "failed_precondition", "running"),
        (422, {"error": "taken", "status": "name_taken"}, "already_exists", "taken"),
        (500, {"error": "oops"}, "internal", "oops"),
        (418, {}, "invalid_argument", "the API answered 418 I'm a teapot: {}"),
        (400, {"error": "manifest_unknown: no x"}, "manifest_unknown", "no x"),
        (400, {"error": "manifest_unknown: a (MANIFEST_UNKNOWN)"}, "manifest_unknown", "a"),
        (400, {"error": "weird: x"}, "invalid_argument", "weird: x"),
    ],
)
async def test_a_refusal_keeps_the_servers_words_and_gets_a_code(status, body, code, message):
    headers = {"fly-request-id": "req-1"}
    api, _ = transport(Server(httpx.Response(status, json=body, headers=headers)))
    with pytest.raises(ApiFailure) as caught:
        await api.get("/v1/x")
    failure = caught.value
    assert (failure.code, failure.message, failure.status) == (code, message, status)
    assert failure.request_id == "req-1"


async def test_a_hint_of_the_server_is_passed_on():
    api, _ = transport(Server(httpx.Response(400, json={"error": "x", "hint": "do y"})))
    with pytest.raises(ApiFailure) as caught:
        await api.get("/v1/x")
    assert caught.value.hint == "do y"


async def test_a_queue_is_stood_in_for_longer_than_a_refusal():
    queue = [httpx.Response(429, headers={"retry-after": "1"}) for _ in range(12)]
    server = Server(*queue, httpx.Response(200, json=1))
    api, clock = transport(server)
    assert await api.call("POST", "/v1/x") == 1
    assert clock.slept == [1.0] * 12


async def test_a_queue_that_never_ends_is_told():
    server = Server(*[httpx.Response(429, json={"error": "rate_limited: no"})] * 40)
    api, _ = transport(server)
    with pytest.raises(ApiFailure) as caught:
        await api.get("/v1/x")
    assert caught.value.code == "rate_limited"
    assert len(server.requests) < 40
