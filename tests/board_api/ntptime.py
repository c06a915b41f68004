"""micropython-lib's `ntptime` for the stand-in: the time is in a file, "none" is no answer."""


def settime():
    from machine import RTC

    with open("/ntp.txt") as f:
        text = f.read()
    if text == "none":
        raise OSError(110)
    y, month, d, h, m, s = map(int, text.split())
    RTC().datetime((y, month, d, 0, h, m, s, 0))
