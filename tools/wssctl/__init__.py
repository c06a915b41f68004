"""Host tools for MicroPython boards that serve their REPL over wss with mutual TLS.

Reading order: cli.py -> keys.py (ca.py, store.py) for keys; cli.py -> client.py -> link.py for a board.
"""

__version__ = "0.1.0"
