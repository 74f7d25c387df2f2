"""The way through Session Manager: our side of it. The plugin and AWS's data channel are stood in for."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from splitbake.errors import ToolError
from splitbake.verify import ssh, tunnel

TOKEN = "a token that nobody may read"
INSTANCE = "i-0123456789abcdef0"
#: Tells how it was called, and carries what it is sent, as the plugin does for SSH.
PLUGIN = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print(os.environ.get("PLUGIN_VERSION", "1.2.835.0")))
with open(os.environ["PLUGIN_TOLD"], "w") as told:
    json.dump({{"argv": sys.argv[1:], "answer": json.loads(os.environ[sys.argv[1]])}}, told)
sys.stdout.write(sys.stdin.read().upper())
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the plugin on PATH; the file gets what it was told."""
    program = tmp_path / "bin" / tunnel.PLUGIN
    program.parent.mkdir()
    program.write_text(PLUGIN, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PLUGIN_TOLD", str(tmp_path / "told.json"))
    return tmp_path / "told.json"


class SystemsManager(BaseHTTPRequestHandler):
    """Answers StartSession for our instance alone, as the API does."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        assert self.headers["X-Amz-Target"] == "AmazonSSM.StartSession"
        wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(wish)
        if wish["Target"] != INSTANCE:
            self.answer(400, {"__type": "TargetNotConnected", "message": f"{wish['Target']} is not connected."})
        else:
            self.answer(200, {"SessionId": "me-1", "StreamUrl": "wss://x", "TokenValue": TOKEN})

    def answer(self, status: int, body: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(SystemsManager, "asked", [], raising=False)
    server = HTTPServer(("127.0.0.1", 0), SystemsManager)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def through(command: str, sent: str) -> subprocess.CompletedProcess[str]:
    """Run a ProxyCommand as ssh does: by a shell, after its own percent signs."""
    argv = ["sh", "-c", f"exec {command.replace('%%', '%')}"]
    return subprocess.run(argv, input=sent, capture_output=True, text=True, check=False)


def test_bytes_go_through_and_the_token_is_no_argument(endpoint: str, plugin: Path) -> None:
    done = through(tunnel.proxy_command(INSTANCE, "eu-west-1", endpoint), "ssh-2.0\n")
    assert (done.stdout, done.stderr, done.returncode) == ("SSH-2.0\n", "", 0)
    wish = {"Target": INSTANCE, "DocumentName": "AWS-StartSSHSession", "Parameters": {"portNumber": ["22"]}}
    assert SystemsManager.asked == [wish]
    told = json.loads(plugin.read_text(encoding="utf-8"))
    variable, region, verb, profile, again, where = told["argv"]
    assert (variable, region, verb, profile) == ("AWS_SSM_START_SESSION_RESPONSE", "eu-west-1", "StartSession", "")
    assert json.loads(again) == wish
    assert where == endpoint
    assert told["answer"] == {"SessionId": "me-1", "StreamUrl": "wss://x", "TokenValue": TOKEN}
    assert TOKEN not in "".join(told["argv"])


def test_modules_of_the_users_folder_are_none_of_ours(
    endpoint: str, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "json.py").write_text("raise SystemExit('the user has a json.py')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "project")
    done = through(tunnel.proxy_command(INSTANCE, "eu-west-1", endpoint), "ssh-2.0\n")
    assert (done.stdout, done.stderr) == ("SSH-2.0\n", "")


def test_an_instance_that_is_not_connected_is_said_in_one_line(endpoint: str, plugin: Path) -> None:
    done = through(tunnel.proxy_command("i-00000000000000000", "eu-west-1", endpoint), "")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "open a session to i-00000000000000000" in line
    assert "TargetNotConnected" in line
    assert not plugin.exists()


def test_ssh_gets_the_command_whole(tmp_path: Path) -> None:
    config = ssh.configure(tmp_path, user="ec2-user", private_key=tmp_path / "a key")
    command = tunnel.proxy_command(INSTANCE, "eu-west-1", "http://x/%20y z")
    ssh.add_host(config, "instance", address=INSTANCE, proxy=command)
    shown = subprocess.run(["ssh", "-G", "-F", str(config), "instance"], capture_output=True, text=True, check=True)
    lines = dict(line.split(" ", 1) for line in shown.stdout.splitlines())
    assert lines["hostname"] == INSTANCE
    argv = shlex.split(lines["proxycommand"].replace("%%", "%"))
    assert argv[0] == sys.executable
    assert argv[-3:] == [INSTANCE, "eu-west-1", "http://x/%20y z"]


def test_a_current_plugin_will_do(plugin: Path) -> None:
    tunnel.require_plugin()


@pytest.mark.parametrize(
    ("version", "status"),
    [("1.2.889.0", "broken"), ("1.2.688.0", "too old"), ("1.2.497.0", "too old"), ("", "missing")],
)
def test_a_plugin_that_opens_no_session_is_refused(plugin: Path, monkeypatch: Any, version: str, status: str) -> None:
    monkeypatch.setenv("PLUGIN_VERSION", version)
    with pytest.raises(ToolError, match=f"Session Manager plugin is {status}.*working-with-install-plugin"):
        tunnel.require_plugin()


def test_a_plugin_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="Session Manager plugin is missing: install"):
        tunnel.require_plugin()
