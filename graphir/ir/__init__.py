"""The language: dims, types, signatures, operators, graphs, and what can be said of them without running."""
