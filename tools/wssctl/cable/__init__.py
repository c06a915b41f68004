"""A board on a serial port (port.py), and its setup (setup.py): keys (credentials.py), boot.py, clock (startup.py)."""
