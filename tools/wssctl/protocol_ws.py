"""pyserial's handler for ws:// addresses, as protocol_wss.py: plain WebREPL, for a network you trust."""

from .protocol_wss import Serial

__all__ = ["Serial"]
