"""A stand-in for the Hugging Face Hub on this machine, which keeps what it is sent."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the stub was asked and holds.

    ``refuse`` gives the status of the answer to a request whose path has the text; ``private`` is what it says of the
    repository.
    """

    address: str = ""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    private: bool = True
    tokens: set[str] = field(default_factory=set)

    def sent(self, part: str) -> list[Any]:
        """The bodies of the requests whose path has the text."""
        return [body for _, path, body in self.requests if part in path]


@contextmanager
def stub_hub() -> Iterator[Hub]:
    """Serves until the context ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self._read()
            self._answer("POST", data, json.loads(data) if not self.path.endswith(("/main", "/side")) else data)

        def do_PUT(self) -> None:
            self._answer("PUT", self._read(), None)

        def do_GET(self) -> None:
            self._answer("GET", b"", None)

        def _read(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def _answer(self, method: str, data: bytes, body: Any) -> None:
            hub.requests.append((method, self.path, body))
            hub.tokens.add(self.headers.get("Authorization", ""))
            status = next((code for part, code in hub.refuse.items() if part in self.path), 200)
            content = {"error": f"refused with {status}"} if status != 200 else _answer(hub, self.path, data)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler


def _answer(hub: Hub, path: str, data: bytes) -> Any:
    if path == "/api/repos/create":
        name = json.loads(data)
        return {"url": f"{hub.address}/{name.get('organization', 'me')}/{name['name']}"}
    if "/preupload/" in path:
        return {"files": [_mode(each["path"]) for each in json.loads(data)["files"]]}
    if path.endswith("/info/lfs/objects/batch"):
        return {"transfer": "basic", "objects": [_object(hub, each) for each in json.loads(data)["objects"]]}
    if "/blob/" in path:
        hub.blobs[path.rpartition("/")[2]] = data
    if "/commit/" in path:
        _commit(hub, data)
        return {"commitUrl": f"{hub.address}/me/model/commit/1", "commitOid": "1", "success": True}
    if path.startswith("/api/models/"):
        return {"id": path.removeprefix("/api/models/"), "private": hub.private}
    return {}


def _mode(path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}


def _object(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    """Of a file that the Hub has already there is nothing to do."""
    answer = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
    if asked["oid"] in hub.blobs:
        return answer
    return {**answer, "actions": {"upload": {"href": f"{hub.address}/blob/{asked['oid']}"}}}


def _commit(hub: Hub, data: bytes) -> None:
    for line in map(json.loads, data.splitlines()):
        if line["key"] == "file":
            hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        if line["key"] == "lfsFile":
            hub.files[line["value"]["path"]] = hub.blobs[line["value"]["oid"]]
