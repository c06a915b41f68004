"""What the examples use of the boards' `network`, for the stand-in, which has none: Wi-Fi that is joined at once.

Calls are printed; a name that is "out of reach" or "still looked for" is never joined, one that is "joined already" is
refused, as ESP32's connect() does while an earlier one goes on, and joined all the same.
"""

STA_IF = 0
AP_IF = 1


class WLAN:
    def __init__(self, interface):
        self._joined = None
        self._looks = 0

    def active(self, *on):
        return True

    def config(self, **options):
        print("wlan config", options)

    def isconnected(self):
        self._looks += 1
        return self._joined not in (None, "out of reach", "still looked for") and self._looks > 2

    def connect(self, name, password):
        print("wlan connect", name, password)
        self._joined = name
        if name == "joined already":
            raise OSError("Wifi Internal State Error")

    def status(self):
        return {"out of reach": -2, "still looked for": 1}.get(self._joined, 3)

    def ifconfig(self):
        return ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")
