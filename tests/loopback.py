"""A server on the loopback in the place of the net: of GitHub, of a package index, and of the hub."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class Net:
    """Serves a mirror's folder. github/ is at the root, as raw files of GitHub are; simple/ is an index of packages;
    datasets/ and models/ are what the hub's client asks for. ranges : whether a Range is heeded. cut : the bytes that
    are sent of one answer, None for all. asked : (path, Range) of every request."""

    def __init__(self, folder: Path):
        self.folder, self.ranges, self.cut, self.asked = folder, True, None, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"net": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def content(self, path, query, body):
        """(bytes, headers) of what lies at an address; None if nothing does."""
        api = r"/api/(datasets|models)/([^/]+/[^/]+)/(revision|tree|paths-info)/([^/]+)/?(.*)"
        if asked := re.fullmatch(api, path):
            kind, name, what, revision, below = asked.groups()
            if not (self.folder / kind / name).is_dir():
                return None
            answer = self._hub(self._files(kind, name), what, below, query, body, {"id": name, "sha": revision})
            return json.dumps(answer).encode(), {"Content-Type": "application/json"}
        if asked := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            content = self._files("datasets" if asked[1] else "models", asked[2]).get(asked[4])
            return None if content is None else (content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": asked[3]})
        places = (self.folder / "github" / path[1:], self.folder / path[1:], self.folder / path[1:] / "index.html")
        file = next((file for file in places if file.is_file()), None)
        return file and (file.read_bytes(), {"Content-Type": "text/html" if file.suffix == ".html" else "a/b"})

    def _files(self, kind, name):
        """Files of a repository of the hub; a data set's card says which split lies where."""
        base = self.folder / kind / name
        files = {file.relative_to(base).as_posix(): file.read_bytes() for file in base.rglob("*") if file.is_file()}
        if kind == "datasets":
            configs = {}
            for path in sorted(files):
                configs.setdefault(path.split("/")[0], []).append({"split": Path(path).stem, "path": path})
            card = {"configs": [{"config_name": name, "data_files": of} for name, of in configs.items()]}
            files["README.md"] = f"---\n{json.dumps(card)}\n---\n".encode()  # JSON is YAML
        return files

    @staticmethod
    def _hub(files, what, below, query, body, info):
        folders = {"/".join(path.split("/")[:i]) for path in files for i in range(1, path.count("/") + 1)}
        entries = [{"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                   for path, content in files.items()]
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]
        if what == "revision":
            return info | {"siblings": [{"rfilename": path, "size": len(content)} for path, content in files.items()],
                           "private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0}
        if what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            return [entry for entry in entries if entry["path"] in wanted]
        deep, prefix = "true" in query.get("recursive", ["false"])[0].lower(), f"{below}/" if below else ""
        return [entry for entry in entries if entry["path"].startswith(prefix)
                and (deep or "/" not in entry["path"][len(prefix):])]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(b"")

    def do_HEAD(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body):
        self.net.asked.append((self.path, self.headers["Range"]))
        url = urlsplit(self.path)
        found = self.net.content(unquote(url.path), parse_qs(url.query), body)
        content, headers = found or (b"", {"X-Error-Code": "EntryNotFound"})
        start, heeded = 0, self.net.ranges and re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if heeded:
            start = int(heeded[1])
        self.send_response(404 if not found else 206 if heeded else 200)
        for name, value in {**headers, "Content-Length": len(content) - start}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[start:][:self.net.cut])
        self.close_connection = self.close_connection or self.net.cut is not None

    def log_message(self, *args):
        pass


def _oid(content):
    return hashlib.sha1(content).hexdigest()
