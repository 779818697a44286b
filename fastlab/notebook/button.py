"""A button that does something, as measuring is never done by moving a slider."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from fastlab.figures.explorer import hiding, still, view


class Button:
    """A button over what `action()` returns, a text or a table, once it is pressed.

    Errors stand there in words. In a saved notebook its label stays.
    """

    def __init__(self, label: str, action: Callable[[], Any]):
        self.label, self.action = label, action

    def press(self) -> str:
        """Do it; what came of it, as HTML."""
        try:
            found = self.action()
        except Exception as error:
            return f"<p><b>{html.escape(f'{type(error).__name__}: {error}')}</b></p>"
        markup = getattr(found, "_repr_html_", lambda: None)()
        return markup or f"<p><b>{html.escape(str(found))}</b></p>"

    def widget(self) -> Any:
        """The button over its answer, as one ipywidgets box."""
        import ipywidgets as widgets

        button = widgets.Button(description=self.label, layout={"width": "auto"})
        answer = widgets.HTML()

        def pressed(_: Any) -> None:
            button.disabled, answer.value = True, "<progress></progress>"
            try:
                answer.value = self.press()
            finally:
                button.disabled = False

        button.on_click(pressed)
        return hiding([button, answer])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        box, label = self.widget(), html.escape(self.label)
        display(view(box, repr(self)), raw=True)
        display(still(box, f"<p>[button] {label}</p>", repr(self)), raw=True)

    def __repr__(self) -> str:
        return f"[button; run the cell to press it] {self.label}"


button = Button
