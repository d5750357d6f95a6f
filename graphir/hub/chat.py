"""From a conversation to the text that a model was trained to continue, by the model's own template."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from graphir.errors import DataError, MissingDependencyError
from graphir.extras import install

#: Characters of the longest template that is read; those that people use have some thousand.
LONGEST_TEMPLATE = 1 << 18
#: Characters of the longest text that is made of a conversation, for each that the conversation has, and beside it.
_GROWTH, _BESIDE = 4, 1 << 20
#: Seconds and bytes that a template may take.
SECONDS, MEMORY = 5, 1 << 30

_PROGRAM = Path(__file__).with_name("template.py")


@dataclass(frozen=True)
class ChatTemplate:
    """A jinja2 template, and the special tokens' texts that it may name (`bos_token`, `eos_token`, …)."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text that ends where the assistant's answer begins.

        `messages` are `{"role": "user", "content": "…"}`, in their order. The template runs in jinja2's immutable
        sandbox, in a process of its own with 5 s and 1 GiB, and sees nothing but the messages and special tokens.
        Errors: DataError for a template that fails, or takes more than that; MissingDependencyError without jinja2.
        """
        if find_spec("jinja2") is None:
            raise MissingDependencyError(f"a chat template needs jinja2: {install('hub')}")
        if len(self.source) > LONGEST_TEMPLATE:
            raise DataError(f"the chat template has {len(self.source):,} characters, more than {LONGEST_TEMPLATE:,}")
        variables = {**self.tokens, "messages": list(messages), "add_generation_prompt": True}
        length = _BESIDE + _GROWTH * sum(len(text) for message in messages for text in message.values())
        said = {"template": self.source, "variables": variables}
        limits = {"output": length, "seconds": SECONDS, "memory": MEMORY}
        try:
            # Isolated: nothing of the environment or of the folder one is in has a say in what is imported.
            done = subprocess.run(
                [sys.executable, "-I", str(_PROGRAM)],
                input=json.dumps({**said, **limits}),
                capture_output=True,
                encoding="utf-8",
                timeout=4 * SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"the chat template takes more than {SECONDS} s; its loops may have no end") from None
        if done.returncode < 0:  # by a signal of the system
            raise DataError(f"the chat template takes more than {SECONDS} s; its loops may have no end")
        if done.returncode or not done.stdout:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it ends without a text"
            raise DataError(f"the chat template cannot be rendered: {reason}")
        return str(json.loads(done.stdout))
