"""Two real classifiers of handwritten digits, exported to ONNX: a weak one and a better one.

The images are the 1,797 that scikit-learn ships (8 by 8 pixels, from the UCI repository). Four in ten are held out,
and never shown to either model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

INPUT = "image"
LABEL = "label"
_PIXELS = 64
_BRIGHTEST = 16.0
_SEED = 7
# The weak model has seen this many images, three of each digit: enough to be right most of the time, and no more.
_FEW = 30


class Digits(NamedTuple):
    """Images as rows of 64 brightnesses from 0 to 1, and the digits they show."""

    train_images: npt.NDArray[np.float32]
    train_digits: npt.NDArray[np.int64]
    held_out_images: npt.NDArray[np.float32]
    held_out_digits: npt.NDArray[np.int64]


def load_digits() -> Digits:
    """The images, split the same way every time."""
    from sklearn import datasets, model_selection

    images, digits = datasets.load_digits(return_X_y=True)
    split = model_selection.train_test_split(
        (images / _BRIGHTEST).astype(np.float32),
        digits.astype(np.int64),
        test_size=0.4,
        random_state=_SEED,
        stratify=digits,
    )
    return Digits(split[0], split[2], split[1], split[3])


def train_weak(digits: Digits, file: Path) -> None:
    """Logistic regression on a few images."""
    from sklearn import linear_model, model_selection

    images, _, shown, _ = model_selection.train_test_split(
        digits.train_images,
        digits.train_digits,
        train_size=_FEW,
        random_state=_SEED,
        stratify=digits.train_digits,
    )
    _export(linear_model.LogisticRegression(max_iter=200).fit(images, shown), file)


def train_better(digits: Digits, file: Path) -> None:
    """A network with one hidden layer, on all training images."""
    from sklearn import neural_network

    network = neural_network.MLPClassifier(
        hidden_layer_sizes=(128,), learning_rate_init=0.005, tol=1e-3, n_iter_no_change=5, random_state=_SEED
    )
    _export(network.fit(digits.train_images, digits.train_digits), file)


def _export(model: Any, file: Path) -> None:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    exported = to_onnx(
        model,
        initial_types=[(INPUT, FloatTensorType([None, _PIXELS]))],
        options={"zipmap": False},
        target_opset=17,
    )
    file.write_bytes(exported.SerializeToString())


def main(arguments: list[str]) -> int:
    """`python -m berth.demo.digits FILE`: train the better one and write it to FILE, to have something to upload."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(main.__doc__, file=sys.stderr)
        return 2
    train_better(load_digits(), Path(arguments[0]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
