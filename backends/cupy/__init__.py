"""The CuPy backend: an optimised graph as calls on a GPU's memory."""
