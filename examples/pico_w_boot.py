# boot.py for a Pico W: Wi-Fi, the clock, the secure REPL.
# The keys and webrepl_cfg.py with the password are on the board already: `wssctl setup PORT` puts them there.
import time

COUNTRY = "DE"  # which channels may be used
WIFI = ("name", "password")


def connect():
    import network
    import rp2

    rp2.country(COUNTRY)
    station = network.WLAN(network.STA_IF)
    station.active(True)
    station.config(pm=0xA11140)  # without power saving: a keystroke's echo comes at once
    if not station.isconnected():
        station.connect(*WIFI)
        for _ in range(200):
            if station.isconnected() or station.status() < 0:
                break
            time.sleep_ms(100)
    return station.isconnected()


def set_clock():
    # The clock starts in 2021 each time, and certificates have dates. A few attempts: a UDP packet may be lost.
    import ntptime

    for _ in range(3):
        try:
            ntptime.settime()
            return
        except OSError as e:
            print("boot: no time from NTP:", e)


def start():
    # Who presses Ctrl-C on the cable gets a prompt, and the server is there all the same.
    stop = None
    for _ in range(9):
        try:
            import wss_repl

            wss_repl.start(ssl=True)
            break
        except KeyboardInterrupt as e:
            stop = e
        except Exception as e:  # the board must boot all the same
            print("boot: no secure REPL:", e)
            break
    if stop:
        raise stop


try:
    if connect():
        set_clock()
    else:
        print("boot: not in Wi-Fi", WIFI[0])
except Exception as e:
    print("boot: no Wi-Fi:", e)
finally:  # whatever became of Wi-Fi: the server answers when the network is there
    start()
