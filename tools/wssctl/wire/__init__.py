"""One connection: what every tool sees of it (link.py), over TLS and WebSocket (websocket.py, tls.py) or through a
process that keeps it (kept.py; holder.py, start.py and watch.py are that process, its start and what ends it); login
and REPL (client.py), files (remote.py), and the certificates of strangers (glance.py)."""
