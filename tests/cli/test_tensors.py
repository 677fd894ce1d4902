from pathlib import Path

import numpy as np
import pytest

from berth.cli.tensors import listed, read_inputs
from berth.errors import InvalidArgument


def test_json_gets_the_type_the_model_takes() -> None:
    got = read_inputs(["x=[[1, 2]]", 'words=["a"]', "k=3"], {"x": "FP32", "words": "BYTES", "k": "INT64"})
    assert (got["x"].dtype, got["x"].shape) == (np.dtype(np.float32), (1, 2))
    assert got["words"].tolist() == ["a"]
    assert (got["k"].dtype, got["k"].shape) == (np.dtype(np.int64), (1,))


def test_files_are_read_by_their_suffix(tmp_path: Path) -> None:
    array = np.arange(4, dtype=np.int8)
    np.save(tmp_path / "x.npy", array)
    (tmp_path / "y.json").write_text("[1.5]")
    got = read_inputs([f"x=@{tmp_path / 'x.npy'}", f"y=@{tmp_path / 'y.json'}"], {"x": "INT8", "y": "FP64"})
    np.testing.assert_array_equal(got["x"], array)
    assert got["y"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("x", "is not NAME=VALUE"),
        ("z=[1]", "no input 'z'; it takes x"),
        ("x=[1", "input 'x'"),
        ("x=[[1], [1, 2]]", "input 'x'"),
        ("x=@/absent/file.npy", "No such file"),
        ("x=@/absent/file.json", "No such file"),
    ],
)
def test_mistakes_name_the_input(argument: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        read_inputs([argument], {"x": "FP32"})


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidArgument, match="allow_pickle"):
        read_inputs([f"x=@{tmp_path / 'x.npy'}"], {"x": "FP32"})


def test_outputs_are_shown_as_json_values() -> None:
    assert listed(np.array([[1.5]], np.float32)) == [[1.5]]
    assert listed(np.array([b"a", b"\xff"], object)) == ["a", "\ufffd"]
