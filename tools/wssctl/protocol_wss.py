"""Where pyserial looks for the handler of wss:// addresses (tools/serial_handler.py):

    from wssctl import protocol_wss; protocol_wss.install()
"""

from .tools.serial_handler import Lost, Serial, install

__all__ = ["Lost", "Serial", "install"]
