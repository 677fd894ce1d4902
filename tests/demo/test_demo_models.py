"""The two classifiers are real, and the second is better: on images neither has seen."""

from pathlib import Path

import numpy as np
import pytest

from berth.demo.digits import INPUT, LABEL, load_digits, train_better, train_weak
from berth.demo.findings import accuracy
from berth.demo.run import FolderNotOurs, _empty
from doubles.onnx_session import open_session


def right(file: Path) -> float:
    digits = load_digits()
    (labels,) = open_session(file).run([LABEL], {INPUT: digits.held_out_images})
    return accuracy(labels.tolist(), digits.held_out_digits.tolist())


def test_the_second_model_is_better(tmp_path: Path) -> None:
    digits = load_digits()
    train_weak(digits, tmp_path / "weak.onnx")
    train_better(digits, tmp_path / "better.onnx")
    weak, better = right(tmp_path / "weak.onnx"), right(tmp_path / "better.onnx")
    assert 0.6 < weak < 0.9
    assert better > 0.95


def test_held_out_images_are_held_out() -> None:
    digits = load_digits()
    trained_on = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in trained_on for image in digits.held_out_images)
    assert digits.held_out_images.dtype == np.float32
    assert len(digits.held_out_images) == len(digits.held_out_digits) > 500


def test_only_a_folder_of_its_own_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    _empty(folder)
    (folder / "old").touch()
    _empty(folder)
    assert not (folder / "old").exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    with pytest.raises(FolderNotOurs, match="choose another"):
        _empty(tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.tex").exists()
