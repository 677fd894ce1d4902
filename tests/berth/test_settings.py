"""Settings: read from a mapping, wrong ones named, all of them documented."""

import pytest
from pydantic import Field

from berth.settings import ProcessSettings, Settings, SettingsError


class Sample(Settings):
    lease_ttl_s: float = Field(default=3.0, gt=0, description="Seconds a lease lasts.")
    job: str = Field(description="Job of this worker.")


def test_fields_are_read_from_prefixed_variables() -> None:
    assert Sample.load({"BERTH_JOB": "cpu", "BERTH_LEASE_TTL_S": "1.5", "PATH": "/bin"}) == Sample(
        job="cpu", lease_ttl_s=1.5
    )


def test_an_empty_variable_counts_as_absent() -> None:
    assert Sample.load({"BERTH_JOB": "cpu", "BERTH_LEASE_TTL_S": ""}).lease_ttl_s == 3.0


@pytest.mark.parametrize(
    ("environ", "named"),
    [({}, "BERTH_JOB"), ({"BERTH_JOB": "a", "BERTH_LEASE_TTL_S": "0"}, "BERTH_LEASE_TTL_S")],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Sample.load(environ)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Sample(job="a").job = "b"  # type: ignore[misc]


def test_every_variable_is_documented() -> None:
    assert [(v.name, v.default) for v in Sample.variables()] == [
        ("BERTH_LEASE_TTL_S", "3.0"),
        ("BERTH_JOB", "required"),
    ]
    assert all(variable.description for variable in ProcessSettings.variables())
