"""A button does what it is for only when it is pressed."""

from fastlab.notebook.button import Button


def test_nothing_is_done_before_it_is_pressed_and_what_came_of_it_stands_below():
    done = []
    box = Button("Measure <it>", lambda: done.append(1) or "13.5 ms & more").widget()
    button, answer = box.children[:2]
    assert (done, answer.value, button.description) == ([], "", "Measure <it>")
    button.click()
    assert (done, answer.value) == ([1], "<p><b>13.5 ms &amp; more</b></p>")
    assert not button.disabled


def test_a_table_is_shown_as_such_and_an_error_in_words():
    import pandas as pd

    assert "<table" in Button("", lambda: pd.DataFrame({"ms": [1.5]})).press()
    assert "ZeroDivisionError: division by zero" in Button("", lambda: 1 / 0).press()


def test_a_saved_notebook_keeps_its_label():
    assert repr(Button("Build", str)) == "[button; run the cell to press it] Build"
