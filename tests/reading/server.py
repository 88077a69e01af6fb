"""A web server with the files of a folder, and some that misbehave."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """The folder that is served, whether in parts, and every request that came."""

    folder: Path
    sends_parts: bool = True
    says_so: bool = True
    failures: int = 0
    floods: bool = False
    changes: bool = False
    stalls: bool = False
    delay: float = 0.0
    busy: int = 0
    most_busy: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    ended = threading.Event()

    @contextmanager
    def working() -> Iterator[None]:
        served.busy += 1
        served.most_busy = max(served.most_busy, served.busy)
        ended.wait(served.delay)
        try:
            yield
        finally:
            served.busy -= 1

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            place, parts = self.path, self.headers.get("Range", "")
            served.requests.append((place, parts))
            if place.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", place.removeprefix("/to/"))
                self.end_headers()
            elif place == "/forbidden":
                self.send_error(403)
            elif body and served.stalls:
                self.close_connection = True
                ended.wait(30)
            elif body and served.failures:
                served.failures -= 1
                self.send_error(503)
            elif not (served.folder / place.lstrip("/")).is_file():
                self.send_error(404)
            else:
                with working():
                    self.send_file((served.folder / place.lstrip("/")).read_bytes(), parts, body)

        def send_file(self, data: bytes, parts: str, body: bool) -> None:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", parts) if served.sends_parts else None
            whole = len(data)
            if found and served.floods and found[1] != "1":
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{whole}")
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(bytes(1 << 20))
            if found:
                data = data[int(found[1]) : int(found[2]) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{whole}")
            else:
                self.send_response(200)
            if served.changes:
                self.send_header("ETag", f'"{len(served.requests)}"')
            if served.says_so:
                self.send_header("Accept-Ranges", "bytes" if served.sends_parts else "none")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
