"""A stand-in of the Hugging Face Hub on 127.0.0.1: repositories in memory, large files by LFS, ranges, and faults.

It also serves plain files, as other hosts do.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".onnx")


@dataclass
class Hub:
    """What the server holds, `{repository: {path: content}}`, and what was asked of it."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)  # by path, outside the repositories
    down: bool = False  # answers downloads of these with an error
    fails_after_cut: bool = False  # from then on
    asked: list[str] = field(default_factory=list)
    token: str | None = None  # needed to write, if given
    cut: int | None = None  # the next download ends after that many bytes

    def revision(self, name: str) -> str:
        """The commit of a repository: its content's sha1."""
        digest = hashlib.sha1()
        for path, content in sorted(self.repositories[name].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A server that runs during the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Length": str(len(content)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.asked.append(f"POST {path}")
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.answer(401, {"error": "Invalid username or password."})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(filter(None, (given.get("organization"), given["name"])))
            new = name not in self.hub.repositories
            self.hub.repositories.setdefault(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.answer(200 if new else 409, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/.+", path):
            files = json.loads(body)["files"]
            modes = {f["path"]: "lfs" if f["path"].endswith(LARGE) else "regular" for f in files}
            self.answer(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            made = []
            for wanted in json.loads(body)["objects"]:
                upload = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
                made.append({"oid": wanted["oid"], "size": wanted["size"], "actions": upload})
            self.answer(200, {"transfer": "basic", "objects": made})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
            held = self.hub.repositories[found[1]]
            for entry in map(json.loads, body.splitlines()):
                value = entry["value"]
                if entry["key"] == "file":
                    held[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    held[value["path"]] = self.hub.objects[value["oid"]]
            oid = self.hub.revision(found[1])
            self.answer(200, {"commitUrl": f"{self.hub.url}/{found[1]}/commit/{oid}", "commitOid": oid})
        else:
            self.answer(404, {"error": path})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        self.hub.asked.append(f"PUT {len(content)}")
        if hashlib.sha256(content).hexdigest() != oid:
            self.answer(400, {"error": "another content"})
            return
        self.hub.objects[oid] = content
        self.answer(200, b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name = found[1] if found else file[1] if file else ""
        if path in self.hub.files:
            if self.hub.down and self.command == "GET":
                self.answer(403, {"error": "not now"})
            else:
                self.send_content(self.hub.files[path], True, {})
        elif name not in self.hub.repositories:
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif found and found[2] != "tree":
            self.answer(200, {"id": name, "sha": self.hub.revision(name), "siblings": [], "private": False})
        elif found:
            self.answer(200, [self.entry(p, c) for p, c in self.hub.repositories[name].items()])
        elif file and file[3] in self.hub.repositories[name]:
            self.send_file(name, file[3], self.hub.repositories[name][file[3]])
        else:
            self.refuse(404, "EntryNotFound", "Entry not found")

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(content).hexdigest()
        made: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            made["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return made

    def send_file(self, name: str, path: str, content: bytes) -> None:
        self.send_content(content, path.endswith(LARGE), {"X-Repo-Commit": self.hub.revision(name)})

    def send_content(self, content: bytes, large: bool, facts: dict[str, str]) -> None:
        digest = hashlib.sha256 if large else hashlib.sha1
        headers = {"ETag": f'"{digest(content).hexdigest()}"', "Accept-Ranges": "bytes", **facts}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if self.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
            asked = None
        start, end = int(asked[1]) if asked else 0, int(asked[2]) + 1 if asked and asked[2] else len(content)
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            self.hub.asked.append(f"range {start}")
        part = content[start:end]
        if self.command == "GET" and self.hub.cut is not None and large:
            cut, self.hub.cut, self.hub.down = self.hub.cut, None, self.hub.fails_after_cut
            self.send_response(206 if asked else 200)
            for key, value in {**headers, "Content-Length": str(len(part))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(part[:cut])
            self.wfile.flush()
            self.close_connection = True
            return
        self.answer(206 if asked else 200, part, headers)
