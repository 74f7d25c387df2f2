"""What is read of a requirements file."""

from __future__ import annotations

import pytest

from splitbake import requirements

HASHED = [
    "# compiled",
    "--only-binary :all:",
    "a==1 \\",
    "    --hash=sha256:00 \\",
    "    --hash=sha256:01",
    "b==2 --hash=sha256:02",
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_requirement_may_go_on_in_further_lines(end):
    assert requirements.unhashed(end.join([*HASHED, ""])) == []
    assert requirements.unhashed(end.join([*HASHED, "c==3", "d==4 \\", "  ; python_version > '3'"])) == [
        "c==3",
        "d==4    ; python_version > '3'",
    ]
    assert [str(each) for each in requirements.parse(end.join(HASHED), "r.txt")] == ["a==1", "b==2"]
