"""A Hugging Face hub on this machine, small and strict: what `huggingface_hub` asks the real one.

Repositories are chains of commits in memory. Weights and pictures go through Git LFS, as there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE = (".safetensors", ".png", ".pt")
TOKENS = {"hf_writer": ("me", True), "hf_reader": ("me", False), "hf_other": ("other", True)}
"""Token → whose it is, and whether it may write."""


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        told = json.dumps([branch, sorted(files), len(self.commits), message]).encode()
        sha = hashlib.sha1(told).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


class FakeHub:
    """What the hub holds, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.fail: Callable[[str, str], int] | None = None
        """(method, path) → a status to answer with; −1 to hang up; 0 to do what is asked."""
        self.endpoint = ""

    def make(self, name: str, files: dict[str, bytes] | None = None, **more: Any) -> Repository:
        found = self.repositories[name] = Repository(**more)
        found.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}, "")
        return found


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X_Error_Code": code} if code else {}
        headers |= {"X_Error_Message": message} if message else {}
        self._answer(status, {"error": message or code}, **headers)

    def _all(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        hub = self.hub
        hub.requests.append(f"{self.command} {path}")
        failure = hub.fail(self.command, path) if hub.fail else 0
        if failure < 0:
            self.close_connection = True
            self.connection.close()
            return
        if failure:
            self._refuse(failure, message="as the test says")
            return
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and given not in TOKENS:
            self._refuse(401, message="Invalid credentials in Authorization header")
            return
        self.user, self.writes = TOKENS.get(given, ("", False))
        for method, pattern, action in _ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                action(self, **match.groupdict())
                return
        self._refuse(404, message=f"the test's hub knows no {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = _all

    def _repository(self, name: str) -> Repository | None:
        """The repository, if it may be seen; otherwise the answer is given."""
        found = self.hub.repositories.get(name)
        owner = name.split("/")[0]
        if found is None or (found.private and owner != self.user):
            self._refuse(404 if self.user else 401, "RepoNotFound", "Repository not found")
            return None
        if found.gated and owner != self.user:
            self._refuse(403 if self.user else 401, "GatedRepo", "Access is restricted")
            return None
        return found

    def _commit_of(self, found: Repository, revision: str) -> str | None:
        sha = found.at(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _may_write(self, name: str) -> bool:
        if name.split("/")[0] == self.user and self.writes:
            return True
        self._refuse(403 if self.user else 401, message="You don't have the rights to write here")
        return False

    def info(self, name: str, revision: str = "main") -> None:
        if (found := self._repository(name)) and (sha := self._commit_of(found, revision)):
            siblings = [_sibling(path, data) for path, data in found.commits[sha].items()]
            self._answer(
                200,
                {"id": name, "modelId": name, "sha": sha, "private": found.private,
                 "gated": found.gated, "siblings": siblings, "tags": [], "downloads": 0},
            )  # fmt: skip

    def tree(self, name: str, revision: str) -> None:
        if (found := self._repository(name)) and (sha := self._commit_of(found, revision)):
            entries = []
            for path, data in found.commits[sha].items():
                one = _sibling(path, data)
                entries.append({"type": "file", "path": path, "size": one["size"],
                                "oid": one["blobId"],
                                **({"lfs": one["lfs"]} if one["lfs"] else {})})  # fmt: skip
            self._answer(200, entries)

    def refs(self, name: str) -> None:
        if found := self._repository(name):
            branches = [
                {"name": key, "ref": f"refs/heads/{key}", "targetCommit": sha}
                for key, sha in found.branches.items()
            ]
            self._answer(200, {"branches": branches, "converts": [], "tags": []})

    def branch(self, name: str, branch: str) -> None:
        if (found := self._repository(name)) and self._may_write(name):
            if branch in found.branches:
                self._refuse(409, message="Reference already exists")
            else:
                found.branches[branch] = found.branches["main"]
                self._answer(200, {})

    def resolve(self, name: str, revision: str, file: str) -> None:
        if not (found := self._repository(name)) or not (sha := self._commit_of(found, revision)):
            return
        data = found.commits[sha].get(file)
        if data is None:
            self._answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        large = file.endswith(LARGE)
        digest = hashlib.sha256(data).hexdigest() if large else git_digest(data)
        headers = {"X_Repo_Commit": sha, "ETag": f'"{digest}"', "Content_Length": str(len(data))}
        if large:
            headers |= {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(data))}
        self._answer(200, data, **headers)

    def create(self) -> None:
        told = json.loads(self.body)
        owner = told.get("organization") or self.user
        name = f"{owner}/{told['name']}"
        if not self._may_write(name):
            return
        if name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": name})
            return
        private = told.get("private") is True or told.get("visibility") == "private"
        self.hub.make(name, private=private)
        self._answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def yaml(self) -> None:
        content = json.loads(self.body)["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors = [] if front and "license:" in front[1] else [{"message": "no license"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        if not (found := self._repository(name)) or not self._may_write(name):
            return
        if sha := self._commit_of(found, revision):
            told = []
            for one in json.loads(self.body)["files"]:
                there = found.commits[sha].get(one["path"])
                mode = "lfs" if one["path"].endswith(LARGE) else "regular"
                told.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False})
                if there is not None:
                    digest = hashlib.sha256(there).hexdigest() if mode == "lfs" else None
                    told[-1]["oid"] = digest or git_digest(there)
            self._answer(200, {"files": told})

    def batch(self, name: str) -> None:
        if not self._repository(name) or not self._may_write(name):
            return
        told = []
        for one in json.loads(self.body)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                href = f"{self.hub.endpoint}/lfs/{one['oid']}"
                entry["actions"] = {"upload": {"href": href, "header": {}}}
            told.append(entry)
        self._answer(200, {"transfer": "basic", "objects": told})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._refuse(400, message="another content than was announced")
            return
        self.hub.objects[oid] = self.body
        self._answer(200)

    def commit(self, name: str, revision: str) -> None:
        if not (found := self._repository(name)) or not self._may_write(name):
            return
        if not (sha := self._commit_of(found, revision)):
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", sha) != sha:
            self._refuse(412, message="the branch has moved on")
            return
        files = dict(found.commits[sha])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._refuse(400, message=f"{value['path']} was not uploaded")
                    return
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        new = found.commit(revision, files, header["summary"])
        self._answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{new}",
                           "commitOid": new, "pullRequestUrl": None})  # fmt: skip


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    large = path.endswith(LARGE)
    sha = hashlib.sha256(data).hexdigest()
    lfs = {"sha256": sha, "oid": sha, "size": len(data), "pointerSize": 134} if large else None
    return {"rfilename": path, "size": len(data), "blobId": git_digest(data), "lfs": lfs}


_NAME, _FILE = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<file>.+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", f"/api/models/{_NAME}", _Handler.info),
    ("GET", f"/api/models/{_NAME}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", f"/api/models/{_NAME}/tree/(?P<revision>.+)", _Handler.tree),
    ("GET", f"/api/models/{_NAME}/refs", _Handler.refs),
    ("POST", f"/api/models/{_NAME}/branch/(?P<branch>.+)", _Handler.branch),
    ("GET", rf"/{_NAME}/resolve/(?P<revision>[^/]+|refs/[^/]+/[^/]+)/{_FILE}", _Handler.resolve),
    ("HEAD", rf"/{_NAME}/resolve/(?P<revision>[^/]+|refs/[^/]+/[^/]+)/{_FILE}", _Handler.resolve),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.yaml),
    ("POST", f"/api/models/{_NAME}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    ("POST", f"/api/models/{_NAME}/commit/(?P<revision>.+)", _Handler.commit),
]


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub that answers at its `endpoint` while the context lasts."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
