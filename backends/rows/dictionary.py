"""All snippets that there are: importing this declares them."""

from graphir.backends.rows import elements, loss, numbers, precision, rowwise

__all__ = ["elements", "loss", "numbers", "precision", "rowwise"]
