"""The image cannot be built here, so its steps are held to those that `make install` proves."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest
import yaml

from berth.cli import app
from tests.chart.rendering import CHART, ROOT, pods, rendered_example

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split("\n")

# Flags that are about where and how loudly, not about what is installed.
INDIFFERENT = {"--quiet", "-q", "--disable-pip-version-check", "--no-cache-dir", "--no-cache", "--compile-bytecode"}


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's, with its lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def installs(commands: Iterator[str]) -> list[list[str]]:
    """The arguments of each installation, without where it goes."""
    found = []
    for command in commands:
        words = [word for word in shlex.split(command.lstrip("@")) if word not in INDIFFERENT]
        if "pip" in words and "install" in words:
            kept = words[words.index("install") + 1 :]
            if "--python" in kept:
                at = kept.index("--python")
                del kept[at : at + 2]
            found.append(kept)
    return found


def makefile() -> list[list[str]]:
    rule = re.search(r"(?m)^\$\(VENV\)/\.installed:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    assert rule is not None
    return installs(iter(re.sub(r"\$\((\w+)\)", r"\1", rule[1]).replace("$$", "$").splitlines()))


def dockerfile() -> list[list[str]]:
    return installs(command for word, rest in stages()[0] if word == "RUN" for command in re.split(r"\s*&&\s*", rest))


def test_the_steps_are_those_of_make() -> None:
    tools, locked, project = makefile()
    assert tools == ["--require-hashes", "-r", "requirements-uv.lock"]
    assert locked == ["--require-hashes", "-r", "requirements.lock"]
    assert project == ["--no-deps", "--no-build-isolation", "-e", "."]
    # The image has no development tools, and a wheel instead of the working tree.
    assert dockerfile() == [
        tools,
        ["--require-hashes", "-r", "requirements-runtime.lock"],
        ["--no-deps", "/wheels/*.whl"],
    ]


def test_what_builds_the_wheel_is_pinned_too() -> None:
    (build,) = re.findall(r"uv build [^&\n]+", DOCKERFILE)
    assert {"--wheel", "--require-hashes"} <= set(build.split())
    assert "--build-constraints requirements.lock" in build
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for tool in project["build-system"]["requires"]:
        assert re.split(r"[<>=~]", tool)[0] in pins("requirements.lock")


def test_the_wheel_is_compiled_where_it_is_built() -> None:
    """Without a compiler the build would still pass, and the image would run the sources."""
    assert any("gcc" in rest.split() for word, rest in stages()[0] if word == "RUN")
    assert not any("gcc" in rest.split() for _, rest in stages()[-1])
    copied = {part for word, rest in stages()[0] if word == "COPY" for part in rest.split()[:-1]}
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    assert {hook["custom"]["path"], "build_compiled.py"} <= copied


def pins(file: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==([^ ;]+)", (ROOT / file).read_text()):
        found.setdefault(name, set()).add(version)
    return found


def test_the_image_has_what_was_tested() -> None:
    image, tested = pins("requirements-runtime.lock"), pins("requirements.lock")
    assert {name: versions for name, versions in image.items() if not versions <= tested[name]} == {}


def test_the_image_has_what_processes_need_and_no_tools() -> None:
    image = set(pins("requirements-runtime.lock"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["kubernetes"], *extras["otel"], *extras["uvloop"]]
    assert {_name(requirement) for requirement in needed} <= image
    tools = {_name(requirement) for extra in ("dev", "demo") for requirement in extras[extra]}
    # What the image needs for another reason is not there as a tool.
    needed_anyway = {_name(requirement) for requirement in needed} | {"h11", "psutil", "pyyaml"}
    assert (tools - needed_anyway) & image == set()


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0].lower().replace("_", "-")


def test_every_package_of_the_wheel_is_copied_and_not_ignored() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {part for word, rest in stages()[0] if word == "COPY" for part in rest.split()[:-1]}
    assert set(wheel["packages"]) <= copied
    assert IGNORED[1] == "*"
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_what_runs_is_bare() -> None:
    build, final = stages()
    assert {word for word, _ in final} == {
        "FROM", "ARG", "LABEL", "COPY", "ENV", "WORKDIR", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    said = dict(final)
    assert said["COPY"] == "--from=build /opt/berth /opt/berth"
    assert said["HEALTHCHECK"] == "NONE"
    # Both stages stand on the same base, which --build-arg may pin by digest: the environment refers to its Python.
    assert build[0] == ("FROM", "${PYTHON_IMAGE} AS build")
    assert said["FROM"] == "${PYTHON_IMAGE}"


def test_the_user_is_the_charts() -> None:
    said = dict(stages()[1])
    users = {
        (pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"])
        for pod in pods(rendered_example("minimal"))
    }
    assert {tuple(map(int, said["USER"].split(":")))} == users


def test_the_version_is_the_charts() -> None:
    declared = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert ("ARG", f"VERSION={declared}") in stages()[1]


def test_processes_are_started_as_the_chart_does() -> None:
    said = dict(stages()[1])
    entry = yaml.safe_load(said["ENTRYPOINT"])
    assert entry == ["python", "-m"]
    for pod in pods(rendered_example("minimal")):
        assert pod.container()["command"][: len(entry)] == entry


def test_without_a_command_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    said = dict(stages()[1])
    module, *arguments = yaml.safe_load(said["CMD"])
    assert (ROOT / module / "__main__.py").is_file()
    assert app.execute(arguments) == 0
    assert "Commands" in capsys.readouterr().out


def test_the_base_is_a_python_that_berth_supports_and_not_the_latest() -> None:
    (base,) = re.findall(r"(?m)^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE)
    version = re.search(r"/python:(3\.\d+)-slim-\w+$", base)
    assert version is not None
    assert version[1] in {"3.11", "3.12", "3.13"}
