"""A small Hugging Face Hub in this process: repositories in memory, over HTTP."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_TheSecretTokenOfTheTest"
USER = "ann"


class Hub:
    """The repositories' files by name, each repository's newest commit, and what was requested.

    Attributes:
        repositories: Files by path, by the name of the repository.
        private: Names of repositories that need the token.
        read_only: Whether the token may not write.
        requests: Methods and paths of all requests.
        sizes: Sizes that the listing states in place of the true ones, by path.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.read_only = False
        self.requests: list[str] = []
        self.sizes: dict[str, int] = {}
        self.uploads: dict[str, bytes] = {}
        self.commits = 0
        self.url = ""

    def sha(self, name: str) -> str:
        """The newest commit of a repository."""
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """Runs a hub on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
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

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, X_Error_Code=code)

    def _handle(self) -> None:
        self.path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.path == "/api/whoami-v2":
            self._answer(200, {"name": USER, "orgs": []}) if has_token else self._answer(401, {"error": "Invalid"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body), has_token)
        elif self.path.startswith("/upload/"):
            self.hub.uploads[self.path.rpartition("/")[2]] = body
            self._answer(200)
        else:
            self._of_repository(body, has_token)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815  (http.server's names)

    def _create(self, asked: dict[str, Any], has_token: bool) -> None:
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if not has_token or self.hub.read_only or asked["organization"] != USER:
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif name in self.hub.repositories:
            self._answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        else:
            self.hub.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs"}
            if asked.get("visibility") == "private":
                self.hub.private.add(name)
            self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def _of_repository(self, body: bytes, has_token: bool) -> None:
        name, rest = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?((?:/.*)?)", self.path).groups()
        files = self.hub.repositories.get(name)
        if files is None or (name in self.hub.private and not has_token):
            self._refuse(401 if not has_token else 404, "RepoNotFound")
        elif rest == "" or rest.startswith("/revision/"):
            self._list(name, files, rest.removeprefix("/revision/"))
        elif rest == "/auth-check/write":
            may_write = has_token and not self.hub.read_only and name.startswith(f"{USER}/")
            self._answer(200) if may_write else self._answer(403, {"error": "Forbidden"})
        elif rest.startswith("/preupload/"):
            asked = [each["path"] for each in json.loads(body)["files"]]
            modes = [(path, "lfs" if path.endswith((".safetensors", ".mp4")) else "regular") for path in asked]
            self._answer(200, {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes]})
        elif rest.startswith("/info/lfs/"):
            self._lfs(json.loads(body))
        elif rest.startswith("/commit/"):
            self._commit(name, files, body, has_token)
        else:
            path = rest.split("/", 3)[3]
            self._resolve(name, files.get(path))

    def _list(self, name: str, files: dict[str, bytes], revision: str) -> None:
        if revision not in ("", "main", self.hub.sha(name)):
            self._refuse(404, "RevisionNotFound")
            return
        siblings = [
            {"rfilename": path, "size": self.hub.sizes.get(path, len(content)), "blobId": "0"}
            for path, content in files.items()
        ]
        self._answer(200, {"id": name, "modelId": name, "sha": self.hub.sha(name), "siblings": siblings})

    def _lfs(self, asked: dict[str, Any]) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, files: dict[str, bytes], body: bytes, has_token: bool) -> None:
        if not has_token or self.hub.read_only:
            self._answer(403, {"error": "Forbidden"})
            return
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.commits += 1
        sha = self.hub.sha(name)
        self._answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    def _resolve(self, name: str, content: bytes | None) -> None:
        if content is None:
            self._refuse(404, "EntryNotFound")
        else:
            self._answer(200, content, X_Repo_Commit=self.hub.sha(name), ETag=f'"{hashlib.sha1(content).hexdigest()}"')
