"""environment.yml and the floors are what pyproject.toml makes of them."""

import re
import tomllib

import yaml

from benchmarks.environment import conda, environment, floors, write
from fastlab.health.software import ROOT, needs, python_range

PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MADE = environment(PYPROJECT)
REMAKE = "run `python benchmarks/environment.py`"

TINY = """\
[project]
requires-python = ">=3.11,<3.14"
dependencies = [
    "torch>=2.11",  # runs models
    "ipywidgets>=7.7,<9",  # sliders; old ones too
]
[project.optional-dependencies]
gpu = [
    "nvidia-ml-py>=12",  # asks the GPU
]
dev = ["pytest>=8"]
"""


def test_the_file_is_what_pyproject_makes():
    kept = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert kept == MADE, REMAKE


def test_a_tiny_project_line_by_line():
    lines = environment(TINY).splitlines()
    assert lines[lines.index("name: fastlab") :] == [
        "name: fastlab",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        "  - python>=3.11,<3.14",
        "  - pytorch>=2.11  # runs models",
        "  - ipywidgets>=7.7,<9  # sliders; old ones too",
        "  - nvidia-ml-py>=12  # asks the GPU",
        "  - pip  # installs this checkout into the environment",
        "  - pip:",
        "      - -e .",
    ]


def test_it_is_yaml_as_conda_reads_it():
    data = yaml.safe_load(MADE)
    assert data["channels"] == ["conda-forge", "nodefaults"]
    *packages, pip = data["dependencies"]
    assert packages[0] == "python" + python_range(PYPROJECT)
    assert packages[-1] == "pip"
    assert pip == {"pip": ["-e ."]}
    assert all(isinstance(package, str) for package in packages)


def test_every_dependency_is_in_it_with_its_range_and_reason():
    project = tomllib.loads(PYPROJECT)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    found = needs(PYPROJECT)
    assert [need.text for need in found] == wanted
    for need in found:
        assert need.reason, f"{need.name} has no reason behind it in pyproject.toml"
        assert f"  - {conda(need)}  # {need.reason}\n" in MADE


def test_names_that_conda_forge_has_otherwise():
    names = {need.name: conda(need) for need in needs(PYPROJECT)}
    assert names["torch"].startswith("pytorch>=")
    assert names["matplotlib"].startswith("matplotlib-base>=")


def test_it_is_written_beside_the_pyproject(tmp_path):
    (tmp_path / "pyproject.toml").write_text(TINY)
    assert write(tmp_path).read_text() == environment(TINY)


def test_the_floors_are_the_lowest_versions_but_of_torch():
    assert floors(TINY) == ["ipywidgets==7.7", "nvidia-ml-py==12", "pytest==8"]


def test_the_constraints_fit_the_ranges():
    from packaging.requirements import Requirement

    text = (ROOT / "constraints.txt").read_text()
    exact = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))
    exact = {name.lower().replace("_", "-"): found for name, found in exact.items()}
    for need in needs(PYPROJECT):
        assert Requirement(need.text).specifier.contains(exact[need.name.lower()])
