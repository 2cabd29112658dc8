"""The page's files and its data as finished answers, with the headers that keep a browser from doing anything else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from model_scorer.dialects.protocol import Answer
from model_scorer.json_text import encode_json

# No inline script or style, no other host, no frame around the page, and no way from text to markup.
# https://www.w3.org/TR/CSP3/, https://www.w3.org/TR/trusted-types/
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_SAFETY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
# Asked for again at each visit and answered 304 while unchanged: a new revision must not meet an old page.
_STATIC = (("Cache-Control", "no-cache"), *_SAFETY)
_PAGE = (
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    *_STATIC,
)
_FILES = {
    "/ui": ("index.html", "text/html; charset=utf-8", _PAGE),
    "/ui/app.css": ("app.css", "text/css; charset=utf-8", _STATIC),
    "/ui/app.js": ("app.js", "text/javascript; charset=utf-8", _STATIC),
    "/ui/forms.js": ("forms.js", "text/javascript; charset=utf-8", _STATIC),
    "/ui/answers.js": ("answers.js", "text/javascript; charset=utf-8", _STATIC),
    "/ui/snippets.js": ("snippets.js", "text/javascript; charset=utf-8", _STATIC),
}
_DATA_PATH = "/ui/model.json"
_SLASH_PATH = "/ui/"

OPEN_PATHS = frozenset({*_FILES, _SLASH_PATH})
"""Paths that are answered without a key: the same bytes for every model. The description of the model is not one."""


def build_ui(description: Mapping[str, Any]) -> dict[str, Answer]:
    """The answers to GET by exact path.

    Args:
        description: of the model, as `describe_model` makes it.

    Returns:
        The page, its scripts and styles, and `/ui/model.json`, which must stay behind the key.
    """
    folder = resources.files(__package__)
    answers = {
        path: Answer(200, folder.joinpath(name).read_bytes(), content_type, headers)
        for path, (name, content_type, headers) in _FILES.items()
    }
    # Relative, so that it also holds behind a proxy that takes a prefix off the path.
    answers[_SLASH_PATH] = Answer(
        308, b"", "text/plain; charset=utf-8", (("Location", "../ui"), *_SAFETY)
    )
    answers[_DATA_PATH] = Answer(
        200, encode_json(description), headers=(("Cache-Control", "no-store"), *_SAFETY)
    )
    return answers
