"""Every notebook keeps to the template; nothing is executed here."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import nbformat
import papermill
import pytest

from fastlab.notebook.parameters import notebook_parameters
from tests.notebooks.conftest import HERE, NOTEBOOKS, ROOT

ONCE = ["title", "setup", "parameters", "predict", "widget", "summary"]
SETUP = (HERE / "setup_cell.txt").read_text().strip()
KERNEL = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
}


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def prose(book):
    return [cell for cell in book.cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def tagged(book, tag):
    return [cell for cell in book.cells if tag in tags(cell)]


def trees(book):
    return [ast.parse(cell.source) for cell in code(book)]


def calls(book):
    nodes = (node for tree in trees(book) for node in ast.walk(tree))
    return [node for node in nodes if isinstance(node, ast.Call)]


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_the_first_notebook_links_to_every_other():
    first = NOTEBOOKS[0].read_text(encoding="utf-8")
    for path in NOTEBOOKS[1:]:
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
        assert f"| [{title[2:]}]({path.name}) |" in first


def test_valid_with_stable_ids(book):
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in book.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z][a-z0-9-]+", name) for name in ids)


def test_stripped(book):
    assert dict(book.metadata) == KERNEL
    for cell in book.cells:
        assert set(cell.metadata) <= {"tags"}
    for cell in code(book):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_what_readme_removes_outputs_with_leaves_these_as_they_are(tmp_path):
    (command,) = re.findall(r"`(nbstripout.*?)`", (ROOT / "README.md").read_text())
    copies = [Path(shutil.copy(path, tmp_path)) for path in NOTEBOOKS]
    subprocess.run([sys.executable, "-m", *command.split(), *copies], check=True)
    for path, copy in zip(NOTEBOOKS, copies, strict=True):
        assert copy.read_bytes() == path.read_bytes(), path.name


def test_tags_stand_once_and_in_order(book):
    found = [tag for cell in book.cells for tag in tags(cell)]
    assert [tag for tag in found if tag in ONCE] == ONCE
    exercises = [tag for tag in found if tag not in [*ONCE, "by-hand"]]
    assert len(exercises) >= 4
    assert exercises == ["exercise", "check"] * (len(exercises) // 2)


def test_title_cell(book):
    title = book.cells[0]
    assert tags(title) == ["title"]
    for part in ("?", " minutes", "CPU fine / GPU measures live", "Previous:", "Next:"):
        assert part in title.source
    assert title.source.count("\n- ") == 3


def test_setup_cell_is_the_same_everywhere(book):
    assert book.cells[1].source == SETUP


def test_parameters_are_few_literals_with_help(path, book):
    found = notebook_parameters(path)
    assert 1 <= len(found) <= 10
    assert [p.name for p in found.values() if not p.help] == []


def test_start_follows_the_parameters_and_names_the_notebook(path, book):
    cells = code(book)
    first = cells.index(tagged(book, "parameters")[0]) + 1
    starts = [cell.source for cell in cells[first : first + 3]]  # points come before
    assert f'fl.start("{path.stem}"' in re.sub(r"\(\s+", "(", "\n".join(starts))


def test_every_parameter_is_used(path, book):
    later = [
        tree
        for tree, cell in zip(trees(book), code(book), strict=True)
        if "parameters" not in tags(cell)
    ]
    names = {n.id for tree in later for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert set(notebook_parameters(path)) <= names


def test_a_static_figure_comes_before_the_widget(book):
    sources = [cell.source for cell in book.cells]
    widget = book.cells.index(tagged(book, "widget")[0])
    assert any(".show(" in source for source in sources[:widget])


def test_every_figure_is_shown_by_a_run_under_a_name_of_its_own(book):
    """Alt text, caption and rows follow from the figure itself."""
    shown = [c for c in calls(book) if ast.unparse(c.func).endswith(".show")]
    names = [ast.literal_eval(call.args[1]) for call in shown]
    assert names and len(set(names)) == len(names)


def test_the_reader_is_told_what_to_see(book):
    text = "\n".join(cell.source for cell in prose(book))
    assert "## What you should see" in text
    assert "<details><summary>If your figure differs</summary>" in text
    assert "## Words used here" in text
    assert "## Three takeaways\n\n1. " in text


def test_the_run_is_finished_last(book):
    assert book.cells[-1].source == "run.finish(rows)"


def test_markdown_behind_html_is_seen_as_such(book):
    for cell in prose(book):
        assert not re.search(r"</details>\n(?!\n)", cell.source), cell.id


def test_headings_are_in_order(book):
    found = re.findall("^#+ ", "\n".join(c.source for c in prose(book)), re.MULTILINE)
    assert found == ["# "] + ["## "] * (len(found) - 1)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bpip\b",
        r"^\s*[!%]",
        r"if TEST",
        r"os\.environ",
        r"""["'(](/home|/root|/Users|/work|/tmp|[A-Z]:\\)""",
        r"!\[[^]]*\]\(http",
    ],
)
def test_nothing_that_ties_it_to_a_machine(book, pattern):
    for cell in book.cells:
        assert not re.search(pattern, cell.source, re.MULTILINE), cell.id


def test_a_def_only_where_it_is_the_lesson(book):
    for tree, cell in zip(trees(book), code(book), strict=True):
        if any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)):
            assert {"exercise", "by-hand"} & set(tags(cell)), cell.id


def test_the_idea_stands_once_by_hand_and_is_checked_against_fastlab(book):
    """10 to 25 lines of plain Python, numpy, torch or pandas; then fastlab agrees."""
    by_hand = tagged(book, "by-hand")
    assert 10 <= sum(len(code_lines(cell)) for cell in by_hand) <= 25
    check = code(book)[code(book).index(by_hand[-1]) + 1]
    assert "fl." in check.source
    assert "assert" in check.source


def test_relative_links_exist(path, book):
    for cell in prose(book):
        for link in re.findall(r"\]\(([^)#]+)", cell.source):
            assert link.startswith("http") or (Path(path.parent) / link).exists(), link


def test_short_cells_and_enough_prose(book):
    lines = [len(code_lines(cell)) for cell in code(book) if "setup" not in tags(cell)]
    ours = [len(code_lines(c)) for c in code(book) if "by-hand" not in tags(c)]
    tokens = [token for cell in prose(book) for token in cell.source.split()]
    words = sum(any(c.isalpha() for c in token) for token in tokens)
    assert len(book.cells) <= 45
    assert sum(lines) <= 260
    assert median(lines) <= 6
    assert max(lines) <= 12
    assert 5 <= words / sum(ours) <= 12


def test_no_cell_after_an_explorer_rebinds_what_its_function_reads(book):
    """It runs when a slider moves: after "Run All" with the names as they are then."""
    found = trees(book)
    shown = [i for i, cell in enumerate(code(book)) if "widget" in tags(cell)]
    for index in shown:
        lambdas = [n for n in ast.walk(found[index]) if isinstance(n, ast.Lambda)]
        own = {
            arg.arg for n in lambdas for arg in ast.walk(n.args) if hasattr(arg, "arg")
        }
        read = {n.id for f in lambdas for n in ast.walk(f) if isinstance(n, ast.Name)}
        later = [n for tree in found[index + 1 :] for n in ast.walk(tree)]
        names = [n for n in later if isinstance(n, ast.Name)]
        bound = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        assert not (read - own) & bound


def test_papermill_tells_the_same_parameters_with_their_types(path):
    """So do `papermill --help-notebook` and tools that ask it."""
    found = papermill.inspect_notebook(path)
    ours = notebook_parameters(path)
    kinds = {
        n: [type(v).__name__ for v in p.default]
        for n, p in ours.items()
        if isinstance(p.default, list)
    }
    types = {
        n: f"list[{kinds[n][0]}]" if n in kinds else type(p.default).__name__
        for n, p in ours.items()
    }
    assert {n: told["help"] for n, told in found.items()} == {
        n: p.help for n, p in ours.items()
    }
    assert {n: told["inferred_type_name"] for n, told in found.items()} == types
