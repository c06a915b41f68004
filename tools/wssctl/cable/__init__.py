"""A board on a serial port: its modules, and its setup."""
