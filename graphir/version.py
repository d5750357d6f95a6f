"""Which graphir this is: what checkpoints and ranks tell each other."""

__version__ = "0.1.0"
