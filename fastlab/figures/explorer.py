"""Explorers: a function from a state to a figure, and its controls; none measures."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastlab.figures.grammar import Figure, show

A_ROW = 3  # controls side by side
WIDGET = "application/vnd.jupyter.widget-view+json"
Options = Sequence[Any] | Mapping[str, Any] | Callable[[dict[str, Any]], Any]


class Explorer:
    """Controls over the picture of `make(**state)`, which is drawn anew as they move.

    make returns a figure, or says in a text, or in a ValueError, why there is none. A
    control, one for each further keyword, is a pair (lowest, highest) of whole numbers,
    a list of values, a dict of text -> value, or a function of the controls before it
    that returns one of these. start: the values that it begins with. In a saved
    notebook, where no slider lives, the first picture stays.
    """

    def __init__(
        self,
        make: Callable[..., Figure | str],
        start: Mapping[str, Any] = {},
        caption: str = "",
        **controls: Options,
    ):
        self.make, self.caption, self.options = make, caption, controls
        self.state: dict[str, Any] = {}
        self.offered: dict[str, dict[str, Any]] = {}  # text -> value, by control
        self._settle(start)
        self._box: Any = None

    def _settle(self, wanted: Mapping[str, Any]) -> None:
        """The wanted values where the state so far offers them, else the first ones."""
        for name, options in self.options.items():
            found = self.offered[name] = choices(options, self.state)
            if not found:
                raise ValueError(f"nothing to choose for {name!r} where {self.state}")
            values, value = list(found.values()), wanted.get(name)
            self.state[name] = value if value in values else values[0]

    def picture(self, **state: Any) -> str:
        """The figure in a state, as HTML; why there is none, where there is none."""
        try:
            figure = self.make(**(self.state | state))
        except ValueError as error:
            figure = str(error)
        if isinstance(figure, Figure):
            return show(figure, self.caption).markup
        return f"<p><b>{html.escape(figure)}</b></p>"

    def widget(self) -> Any:
        """The controls over the picture, as one ipywidgets box."""
        import ipywidgets as widgets

        picture = widgets.HTML(self.picture())
        controls = {name: self._control(name) for name in self.options}
        following = False

        def moved(_: Any) -> None:
            nonlocal following
            if following:  # options that follow another control were set below
                return
            following = True
            try:
                self._read(controls)
                picture.value = self.picture()
            finally:
                following = False

        for control in controls.values():
            control.observe(moved, names="value")
        boxes = list(controls.values())
        rows = [widgets.HBox(boxes[n : n + A_ROW]) for n in range(0, len(boxes), A_ROW)]
        box = hiding([*rows, picture])
        box.controls, box.picture = controls, picture
        return box

    def _control(self, name: str) -> Any:
        import ipywidgets as widgets

        options, style = self.offered[name], {"description_width": "initial"}
        numbers = all(isinstance(value, (int, float)) for value in options.values())
        slides = numbers and len(options) > 1
        kind = widgets.SelectionSlider if slides else widgets.Dropdown
        words = {"description": name.replace("_", " "), "style": style}
        return kind(options=list(options.items()), value=self.state[name], **words)

    def _read(self, controls: Mapping[str, Any]) -> None:
        """The state as the controls have it; options that follow others follow them."""
        self._settle({name: control.value for name, control in controls.items()})
        for name, control in controls.items():
            options = list(self.offered[name].items())
            if list(control.options) != options:
                control.index = 0  # or else a browser's slider answers with its last
                control.options = options
                control.value = self.state[name]

    def _ipython_display_(self) -> None:
        """The widget, and below it the picture of now, which a living widget hides.

        Two outputs, as JupyterLab shows a widget without its kernel as an error, and
        nothing else of the same output.
        """
        from IPython.display import display

        if self._box is None:
            self._box = self.widget()
        display(view(self._box, repr(self)), raw=True)
        display(self._repr_mimebundle_(), raw=True)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The picture of now, which needs no widget."""
        return still(self._box, self.picture(), repr(self))

    def __repr__(self) -> str:
        texts = {
            name: next(text for text, v in found.items() if v == self.state[name])
            for name, found in self.offered.items()
        }
        state = ", ".join(f"{name} {text}" for name, text in texts.items())
        return f"[explorer; run the cell to move it] {state}"


def hiding(parts: Sequence[Any]) -> Any:
    """A box of widgets that hides its `still` while it lives."""
    import ipywidgets as widgets

    hide = widgets.HTML(layout={"display": "none"})
    box = widgets.VBox([*parts, hide])
    hide.value = f"<style>.{_still(box)} {{display: none}}</style>"
    return box


def view(box: Any, text: str) -> dict[str, Any]:
    """The output that is a living widget."""
    model = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {WIDGET: model, "text/plain": text}


def still(box: Any, markup: str, text: str) -> dict[str, Any]:
    """The output that stays where no widget lives."""
    return {
        "text/html": f'<div class="{_still(box)}">{markup}</div>',
        "text/plain": text,
    }


def _still(box: Any) -> str:
    return f"fastlab-still-{box.model_id}" if box else "fastlab-still"


explore = Explorer


def choices(options: Options, state: Mapping[str, Any]) -> dict[str, Any]:
    """text -> value of a control's options, in order."""
    found = options(dict(state)) if callable(options) else options
    if isinstance(found, Mapping):
        return dict(found)
    if isinstance(found, tuple) and [*map(type, found)] == [int, int]:
        found = range(found[0], found[1] + 1)
    return {f"{v:,}" if isinstance(v, int) else str(v): v for v in found}
