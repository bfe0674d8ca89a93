"""Completion at a prompt: names and attributes, and never a side effect."""

from __future__ import annotations

from edgevpn.actors.complete import MAX_NAMES, completions


class Inner:
    __slots__ = ("deep", "unset")

    def __init__(self) -> None:
        self.deep = {"x": 1}


class Sample:
    asked = 0

    def __init__(self) -> None:
        self.state = Inner()
        self.status = 1
        self._hidden = 1

    @property
    def costly(self) -> object:
        Sample.asked += 1
        return self.state

    def start(self) -> None: ...

    def __getattr__(self, name: str) -> object:
        Sample.asked += 1
        raise AttributeError(name)


NAMES = {"sample": Sample(), "state": 1, "many": type("Many", (), {f"n{k:04}": k for k in range(1000)})()}


def test_names_builtins_and_keywords_are_completed() -> None:
    assert completions("sta", NAMES) == ["state", "staticmethod"]
    assert completions("awa", NAMES) == ["await"]
    assert "_" not in "".join(name[0] for name in completions("", NAMES))


def test_attributes_are_completed_private_ones_when_asked_for() -> None:
    assert completions("sample.sta", NAMES) == ["sample.start", "sample.state", "sample.status"]
    assert completions("sample._h", NAMES) == ["sample._hidden"]
    assert completions("sample.", NAMES) == [
        f"sample.{name}" for name in ("asked", "costly", "start", "state", "status")
    ]
    assert completions("sample.state.deep.key", NAMES) == ["sample.state.deep.keys"]


def test_no_code_of_the_object_runs_for_a_completion() -> None:
    Sample.asked = 0
    assert completions("sample.cos", NAMES) == ["sample.costly"]
    assert completions("sample.costly.d", NAMES) == []
    assert completions("sample.absent.d", NAMES) == []
    assert completions("sample.state.unset.d", NAMES) == []
    assert Sample.asked == 0


def test_there_is_an_end_to_what_is_offered() -> None:
    assert len(completions("many.n", NAMES)) == MAX_NAMES


def test_what_is_no_dotted_name_has_no_completion() -> None:
    for text in ("f().x", "1.", "a b", "sample..x", ".x"):
        assert completions(text, NAMES) == []
