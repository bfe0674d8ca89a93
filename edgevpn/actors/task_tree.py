"""The tree of a process's trio tasks as text: who started whom, and where each waits."""

from __future__ import annotations

import os

import trio

MAX_LINES = 500
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the package: its own code is what is of interest


def task_tree(root: trio.lowlevel.Task | None = None) -> str:
    """One line a task, under the task whose nursery it is in. `root`: the whole run's by default."""
    top = trio.lowlevel.current_root_task() if root is None else root
    lines: list[str] = []
    if top is not None:
        _add(top, "", "", lines, trio.lowlevel.current_task())
    if len(lines) > MAX_LINES:
        left = len(lines) - MAX_LINES
        lines[MAX_LINES:] = [f"... {left} lines more"]
    return "\n".join(lines)


def _add(task: trio.lowlevel.Task, first: str, rest: str, lines: list[str], current: trio.lowlevel.Task) -> None:
    mark = "  (this prompt)" if task is current else ""
    lines.append(f"{first}{_name(task)}  {_where(task)}{mark}")
    nurseries = [nursery for nursery in task.child_nurseries if nursery.child_tasks]
    for at, nursery in enumerate(nurseries):
        children = sorted(nursery.child_tasks, key=_name)
        inner = rest
        if len(nurseries) > 1:  # which of the task's nurseries
            lines.append(f"{rest}{'├' if at + 1 < len(nurseries) else '└'}─ nursery {at + 1}")
            inner = rest + ("│  " if at + 1 < len(nurseries) else "   ")
        for number, child in enumerate(children):
            last = number + 1 == len(children)
            _add(child, inner + ("└─ " if last else "├─ "), inner + ("   " if last else "│  "), lines, current)


def _name(task: trio.lowlevel.Task) -> str:
    """The task's name without the packages around it."""
    module, _, function = task.name.partition(".<locals>.")
    short = ".".join(module.split(".")[-2:])
    return f"{short}.{function}" if function else short


def _where(task: trio.lowlevel.Task) -> str:
    """The innermost frame of this package, and what is awaited there."""
    frames = [(frame.f_code, line) for frame, line in task.iter_await_frames()]
    if not frames:
        return "has not run yet"
    ours = [number for number, (code, _) in enumerate(frames) if code.co_filename.startswith((_HERE, "<repl"))]
    code, line = frames[ours[-1] if ours else 0]
    file = code.co_filename.removeprefix(f"{_HERE}/") if ours else os.path.basename(code.co_filename)
    waits = next((below.co_qualname for below, _ in frames[ours[-1] + 1 if ours else 1 :]), "")
    return f"{file}:{line} {code.co_name}" + (f" -> {waits}" if waits else "")
