"""A chat template, rendered in a process of its own: a program that reads JSON from stdin and writes a text to stdout.

Templates are programs that come with a model. jinja2's immutable sandbox keeps them from all that Python can do; what
it cannot bound is how long one runs and how much it makes (a list that holds itself twice, sixty times over). So this
file is run by `graphir.hub.chat` as a program, under limits that the system keeps, and imports nothing of graphir.

The names that templates expect are those of transformers: `messages`, `add_generation_prompt`, `raise_exception`,
`strftime_now`, the texts of special tokens, the filter `tojson`.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any, NoReturn


def render(said: dict[str, Any]) -> str:
    """The text of `said["template"]` with the variables `said["variables"]`, at most `said["output"]` characters."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: object) -> NoReturn:
        raise TemplateError(str(message))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    # jinja2's own makes HTML safe, which no prompt is.
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda wanted: datetime.now().strftime(wanted)
    pieces, length = [], 0
    for piece in environment.from_string(said["template"]).generate(said["variables"]):
        pieces.append(piece)
        length += len(piece)
        if length > said["output"]:
            raise TemplateError(f"it makes more than {said['output']:,} characters")
    return "".join(pieces)


def limit(seconds: int, memory: int) -> None:
    """Has the system end this process after so much time, and refuse it more memory, where it can."""
    try:
        import resource
    except ImportError:  # Windows: who started this process ends it after as many seconds
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> int:
    """Answers one request; says on stderr what is wrong with the template, and returns 1 for it."""
    said = json.load(sys.stdin)
    limit(said["seconds"], said["memory"])
    try:
        text = render(said)
    except MemoryError:
        print("it takes more memory than it may", file=sys.stderr)
        return 1
    except RecursionError:
        print("it calls itself too deeply", file=sys.stderr)
        return 1
    except Exception as error:  # a template may raise what it likes
        print(error, file=sys.stderr)
        return 1
    json.dump(text, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
