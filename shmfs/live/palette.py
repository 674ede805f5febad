"""Colours that people of any colour vision tell apart (after Okabe and Ito), on dark and light ground."""

import os
from collections.abc import Mapping

from rich.style import Style
from textual.theme import Theme

_DARK = {
    "": "#d8d8d8",
    "dim": "#8f8f8f",
    "name": "#56b4e9",
    "warn": "#f0e442",
    "bad": "bold #ff7a29",
    "used": "#56b4e9",
    "shared": "bold #1fc795",
    "alone": "#56b4e9",
    "copy": "#cc79a7",
    "faults": "#e69f00",
    "title": "bold #ffffff",
    "heading": "bold #a8a8a8",
    "sorted": "bold #ffffff",
    "key": "bold #e69f00",
    "here": "bold underline #ffffff",
}
_LIGHT = {
    "": "#202020",
    "dim": "#6a6a6a",
    "name": "#0067a3",
    "warn": "#7a6400",
    "bad": "bold #b03f00",
    "used": "#0072b2",
    "shared": "bold #00694d",
    "alone": "#0072b2",
    "copy": "#a0447a",
    "faults": "#8f5600",
    "title": "bold #000000",
    "heading": "bold #505050",
    "sorted": "bold #000000",
    "key": "bold #8f5600",
    "here": "bold underline #000000",
}
_GROUND = {"dark": ("#121212", "#303030"), "light": ("#ffffff", "#dadada")}


def theme(ground: str) -> Theme:
    """What textual needs to know: "dark" or "light"."""
    colors = _DARK if ground == "dark" else _LIGHT
    back, cursor = _GROUND[ground]
    return Theme(
        name=f"shmfs-{ground}",
        primary=colors["name"],
        foreground=colors[""],
        background=back,
        surface=back,
        panel=cursor,
        dark=ground == "dark",
    )


def styles(ground: str) -> dict[str, Style]:
    """The styles that rows, summary and help name."""
    back = _GROUND[ground][0]
    colors = _DARK if ground == "dark" else _LIGHT
    return {name: Style.parse(f"{color} on {back}") for name, color in colors.items()}


def cursor(ground: str) -> Style:
    """What the row under the cursor stands on."""
    return Style(bgcolor=_GROUND[ground][1], bold=True)


def ground(environment: Mapping[str, str] = os.environ) -> str:
    """What the terminal says of its ground in COLORFGBG, as in "0;15"; dark if it says nothing."""
    back = environment.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if back in ("7", "15") else "dark"
