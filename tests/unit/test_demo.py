"""What the demo makes of the commands' answers; the whole of it is run by its own session."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from splitbake.demo import story
from splitbake.demo.loop import Loop
from splitbake.errors import SplitbakeError

SECONDS = {"build image": 2.0, "verify image": 8.0, "release": 1.0, "smoke": 5.0}


def one_round() -> story.Round:
    checks = [{"name": "size", "passed": True}, {"name": "mode", "passed": True}]
    return story.Round(
        lock={},
        built={
            "ami": {"id": "ami-1", "fingerprint": "sha256:a", "reused": False, "size": 12},
            "image": {"id": "sha256:1", "fingerprint": "sha256:b", "reused": False, "size": 34},
        },
        verified={half: {"passed": True, "checks": checks} for half in ("ami", "image")},
        release={"terraform_diff_lines": 1, "launch_template_version": 2},
        job={"status": "SUCCEEDED", "result": {"frames": 2, "faces": 3, "faces_per_frame": [1, 2]}},
        seconds=SECONDS,
    )


def test_the_summary_says_all_that_a_machine_may_ask():
    body = story.summary(one_round(), one_round(), shipped=7, total=20.04)
    first = {key: value for key, value in body.items() if key not in {"second_round", "total_seconds"}}
    assert body == {
        "ami_id": "ami-1",
        "ami_fingerprint": "sha256:a",
        "ami_reused": False,
        "image_digest": "sha256:1",
        "image_fingerprint": "sha256:b",
        "image_size_bytes": 34,
        "models_size_bytes": 12,
        "verified": {half: {"passed": True, "checks": 2, "failed": 0} for half in ("ami", "image")},
        "terraform_diff_lines": 1,
        "launch_template_version": 2,
        "job": {"status": "SUCCEEDED", "result": {"frames": 2, "faces": 3, "faces_per_frame": [1, 2]}},
        "seconds": SECONDS,
        "second_round": {**first, "shipped_bytes": 7},
        "total_seconds": 20.0,
    }


def test_the_story_tells_result_and_comparison(capsys):
    story.show_result(one_round())
    story.show_comparison(one_round(), one_round(), 7)
    told = capsys.readouterr().out
    assert "SUCCEEDED, 3 faces in 2 frames" in told
    assert "faces per frame: 1 2" in told
    assert "11.0 s (build image 2.0, verify image 8.0, release 1.0)" in told


def test_the_words_of_a_command_that_fails_are_passed_on(tmp_path):
    loop = Loop(tmp_path, {})
    with pytest.raises(SplitbakeError, match=r"splitbake\.yaml does not exist") as caught:
        loop.run("lock", "lock")
    assert "--manifest" in caught.value.hint
    assert loop.seconds.keys() == {"lock"}


def test_an_interrupt_ends_the_commands_and_waits_for_them(tmp_path, monkeypatch):
    started: list[subprocess.Popen[str]] = []

    def start(self, arguments):
        script = "import time; print('ready', flush=True); time.sleep(60)"
        started.append(
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    def interrupt(self, stage, process):
        if stage == "second":
            raise KeyboardInterrupt
        return process.communicate()

    monkeypatch.setattr(Loop, "_start", start)
    monkeypatch.setattr(Loop, "_answer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Loop(tmp_path, {}).run_together({"second": [], "first": []})
    assert [process.wait(10) for process in started] == [-signal.SIGTERM] * 2
    for process in started:
        process.communicate()
