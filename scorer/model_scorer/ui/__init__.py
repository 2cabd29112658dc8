"""The try-it page at `/ui`: what it takes is a description of the model, what it gives are finished answers by path.

The page is plain HTML, CSS and JavaScript from this package: it asks no other host, sets no cookie, and needs no build.
`description.py` says what the page must know of a model; `pages.py` makes the answers. The package never scores, never
reads keys and never looks at a request: the page calls the same routes as every other client.
"""

from model_scorer.ui.description import describe_model
from model_scorer.ui.pages import OPEN_PATHS, build_ui

__all__ = ["OPEN_PATHS", "build_ui", "describe_model"]
