"""What lets an HTML page stand alone: its scripts and styles inside, and a policy that admits nothing else.

A page's content security policy lists the digests of its own scripts, so that a browser runs these and no others,
whatever a label or a file of the user's brings in. Data is JSON in which no `<` stands; it cannot close the element
that holds it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files


def asset(package: str, name: str) -> str:
    """The text of a file that lies beside a package's modules: `asset("graphir.guide", "style.css")`."""
    return files(package).joinpath(*name.split("/")).read_text(encoding="utf-8")


def document_head(title: str, script: str, faces: str, style: str) -> str:
    """A page's beginning, up to its body: its title, what it may run, its fonts and its styles."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{faces}
{style}</style>
</head>"""


def script_json(data: object) -> str:
    """`data` as JSON that may stand inside a script element: nothing in it can close the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(script: str) -> str:
    """The content security policy of a page that runs this script and loads nothing."""
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; font-src data:; script-src 'sha256-{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
