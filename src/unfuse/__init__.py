"""unfuse: one flat picture in, a stack of editable transparent layers out, and back again exactly."""

__version__ = "0.1.0"
