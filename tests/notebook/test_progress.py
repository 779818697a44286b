"""Progress: one line, written before and after, and nothing of it left but its end."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import IPython.display
import pytest

import fastlab as fl
from fastlab.notebook import progress


class Output:
    """What one display shows, one write after the other."""

    def __init__(self, first):
        self.written = [first.data]

    def update(self, content):
        self.written.append(content.data)


@pytest.fixture
def outputs(monkeypatch):
    """The displays of a notebook that is not there."""
    made = []

    def display(content, display_id):
        assert display_id
        made.append(Output(content))
        return made[-1]

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(IPython.display, "display", display)
    return made


def test_waiting_writes_twice_and_starts_no_thread(outputs):
    before = threading.active_count()
    with fl.status("a < b"):
        assert threading.active_count() == before
        assert len(outputs[0].written) == 1
    (output,) = outputs
    assert "<progress></progress> a &lt; b" in output.written[0]
    assert "a &lt; b: 0.0 s" in output.written[1]
    assert "<progress" not in output.written[1]


def test_an_error_passes_and_the_line_says_so(outputs):
    with pytest.raises(ZeroDivisionError), fl.status("work"):
        raise ZeroDivisionError
    assert "work: stopped after 0.0 s" in outputs[0].written[-1]


def test_all_of_a_line_is_one_output(outputs, points):
    line = progress.NotebookLine()
    with progress.steps(0, "calibration", line):
        pass
    assert list(line.points(points[:2])) == points[:2]
    (output,) = outputs
    assert "1 of 2, about 0 s left" in output.written[3]
    assert "2 points measured in 0 s" in output.written[-1]


def test_a_step_is_told_by_a_word_or_by_a_row_of_numbers(outputs, monkeypatch):
    monkeypatch.setattr(progress, "PAUSE_S", 0.0)
    with fl.steps(2, "learning") as done:
        done({"step": 1.0, "loss": 2.34567})
        done("a word")
    (output,) = outputs
    assert "1 of 2, about 0 s left: learning: step 1, loss 2.35" in output.written[1]
    assert "learning: a word" in output.written[2]
    assert "learning: 2 steps in 0.0 s" in output.written[-1]


def test_nothing_to_measure_is_said(outputs):
    assert list(progress.NotebookLine().points([])) == []
    assert "all points were measured before" in outputs[0].written[-1]


def test_outside_a_notebook_nothing_is_shown(capsys, points):
    with fl.status("work"):
        pass
    assert list(progress.NotebookLine().points(points[:2])) == points[:2]
    assert capsys.readouterr() == ("", "")
