"""A hub with one repository, org/net, that answers what huggingface_hub asks."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


@contextmanager
def hub(folder: Path, asked: list[tuple[str, str]]) -> Iterator[str]:
    """Its address. `asked` gets the place and the range of every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            place = self.path.partition("?")[0]
            asked.append((place, self.headers.get("Range", "")))
            if place.startswith("/api/models/org/net/tree/"):
                self.send_json([entry(path) for path in sorted(folder.iterdir())])
            elif place.startswith("/api/models/org/net"):
                self.send_json({"id": "org/net", "sha": COMMIT, "siblings": []})
            elif found := re.fullmatch(r"/org/net/resolve/[^/]+/(.*)", place):
                self.send_part((folder / found[1]).read_bytes())
            else:
                self.send_json({"error": "Repository Not Found"}, 404)

        def send_json(self, value: object, status: int = 200) -> None:
            self.send(status, json.dumps(value).encode(), {"X-Error-Code": "RepoNotFound"})

        def send_part(self, data: bytes) -> None:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            assert found, "the whole file was asked for"
            headers = {"Content-Range": f"bytes {found[1]}-{found[2]}/{len(data)}"}
            self.send(206, data[int(found[1]) : int(found[2]) + 1], headers)

        def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    def entry(path: Path) -> dict[str, object]:
        return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
