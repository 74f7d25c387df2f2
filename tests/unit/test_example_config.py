"""The reference project's settings, and what it does where the models are missing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import run
import yaml
from lib.config import ConfigError, Inputs, Settings

EXAMPLE = Path(__file__).parents[2] / "examples" / "video-analysis"
DOCUMENT = yaml.safe_load((EXAMPLE / "experiments" / "faces.yaml").read_text())


def test_the_committed_settings_are_valid():
    settings = Settings.load(EXAMPLE / "experiments" / "faces.yaml")
    assert settings.longest_side == DOCUMENT["frame"]["longest_side"]
    assert settings.face_threshold == DOCUMENT["faces"]["threshold"]


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("frame", "longest_side", 31, "frame.longest_side: expected a whole number of at least 32, got 31"),
        ("frame", "longest_side", "576", "frame.longest_side: expected a whole number"),
        ("faces", "threshold", 1.5, "faces.threshold: expected a number between 0 and 1"),
        ("faces", "overlap", True, "faces.overlap: expected a number between 0 and 1"),
        ("text", "every", 0, "text.every: expected a whole number of at least 1"),
        ("text", "colour", "red", "text: expected exactly the keys every, least_pixels, threshold"),
    ],
)
def test_a_wrong_setting_is_named(section, key, value, message):
    document = copy.deepcopy(DOCUMENT)
    document[section][key] = value
    with pytest.raises(ConfigError, match=message):
        Settings.parse(document)


@pytest.mark.parametrize("document", [None, [], {"frame": {}}])
def test_a_document_of_another_shape_is_refused(document):
    with pytest.raises(ConfigError, match="expected exactly the keys faces, frame, text"):
        Settings.parse(document)


def test_what_is_not_yaml_is_refused_with_its_path(tmp_path):
    path = tmp_path / "faces.yaml"
    path.write_text("faces: [")
    with pytest.raises(ConfigError, match=str(path)):
        Settings.load(path)


def test_the_inputs_are_below_workspace():
    inputs = Inputs.from_environment({})
    assert inputs.face_model == Path("/workspace/models/centerface.onnx")
    assert inputs.text_model.is_relative_to("/workspace/checkpoints")
    assert inputs.experiment.is_relative_to("/workspace/experiments")


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    """Point the program at an empty folder; returns it."""
    for variable in ("models", "checkpoints", "experiments"):
        monkeypatch.setenv(f"{variable.upper()}_DIR", str(tmp_path / variable))
    return tmp_path


def test_missing_models_end_with_78_and_one_line_that_names_them(mounts, capsys):
    assert run.main([]) == 78
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    for name in ("models/centerface.onnx", "ch_PP-OCRv4_det_infer.onnx", "experiments/faces.yaml"):
        assert name in said.err


def test_a_damaged_model_ends_with_78(mounts, capsys):
    inputs = Inputs.from_environment()
    for path in (inputs.face_model, inputs.text_model):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    inputs.experiment.parent.mkdir()
    inputs.experiment.write_text(yaml.safe_dump(DOCUMENT))
    assert run.main(["--self-test"]) == 78
    assert f"{inputs.face_model} is not a loadable ONNX model" in capsys.readouterr().err
