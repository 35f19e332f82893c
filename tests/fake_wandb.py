"""A W&B server on this machine that accepts every run, or refuses every key, and remembers what it was sent."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Server(ThreadingHTTPServer):
    """What W&B's client asks for in a run that uploads metrics: GraphQL for the run, a stream of lines for its history.

    Attributes:
        requests: Method and path of each request.
        history: By the run's id, the logged rows in the order in which they came.
        summaries: By the run's id, W&B's state of it: `running`, `finished` …
    """

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.requests: list[str] = []
        self.history: dict[str, list[dict[str, Any]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "UpsertBucket" in query:
            project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": variables.get("name"), "displayName": "run", "config": "{}"}
            return {"upsertBucket": {"bucket": {**bucket, "project": project, "historyLineCount": 0}, "inserted": True}}
        if "ResumeStatus" in query:
            rows = self.history.get(variables["name"])
            bucket = rows and {
                "id": "b",
                "name": variables["name"],
                "summaryMetrics": "{}",
                "config": "{}",
                "historyLineCount": len(rows),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps([json.dumps(rows[-1])]),
                "eventsTail": "[]",
                "wandbConfig": json.dumps({"t": 1}),
            }
            return {"model": {"id": "p", "name": "vitlab", "entity": {"id": "e", "name": "me"}, "bucket": bucket}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "v", "flags": "{}", "entity": "me", "username": "me", "teams": {"edges": []}}}
        return {"serverInfo": {"features": []}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append(f"{self.command} {self.path}")
        reply: dict[str, Any] = {}
        status = self.server.status
        if self.path == "/graphql":
            asked = json.loads(body)
            if status == 200:
                reply = {"data": self.server.answer(asked["query"], asked.get("variables") or {})}
            else:
                reply = {"errors": [{"message": "user is not logged in"}]}
        elif self.path.endswith("/file_stream"):
            stream = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if stream:
                rows = self.server.history.setdefault(self.path.split("/")[-2], [])
                del rows[stream["offset"] :]
                rows += [json.loads(line) for line in stream["content"]]
        text = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_GET = do_POST

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@contextmanager
def wandb_server(status: int = 200) -> Iterator[Server]:
    """Serve while the block runs; leaving it, W&B is away."""
    server = Server(status)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
