"""What the demo tells at its end, and the summary for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from splitbake import ui
from splitbake.units import format_seconds, format_size

#: What the same loop took in the systems that splitbake replaces: one 17 GB image with everything in it.
OLD_WAY = {
    "image size": "17 GB",
    "code change, until it is released": "30 min",
    "what a code change ships": "17 GB",
    "models come": "inside the image, with each pull",
}


@dataclass(frozen=True)
class Round:
    """The answers of the commands of one round, as their ``--json`` gave them."""

    lock: dict[str, Any]
    built: dict[str, Any]
    verified: dict[str, Any]
    release: dict[str, Any]
    job: dict[str, Any]
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds from the first command of the round to the job's result."""
        return sum(self.seconds.values())


def tell(line: str) -> None:
    """Print one line of the story."""
    click.echo(line)


def show_result(first: Round) -> None:
    """Print what the job found."""
    result = first.job["result"]
    tell(f"\nThe job on the released pair: {first.job['status']}, {result['faces']} faces in {result['frames']} frames")
    tell(f"  faces per frame: {' '.join(str(count) for count in result['faces_per_frame'])}")


def show_comparison(first: Round, second: Round, shipped: int) -> None:
    """Print old way / this way; the old figures are those of systems in use, these were measured just now.

    ``shipped`` is what the second round pushed, in compressed bytes.
    """
    image = second.built["image"]
    rows = [
        ("image size", OLD_WAY["image size"], f"{format_size(image['size'])} uncompressed"),
        (
            "models come",
            OLD_WAY["models come"],
            f"with the AMI, {format_size(first.built['ami']['size'])}, mounted read-only",
        ),
        (
            "what a code change ships",
            OLD_WAY["what a code change ships"],
            f"{format_size(shipped)} (the changed layers)",
        ),
        ("code change, until it is released", OLD_WAY["code change, until it is released"], _until_released(second)),
        ("first round, both halves", "-", format_seconds(first.total)),
    ]
    ui.table("Old way / this way", ("", "all in one 17 GB image", "here, just now (small models)"), rows)


def _until_released(second: Round) -> str:
    parts = ("build image", "verify image", "release")
    spent = {part: second.seconds[part] for part in parts}
    detail = ", ".join(f"{part} {seconds:.1f}" for part, seconds in spent.items())
    return f"{format_seconds(sum(spent.values()))} ({detail})"


def summary(first: Round, second: Round, *, shipped: int, total: float) -> dict[str, Any]:
    """Return the body of ``build/demo/summary.json``."""
    again = {**_round(second), "shipped_bytes": shipped}
    return {**_round(first), "second_round": again, "total_seconds": round(total, 1)}


def _round(one: Round) -> dict[str, Any]:
    ami, image = one.built["ami"], one.built["image"]
    return {
        "ami_id": ami["id"],
        "ami_fingerprint": ami["fingerprint"],
        "ami_reused": ami["reused"],
        "image_digest": image["id"],
        "image_fingerprint": image["fingerprint"],
        "image_size_bytes": image["size"],
        "models_size_bytes": ami["size"],
        "verified": {half: _counts(report) for half, report in one.verified.items()},
        "terraform_diff_lines": one.release["terraform_diff_lines"],
        "launch_template_version": one.release["launch_template_version"],
        "job": {"status": one.job["status"], "result": one.job["result"]},
        "seconds": one.seconds,
    }


def _counts(report: dict[str, Any]) -> dict[str, Any]:
    passed = sum(check["passed"] for check in report["checks"])
    return {"passed": report["passed"], "checks": len(report["checks"]), "failed": len(report["checks"]) - passed}
