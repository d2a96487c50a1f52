"""Alert rules as they stand in a settings file, and a web server that they notify."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any


class Hook:
    """A web server that notes the JSON that it is sent, such as messages of apprise's json://."""

    received: list[dict[str, Any]]
    requests: list[tuple[str, str]]
    """Method and path of each."""

    def __init__(self) -> None:
        received, requests = self.received, self.requests = [], []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                requests.append((self.command, self.path))
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            do_PUT = do_POST  # noqa: N815 - named by http.server

            def log_message(self, format: str, *args: object) -> None:
                """Do not log."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"json://127.0.0.1:{self.server.server_port}"


def rule(name: str, **fields: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["[[alerts]]", f'name = "{name}"', *lines, ""])
