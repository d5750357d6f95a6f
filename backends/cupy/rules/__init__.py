"""Rules of the CuPy backend."""
