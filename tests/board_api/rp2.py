"""What the examples use of the Pico W's `rp2`."""


def country(code):
    print("country", code)
