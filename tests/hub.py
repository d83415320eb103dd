"""A Hugging Face hub on this machine: the protocol that the real loaders speak, over folders of small files, with faults.

`HF_ENDPOINT` must be set before `huggingface_hub` is imported, so what uses this hub runs in a process of its own
(`Hub.environment`).
"""

import hashlib
import json
import os
import re
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dm_utils

TESTS = Path(__file__).resolve().parent
LARGE = (".safetensors", ".npz", ".zst", ".bin")  # what the hub keeps as large files, listed by SHA-256
ERRORS = {  # status and X-Error-Code of the hub's refusals
    "unauthorized": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "no repository": (404, "RepoNotFound"),
    "no revision": (404, "RevisionNotFound"),
    "no entry": (404, "EntryNotFound"),
    "too many": (429, None),
    "unavailable": (503, None),
    "broken": (500, None),
}


@dataclass
class Fault:
    """What goes wrong, for requests whose path matches, so many times.

    A key of ERRORS; truncate, corrupt, slow; echo (the token is said back); the address of another host, to redirect to.
    """

    what: str
    path: str
    times: int = 10**9


@dataclass
class Repository:
    """Files by path, as the main branch has them at a commit that is a hash of them."""

    files: dict[str, bytes]
    commit: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + hashlib.sha256(content).digest())
        self.commit = digest.hexdigest()

    def entry(self, path):
        """One file of a listing."""
        content = self.files[path]
        found = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if path.endswith(LARGE):
            pointer = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            found |= {"lfs": pointer, "oid": git_hash(pointer["oid"].encode())}
        return found

    def etag(self, path):
        """The hash under which a file is served: SHA-256 of a large file, else git's."""
        entry = self.entry(path)
        return entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]

    def listing(self, folder, recursive):
        """The entries below a folder: all files, or files and folders directly below it."""
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in sorted(self.files) if path.startswith(prefix)]
        if recursive:
            return [self.entry(path) for path in inside]
        heads = {path[len(prefix) :].split("/")[0]: path for path in inside}
        return [
            self.entry(path) if path == prefix + head else {"type": "directory", "path": prefix + head, "oid": "0" * 40}
            for head, path in heads.items()
        ]


def git_hash(content):
    """The hash that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub:
    """The server; `repositories` maps ("models" or "datasets", "owner/name") to what it serves."""

    def __init__(self, repositories):
        self.repositories = repositories
        self.faults = []
        self.requests = []
        self.tokens = []  # the Authorization of each request
        self.lock = threading.Lock()
        hub = self

        class Handler(Answers):
            served = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home):
        """What a process needs in its environment to use this hub and nothing else, with a cache in `home`."""
        fresh = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        fresh |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        fresh |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        tested = Path(dm_utils.__file__).parents[1]  # the package of this process, wherever it comes from
        here = [str(TESTS), str(tested), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return fresh | {"PYTHONPATH": os.pathsep.join(path for path in here if path)}

    def fault_for(self, command, path):
        """The first fault that applies to a request, used up by one. What spoils contents waits for a GET."""
        with self.lock:
            for fault in self.faults:
                applies = fault.what not in ("truncate", "corrupt", "slow") or (
                    command == "GET" and "/resolve/" in path
                )
                if fault.times > 0 and applies and re.search(fault.path, path):
                    fault.times -= 1
                    return fault.what
        return None


class Answers(BaseHTTPRequestHandler):
    """The routes of the hub that its clients use."""

    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, *_):
        """Keep the test's output clean."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(urllib.parse.parse_qs(body.decode()))

    def answer(self, form=None):
        """Find the repository and the route."""
        url = urllib.parse.urlsplit(self.path)
        path, query = urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query)
        self.served.requests.append((self.command, path, self.headers.get("Range")))
        self.served.tokens.append(self.headers.get("Authorization"))
        fault = self.served.fault_for(self.command, path)
        if fault == "echo":
            return self.echo()
        if fault in ERRORS:
            return self.refuse(*ERRORS[fault])
        api = re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?", path
        )
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            kind, name, route, revision, inside = api.groups()
        elif file:
            kind, (name, revision, inside), route = "datasets" if file[1] else "models", file.groups()[1:], "resolve"
        else:
            return self.refuse(404, None)
        repository = self.served.repositories.get((kind, name))
        if repository is None:
            return self.refuse(*ERRORS["unauthorized"])  # as the hub does, to strangers
        if revision not in (None, "main", repository.commit, *repository.tags):
            return self.refuse(*ERRORS["no revision"])
        if (fault or "").startswith("http") and route != "resolve":
            return self.send(307, b"", {"Location": fault + self.path})
        if route == "tree":
            return self.json(repository.listing(inside or "", query.get("recursive", [""])[0].lower() in ("1", "true")))
        if route == "paths-info":
            return self.json([repository.entry(p) for p in form.get("paths", []) if p in repository.files])
        if route == "resolve":
            return self.file(repository, inside, fault)
        siblings = [{"rfilename": path} for path in repository.files]
        return self.json({"id": name, "sha": repository.commit, "private": False, "gated": False, "siblings": siblings})

    def json(self, value):
        """Send an answer of the API."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code):
        """Send one of the hub's refusals."""
        self.send(status, b"{}", {"X-Error-Code": code} if code else {"Retry-After": "0"} if status == 429 else {})

    def echo(self):
        """Refuse by saying back what should stay between the two: the token."""
        said = self.headers.get("Authorization", "no token")
        body = json.dumps({"error": said, "said": [said.removeprefix("Bearer ")]}).encode()
        self.send(400, body, {"X-Error-Message": said, "Content-Type": "application/json", "X-Request-Id": said[7:]})

    def send(self, status, body, headers):
        """Send a whole answer."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, repository, path, fault):
        """Send a file or the range of it that is asked for, as the fault has it."""
        if path not in repository.files:
            return self.refuse(*ERRORS["no entry"])
        content = repository.files[path]
        etag, size = repository.etag(path), len(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)} if path.endswith(LARGE) else {}
        if (fault or "").startswith("http"):
            return self.send(302, b"", headers | {"Location": fault + self.path})
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
            status, content = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        if fault == "corrupt":
            content = bytes(byte ^ 0xFF for byte in content[:64]) + content[64:]
        if self.command == "HEAD" or fault not in ("truncate", "slow"):
            return self.send(status, content, headers)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "truncate":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        for start in range(0, len(content), max(1, len(content) // 20)):
            self.wfile.write(content[start : start + max(1, len(content) // 20)])
            self.wfile.flush()
            time.sleep(0.05)
        return None
