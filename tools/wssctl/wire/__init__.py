"""One connection: what every tool sees of it (link.py), over TLS and WebSocket (websocket.py, tls.py) or through a
process that keeps it (kept.py; holder.py, start.py and watch.py are that process, its start and what ends it); the
client: its login (client.py), file transfer (files.py) and REPL (terminal.py); what code in that REPL does to a board's
file system (remote.py), and the certificates of strangers (glance.py)."""
