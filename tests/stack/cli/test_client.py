"""The client against a small real HTTP server: problems, pages, and events that survive a lost connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.cli import client as calling
from service.cli import main
from service.cli.client import Client, ServiceError, read_events

Answer = tuple[int, str, bytes]
Serve = Callable[[Callable[[BaseHTTPRequestHandler], Answer]], Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    closing: list[Callable[[], None]] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], Answer]) -> Client:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, media, body = answer(self)
                self.send_response(status)
                self.send_header("Content-Type", media)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = Client(f"http://127.0.0.1:{server.server_port}/")
        closing.extend([client.close, server.shutdown, thread.join, server.server_close])
        return client

    yield start
    for close in closing:
        close()


def test_events_go_on_after_a_lost_connection(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        asked.append(request.headers["Last-Event-ID"])
        first = int(asked[-1]) + 1
        if len(asked) == 2:
            return 503, "application/json", b'{"type": "t", "title": "Not ready", "status": 503, "detail": "starting"}'
        events = [(1, "queued"), (2, "claimed"), (3, "progress"), (4, "succeeded"), (5, "after the end")]
        upto = 3 if len(asked) == 1 else 5
        text = "".join(f'id: {n}\nevent: {t}\ndata: {{"n": {n}}}\n\n' for n, t in events if first <= n <= upto)
        return 200, "text/event-stream", b": hello\n\n" + text.encode()

    client = serve(answer)
    seen = [(event["id"], event["type"], event["data"]["n"]) for event in client.events("j")]
    assert seen == [(1, "queued", 1), (2, "claimed", 2), (3, "progress", 3), (4, "succeeded", 4)]
    assert asked == ["0", "3", "3"]


def test_events_of_an_unknown_job_are_refused_at_once(serve: Serve) -> None:
    client = serve(
        lambda _: (404, "application/problem+json", b'{"type":"t","title":"T","status":404,"detail":"no job"}')
    )
    with pytest.raises(ServiceError, match="no job"):
        list(client.events("absent"))


def test_events_give_up_on_a_service_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "GIVE_UP_SECONDS", 0.1)
    with pytest.raises(ServiceError, match="latentserve up"):
        list(Client("http://127.0.0.1:9").events("j"))


def test_lines_become_events() -> None:
    lines = [
        ": comment",
        "",
        "event: progress",
        "id: 7",
        'data: {"a":',
        "data: 1}",
        "",
        "retry: 10",
        "",
        "data: {}",
        "",
    ]
    assert list(read_events(iter(lines))) == [
        {"id": 7, "type": "progress", "data": {"a": 1}},
        {"id": 0, "type": "message", "data": {}},
    ]


def test_pages_follow_one_another(serve: Serve) -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        asked.append(request.path)
        page = {"items": [{"n": len(asked)}], "next": "c" if len(asked) == 1 else None}
        return 200, "application/json", json.dumps(page).encode()

    assert list(serve(answer).pages("/models")) == [{"n": 1}, {"n": 2}]
    assert asked == ["/models", "/models?after=c"]


def test_an_answer_that_is_no_problem_document_is_shown(serve: Serve) -> None:
    client = serve(lambda _: (502, "text/html", b"<h1>proxy asleep</h1>"))
    with pytest.raises(ServiceError, match=r"502.*proxy asleep"):
        client.get("/models")
    with pytest.raises(ServiceError, match="proxy asleep"):
        list(client.download("/models/a/download"))


def test_problems_are_printed_and_the_exit_code_is_1(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {
        "type": "urn:latentserve:problem:invalid-input",
        "title": "Invalid input",
        "status": 422,
        "detail": "no such column",
        "errors": [{"location": "inputs[0].age", "message": "is [bold]unknown"}],
    }
    client = serve(lambda _: (422, "application/problem+json", json.dumps(problem).encode()))
    assert main(["models", "list", "--url", client.url]) == 1
    shown = capsys.readouterr()
    assert "no such column" in shown.err
    assert "inputs[0].age: is [bold]unknown" in shown.err
    assert main([f"--url={client.url}", "--json", "models", "list"]) == 1
    assert json.loads(capsys.readouterr().err) == problem


def test_a_service_that_is_away_says_how_to_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list", "--url", "http://127.0.0.1:9"]) == 1
    assert "latentserve up" in " ".join(capsys.readouterr().err.split())
    assert main(["models", "export", "a", "--url", "http://127.0.0.1:9", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["status"] == 503


@pytest.mark.parametrize(
    "line",
    [
        ["fly"],
        ["models", "show"],
        ["sample", "m", "-n", "0"],
        ["train", "m", "--dataset", "d", "--family", "pca", "--set", "width"],
        ["similarity", "m", "-"],
        ["models", "delete", "m@latest"],
        ["models", "list", "--url"],
    ],
)
def test_wrong_usage_is_exit_code_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert capsys.readouterr().err


def test_help_needs_no_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("up", "train", "log-prob", "similarity", "datasets", "jobs", "models"))
