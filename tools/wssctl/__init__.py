"""Host tools for MicroPython boards that serve their REPL over wss with mutual TLS.

Rooms, by what they know; each imports only from those below it (tests/host/test_layout.py):

    cli.py      parses the command line and calls one function; arguments.py: what commands share
    tools/      what people use: shell, terminal, bridge, transfer, mpremote, keep
    cable/      a board on a serial port: its modules, its setup
    boards/     the boards one has: registry, trust, work on many
    wire/       one connection: link, websocket, tls, client (login, REPL), kept, holder, remote (files)
    onboard/    MicroPython that is sent to boards
    keys/       ROOT CA, key files, secrets
    errors.py   what can go wrong, and its exit code
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # late: it takes longer than a command's other imports

    return version("wssctl")  # pyproject.toml takes it from the bundle: lib/wss/port.py
