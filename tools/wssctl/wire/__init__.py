"""One connection: TLS and WebSocket (link.py), login and REPL (client.py), files (remote.py)."""
