"""A browser whose user does what one of the live viewer does: mouse, fingers, keys."""

import time

from browser import Browser


class Visitor(Browser):
    """One tab, on a page of this machine."""

    def __init__(self, address: str, width: int, height: int) -> None:
        """Opens the page at an address."""
        super().__init__(width, height, reachable="127.0.0.1")
        self.call("Log.enable")
        self.call("Page.navigate", url=address)

    def click(self, name: str) -> None:
        """On the middle of the element of that id, with the mouse."""
        box = self.value(
            f"(() => {{ const e = document.getElementById('{name}'); e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.drag(*box, *box)

    def drag(self, x: float, y: float, to_x: float, to_y: float, steps: int = 4) -> None:
        """With the left button, in pixels of the page."""
        self._mouse("mousePressed", x, y, buttons=1)
        for step in range(1, steps + 1):
            share = step / steps
            self._mouse("mouseMoved", x + (to_x - x) * share, y + (to_y - y) * share, buttons=1)
        self._mouse("mouseReleased", to_x, to_y, buttons=0)

    def wheel(self, x: float, y: float, amount: float) -> None:
        """Turns the mouse's wheel."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=amount)

    def touch(self, *moments: list[tuple[float, float]]) -> None:
        """Fingers at places, moment after moment, then lifted."""
        kinds = ["touchStart", *["touchMove"] * (len(moments) - 1), "touchEnd"]
        for kind, points in zip(kinds, [*moments, []], strict=True):
            fingers = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def problems(self) -> list[str]:
        """Errors of the page: thrown, and in its console."""
        kinds = {"Runtime.exceptionThrown": "exceptionDetails", "Log.entryAdded": "entry"}
        found = [event["params"][kinds[event["method"]]] for event in self.events if event["method"] in kinds]
        return [str(one) for one in found if one.get("level", "error") == "error"]

    def key(self, name: str, code: str, seconds: float) -> None:
        """Held down for so long, on the element of that id."""
        self.value(f"document.getElementById('{name}').focus()")
        self.call("Input.dispatchKeyEvent", type="keyDown", code=code)
        time.sleep(seconds)
        self.call("Input.dispatchKeyEvent", type="keyUp", code=code)

    def _mouse(self, kind: str, x: float, y: float, buttons: int) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)
