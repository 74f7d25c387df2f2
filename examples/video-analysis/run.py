"""Find faces in the frames of a video.

The job's input comes from the environment: VIDEO_URL (a path, or an http, https or file URL) and SESSION_ID. Prints
progress, and as its last line one JSON object with the result.

Exit codes: 0 done; 66 no such video (EX_NOINPUT); 78 a model is missing or does not load (EX_CONFIG), which is the
host's fault: the job definition retries on it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from lib.config import ConfigError, Inputs, Settings
from lib.faces import find_faces
from lib.model import Frame, Model
from lib.text import count_text_regions
from lib.video import VideoError, fetched, frames, safe_name

EX_OK, EX_NOINPUT, EX_CONFIG = 0, 66, 78
PROGRESS_EVERY = 12
"""Frames between two lines of progress."""


@dataclass(frozen=True)
class Analysis:
    """The loaded models with their settings."""

    settings: Settings
    faces: Model
    text: Model

    @classmethod
    def load(cls, inputs: Inputs) -> Self:
        """Load everything that the host mounts; raises `ConfigError`."""
        inputs.require()
        return cls(Settings.load(inputs.experiment), Model.load(inputs.face_model), Model.load(inputs.text_model))

    def count_faces(self, frame: Frame) -> int:
        """Count the faces in one frame."""
        s = self.settings
        return len(find_faces(self.faces, frame, threshold=s.face_threshold, overlap=s.face_overlap))

    def count_text(self, frame: Frame) -> int:
        """Count the text regions in one frame."""
        s = self.settings
        return count_text_regions(self.text, frame, threshold=s.text_threshold, least_pixels=s.text_least_pixels)


def analyse(analysis: Analysis, url: str) -> dict[str, Any]:
    """Go through a video; raises `VideoError`."""
    faces: list[int] = []
    text: dict[int, int] = {}
    with fetched(url) as path:
        for number, frame in enumerate(frames(path, longest_side=analysis.settings.longest_side)):
            faces.append(analysis.count_faces(frame))
            if number % analysis.settings.text_every == 0:
                text[number] = analysis.count_text(frame)
            if len(faces) % PROGRESS_EVERY == 0:
                print(f"frame {len(faces)}: {sum(faces)} faces so far", flush=True)
    return {
        "frames": len(faces),
        "faces_per_frame": faces,
        "faces": sum(faces),
        "text_regions_by_frame": text,
    }


def self_test(analysis: Analysis) -> dict[str, Any]:
    """Run every model once on a generated frame: the image works, whatever the video."""
    side = analysis.settings.longest_side // 32 * 32
    frame = np.random.default_rng(seed=0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return {"self_test": "ok", "faces": analysis.count_faces(frame), "text_regions": analysis.count_text(frame)}


def main(arguments: list[str] | None = None) -> int:
    """Run as the container's command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Find faces in the frames of a video.")
    parser.add_argument("--self-test", action="store_true", help="run every model once, without a video")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        analysis = Analysis.load(Inputs.from_environment())
        print(f"models loaded in {time.monotonic() - started:.2f} s on {analysis.faces.provider}", flush=True)
        if options.self_test:
            result = self_test(analysis)
        else:
            url = os.environ.get("VIDEO_URL", "")
            print(f"video {safe_name(url)}", flush=True)
            result = {"session": os.environ.get("SESSION_ID", ""), **analyse(analysis, url)}
    except ConfigError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return EX_CONFIG
    except VideoError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return EX_NOINPUT
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({**result, "model_sha256": analysis.faces.sha256, "seconds": seconds}))
    return EX_OK


if __name__ == "__main__":
    sys.exit(main())
