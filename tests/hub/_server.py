"""A stand-in of the Hub on 127.0.0.1: as much of its HTTP API as pushing and pulling files takes.

Repositories have branches of commits, and commits have files; large ones go through LFS and come back by a redirect to
"storage", as from the Hub. It holds uploads to what they say of themselves: sizes, hashes, YAML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_stand_in"  # noqa: S105 - what the stand-in takes
_LFS_SUFFIXES = (".safetensors", ".parquet")
_SHA = re.compile("[0-9a-f]{40}")


@dataclass
class Repo:
    """Branches by name, each the last of its commits; commits by their hash, each all files by name."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, changed: dict[str, bytes], message: str = "", branch: str = "main") -> str:
        """Add a commit to a branch and return its hash."""
        before = self.branches.get(branch, self.branches.get("main", ""))
        files = {**self.commits.get(before, {}), **changed}
        number = f"{before} {len(self.commits)} {sorted(files)}"
        sha = hashlib.sha1(number.encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.branches["main"]]


class Hub:
    """Serves `repos`, by "models/owner/name" and "datasets/owner/name", until closed."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}  # LFS objects by their sha256
        self.requests: list[str] = []
        self.tokens_to_storage: list[str] = []
        self.failing: int | None = None  # answer with this status
        hub = self

        class Handler(_Handler):
            def __init__(self, *given: Any) -> None:
                self.hub = hub
                super().__init__(*given)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def repo(self, name: str, **how: Any) -> Repo:
        """Add a repository that is empty."""
        self.repos[name] = Repo(**how)
        self.repos[name].commit({}, "initial commit")
        return self.repos[name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._handle("HEAD")

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def _handle(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{method} {path}")
        if self.hub.failing is not None:
            self._send(self.hub.failing, b"no")
            return
        for pattern, methods, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found is not None and method in methods:
                answer(self, *found.groups())
                return
        self._send(404, b"no such page")

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # no connection outlives the server
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def _error(self, status: int, code: str, message: str = "", **headers: str) -> None:
        self._send(status, X_Error_Code=code, X_Error_Message=message or code, **headers)

    @property
    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _writable(self) -> bool:
        if self._authorized:
            return True
        self._error(401, "", "Invalid credentials in Authorization header")
        return False

    def _readable(self, kind: str | None, name: str) -> Repo | None:
        repo = self.hub.repos.get(f"{kind or 'models/'}{name}")
        if repo is None or (repo.private and not self._authorized):
            self._error(401 if not self._authorized else 404, "RepoNotFound", "Repository not found")
        elif repo.gated and not self._authorized:
            self._error(403, "GatedRepo", "Access is restricted")
        else:
            return repo
        return None

    def _commit_of(self, repo: Repo, revision: str) -> str | None:
        sha = revision if _SHA.fullmatch(revision) else repo.branches.get(revision)
        if sha is None or sha not in repo.commits:
            self._error(404, "RevisionNotFound")
            return None
        return sha

    def _create(self) -> None:
        if not self._writable():
            return
        asked = json.loads(self.body)
        name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
        page = f"{self.hub.url}/{name.removeprefix('models/')}"
        if name in self.hub.repos:
            self._json({"error": "You already created this repo", "url": page}, 409)
            return
        self.hub.repo(name, private=asked.get("private", asked.get("visibility") == "private"))
        self._json({"url": page})

    def _validate(self) -> None:
        header = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            found = yaml.safe_load(header[1]) if header is not None else {}
            if "license" in found and not re.fullmatch(r"[a-z0-9.-]+", found["license"]):
                raise ValueError('"license" must be one of those that are known')
            for model in found.get("model-index", []):
                for result in model["results"]:
                    assert result["task"]["type"]
                    assert result["dataset"]["type"]
                    assert result["dataset"]["name"]
                    assert all("value" in metric and metric["type"] for metric in result["metrics"])
        except (yaml.YAMLError, ValueError, KeyError, AssertionError) as error:
            self._json({"errors": [{"message": f"{error}"}], "warnings": []}, 400)
            return
        self._json({"errors": [], "warnings": []})

    def _preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self._readable(kind, name)
        if repo is None or not self._writable() or self._commit_of(repo, revision) is None:
            return
        modes = [
            {
                "path": asked["path"],
                "uploadMode": "lfs" if asked["path"].endswith(_LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for asked in json.loads(self.body)["files"]
        ]
        self._json({"files": modes})

    def _lfs_batch(self, kind: str | None, name: str) -> None:
        if self._readable(kind, name) is None or not self._writable():
            return
        asked = json.loads(self.body)
        assert asked["operation"] == "upload"
        objects = []
        for of in asked["objects"]:
            answer = {"oid": of["oid"], "size": of["size"]}
            if of["oid"] not in self.hub.stored:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/storage/{of['oid']}"},
                    "verify": {"href": f"{self.hub.url}/storage/{of['oid']}/verify"},
                }
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _storage(self, oid: str) -> None:
        if (token := self.headers.get("Authorization")) is not None:
            self.hub.tokens_to_storage.append(token)
        if self.command == "PUT":
            good = hashlib.sha256(self.body).hexdigest() == oid
            if good:
                self.hub.stored[oid] = self.body
            self._send(200 if good else 400)
        elif oid in self.hub.stored:
            self._send(200, self.hub.stored[oid])
        else:
            self._send(404)

    def _lfs_verify(self, oid: str) -> None:
        asked = json.loads(self.body)
        good = asked["oid"] == oid and len(self.hub.stored.get(oid, b"")) == asked["size"]
        self._send(200 if good else 400)

    def _commit(self, kind: str, name: str, revision: str) -> None:
        repo = self._readable(kind, name)
        if repo is None or not self._writable() or self._commit_of(repo, revision) is None:
            return
        header, *changes = (json.loads(line) for line in self.body.splitlines())
        assert header["key"] == "header"
        changed = {}
        for change in changes:
            of = change["value"]
            if change["key"] == "file":
                assert of["encoding"] == "base64"
                changed[of["path"]] = base64.b64decode(of["content"])
            else:
                assert change["key"] == "lfsFile"
                assert of["algo"] == "sha256"
                changed[of["path"]] = self.hub.stored[of["oid"]]
        sha = repo.commit(changed, header["value"]["summary"], revision)
        page = f"{kind.removeprefix('models/')}{name}"
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{page}/commit/{sha}"})

    def _branch(self, kind: str, name: str, branch: str) -> None:
        repo = self._readable(kind, name)
        if repo is None or not self._writable():
            return
        if branch in repo.branches:
            self._json({"error": "Reference already exists"}, 409)
            return
        repo.branches[branch] = repo.branches["main"]
        self._json({})

    def _info(self, kind: str, name: str, revision: str | None) -> None:
        repo = self._readable(kind, name)
        if repo is None or (sha := self._commit_of(repo, revision or "main")) is None:
            return
        siblings = [{"rfilename": file} for file in repo.commits[sha]]
        self._json({"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []})

    def _tree(self, kind: str, name: str, revision: str) -> None:
        repo = self._readable(kind, name)
        if repo is None or (sha := self._commit_of(repo, revision)) is None:
            return
        files = repo.commits[sha].items()
        self._json([{"type": "file", "path": file, "size": len(data), "oid": _git(data)} for file, data in files])

    def _resolve(self, kind: str | None, name: str, revision: str, file: str) -> None:
        repo = self._readable(kind, name)
        if repo is None or (sha := self._commit_of(repo, revision)) is None:
            return
        if file not in repo.commits[sha]:
            self._error(404, "EntryNotFound", X_Repo_Commit=sha)
            return
        data = repo.commits[sha][file]
        if not file.endswith(_LFS_SUFFIXES):
            self._send(200, data, X_Repo_Commit=sha, ETag=f'"{_git(data)}"')
            return
        oid = hashlib.sha256(data).hexdigest()
        self.hub.stored[oid] = data
        # By another name of this machine: storage is not the Hub, and gets no token.
        where = self.hub.url.replace("127.0.0.1", "localhost")
        linked = {"X_Linked_ETag": f'"{oid}"', "X_Linked_Size": str(len(data))}
        self._send(302, X_Repo_Commit=sha, Location=f"{where}/storage/{oid}", **linked)

    def log_message(self, *_: object) -> None:
        pass


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


_KIND = r"(models/|datasets/)"
_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, tuple[str, ...], Any]] = [
    ("/api/repos/create", ("POST",), _Handler._create),
    ("/api/validate-yaml", ("POST",), _Handler._validate),
    (f"/api/{_KIND}{_REPO}/preupload/(.+)", ("POST",), _Handler._preupload),
    (f"/(datasets/)?{_REPO}\\.git/info/lfs/objects/batch", ("POST",), _Handler._lfs_batch),
    ("/storage/([0-9a-f]{64})", ("PUT", "GET", "HEAD"), _Handler._storage),
    ("/storage/([0-9a-f]{64})/verify", ("POST",), _Handler._lfs_verify),
    (f"/api/{_KIND}{_REPO}/commit/(.+)", ("POST",), _Handler._commit),
    (f"/api/{_KIND}{_REPO}/branch/(.+)", ("POST",), _Handler._branch),
    (f"/api/{_KIND}{_REPO}/tree/([^/]+)", ("GET",), _Handler._tree),
    (f"/api/{_KIND}{_REPO}(?:/revision/(.+))?", ("GET",), _Handler._info),
    (f"/(datasets/)?{_REPO}/resolve/([^/]+)/(.+)", ("GET", "HEAD"), _Handler._resolve),
]
