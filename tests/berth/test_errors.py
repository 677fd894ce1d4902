"""The error tree: one status for each class, and nothing retryable by accident."""

from collections.abc import Iterator

import grpc
import pytest

from berth import errors
from berth.errors import BerthError, Retryable, problem, status_of


def tree(root: type[BerthError]) -> Iterator[type[BerthError]]:
    """The classes of `berth.errors`; components may have their own below them."""
    if root.__module__ == errors.__name__:
        yield root
    for child in root.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("error", [cls for cls in tree(BerthError) if cls not in (BerthError, Retryable)])
def test_every_class_has_a_status_of_its_own(error: type[BerthError]) -> None:
    status = status_of(error)
    assert status.grpc in grpc.StatusCode.__members__
    assert 400 <= status.http < 600
    others = [cls for cls in tree(BerthError) if cls not in (error, BerthError, Retryable)]
    assert status.slug not in {status_of(other).slug for other in others}


def test_a_class_without_a_row_has_its_parents() -> None:
    class Odd(errors.NotFound):
        pass

    assert status_of(Odd) == status_of(errors.NotFound)
    assert status_of(BerthError).http == 500


def test_only_retryable_errors_look_retryable() -> None:
    for error in tree(BerthError):
        looks_retryable = status_of(error).http in (429, 503)
        assert looks_retryable == (issubclass(error, Retryable) and error is not Retryable), error


def test_a_problem_document_carries_the_fields_and_the_request() -> None:
    error = errors.InsufficientCapacity("no job has room", jobs=[{"job": "cpu", "short_of_bytes": 12}])
    assert problem(error, "r-1") == {
        "type": "urn:berth:problem:insufficient-capacity",
        "title": "No job has room",
        "status": 507,
        "detail": "no job has room",
        "jobs": [{"job": "cpu", "short_of_bytes": 12}],
        "instance": "urn:berth:request:r-1",
    }
