"""The browser's page with JupyterLab in it: theme, width, errors of its scripts, and pictures of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import ConsoleMessage, Locator, Page

    from tests.browser.lab import Lab

_THEMES: Final = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
_WIDE: Final = (1280, 900)
_NARROW: Final = (500, 900)
_SET_THEME = """async theme => {
  await window.jupyterapp.commands.execute('apputils:change-theme', {theme});
}"""
_IS_DARK = "light => (document.body.dataset.jpThemeLight === 'true') === light"


class Screen:
    """A page that shows JupyterLab.

    Parameters
    ----------
    page : Page
        The browser's page.
    lab : Lab
        The JupyterLab to open in it.
    pictures : Path
        Folder for screenshots.
    """

    def __init__(self, page: Page, lab: Lab, pictures: Path) -> None:
        self.page = page
        self.errors: list[str] = []
        self._pictures = pictures
        pictures.mkdir(parents=True, exist_ok=True)
        page.on("pageerror", lambda error: self.errors.append(f"{error}"))
        page.on("console", self._hear)
        page.goto(f"{lab.url}/lab?reset&token={lab.token}")
        page.wait_for_function("() => window.jupyterapp")
        page.evaluate("async () => { await window.jupyterapp.restored }")
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    def reset(self) -> None:
        """Wide and light again, and nothing to complain of."""
        self.widen()
        self.theme("light")
        self.errors.clear()

    def theme(self, name: Literal["light", "dark"]) -> None:
        """Switch JupyterLab's theme."""
        self.page.evaluate(_SET_THEME, _THEMES[name])
        self.page.wait_for_function(_IS_DARK, arg=name == "light")

    def widen(self) -> None:
        """As wide as a small laptop."""
        self.page.set_viewport_size({"width": _WIDE[0], "height": _WIDE[1]})

    def narrow(self) -> None:
        """As narrow as a window beside another one."""
        self.page.set_viewport_size({"width": _NARROW[0], "height": _NARROW[1]})

    def take(self, name: str, of: Locator | None = None) -> Path:
        """Take a picture of the page or of a part of it."""
        path = self._pictures / f"{name}.png"
        (of or self.page).screenshot(path=path)
        return path

    def take_all(self, name: str, of: Locator) -> None:
        """Take pictures in the light, in the dark, and in a narrow window, where somebody asked for them."""
        if "DREAMO_SCREENSHOTS" not in os.environ:
            return
        self.take(f"{name}-light", of)
        self.theme("dark")
        self.take(f"{name}-dark", of)
        self.narrow()
        self.take(f"{name}-narrow", of)
        self.widen()
        self.theme("light")

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)
