"""Explorers: a function from a state to a figure, and its controls; none measures."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastlab.figures.grammar import Figure
from fastlab.figures.shown import show

A_ROW = 3  # controls side by side
Options = Sequence[Any] | Mapping[str, Any] | Callable[[dict[str, Any]], Any]


class Explorer:
    """Controls over a picture, which is drawn anew from rows as they move.

    In a saved notebook, where no slider lives, the first picture stays.
    """

    def __init__(
        self,
        make: Callable[..., Figure | str],
        start: Mapping[str, Any],
        caption: str,
        controls: Mapping[str, Options],
    ):
        self.make, self.caption, self.options = make, caption, dict(controls)
        self.state: dict[str, Any] = {}
        for name, options in self.options.items():
            values = list(choices(options, self.state).values())
            wanted = start.get(name, values[0])
            self.state[name] = wanted if wanted in values else values[0]
        self._box: Any = None

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

        def moved(change: Any) -> None:
            self._read(controls)
            picture.value = self.picture()

        for control in controls.values():
            control.observe(moved, names="value")
        boxes = list(controls.values())
        rows = [widgets.HBox(boxes[n : n + A_ROW]) for n in range(0, len(boxes), A_ROW)]
        box = widgets.VBox([*rows, picture])
        box.controls, box.picture = controls, picture
        return box

    def _control(self, name: str) -> Any:
        import ipywidgets as widgets

        options = choices(self.options[name], self.state)
        words = {
            "description": name.replace("_", " "),
            "style": {"description_width": "initial"},
        }
        values = list(options.values())
        numbers = all(isinstance(value, (int, float)) for value in values)
        kind = (
            widgets.SelectionSlider if numbers and len(values) > 1 else widgets.Dropdown
        )
        return kind(options=list(options.items()), value=self.state[name], **words)

    def _read(self, controls: Mapping[str, Any]) -> None:
        """The state as the controls have it; options that follow others follow them."""
        for name, control in controls.items():
            options = list(choices(self.options[name], self.state).items())
            value = control.value
            if list(control.options) != options:
                values = [one for _, one in options]
                value = value if value in values else values[0]
                with control.hold_trait_notifications():
                    control.options = options
                    control.value = value
            self.state[name] = value

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The widget where one lives; else the first picture, which needs none."""
        if self._box is None:
            self._box = self.widget()
        live = self._box._repr_mimebundle_()
        live = live[0] if isinstance(live, tuple) else live
        return live | {"text/html": self.picture(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        state = ", ".join(f"{name} {self._text(name)}" for name in self.state)
        return f"[explorer] {state}"

    def _text(self, name: str) -> str:
        """What a control shows of its value."""
        options = choices(self.options[name], self.state)
        return next(text for text, v in options.items() if v == self.state[name])


def explore(
    make: Callable[..., Figure | str],
    start: Mapping[str, Any] | None = None,
    caption: str = "",
    **controls: Options,
) -> Explorer:
    """An explorer of `make(**state)`, with a control for each keyword.

    A control is a pair (lowest, highest) of whole numbers, a list of values, a dict of
    text -> value, or a function of the controls before it that returns one of these.
    start: the values that it begins with. make returns a figure, or says in a text, or
    in a ValueError, why there is none.
    """
    return Explorer(make, start or {}, caption, controls)


def choices(options: Options, state: Mapping[str, Any]) -> dict[str, Any]:
    """text -> value of a control's options, in order."""
    found = options(dict(state)) if callable(options) else options
    if isinstance(found, Mapping):
        return dict(found)
    if isinstance(found, tuple) and len(found) == 2 and _whole(found):
        found = range(found[0], found[1] + 1)
    return {_text(value): value for value in found}


def _whole(pair: Iterable[Any]) -> bool:
    return all(type(value) is int for value in pair)


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def around(options: Iterable[Any], start: Any) -> list[Any]:
    """Options in order, with the value that a control begins with among them."""
    return sorted({*options, start})
