"""What `sample --temperature` sends, against a small real HTTP server: one number, or one per group of latents."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cli import main
from service.tensors import write_npy


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ([], 1.0),
        (["--temperature", "0.5"], 0.5),
        (["--temperature", "0.5", "--temperature", "1"], [0.5, 1.0]),
    ],
)
def test_temperatures_are_sent_the_top_group_first(options: list[str], sent: object, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer("application/json", b'{"manifest": {"data": {"modality": "table"}}}')

        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer("application/x-npy", write_npy(np.zeros((2, 3))))

        def answer(self, media: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    output = tmp_path / "rows.npy"
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert main(["sample", "m", "-n", "2", "-o", str(output), "--url", url, *options]) == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [body["temperature"] for body in bodies] == [sent]
    assert np.load(output).shape == (2, 3)
