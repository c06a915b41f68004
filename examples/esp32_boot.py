# boot.py for an ESP32 (and S2, S3, C3, C6): Wi-Fi, the clock, the secure REPL.
# The keys and webrepl_cfg.py with the password are on the board already: `wssctl setup PORT` puts them there.
import time

WIFI = ("name", "password")


def connect():
    import network

    station = network.WLAN(network.STA_IF)
    station.active(True)
    if not station.isconnected():  # it may have stayed so through a soft reset
        try:
            station.connect(*WIFI)
        except OSError as e:  # or it still connects, and then refuses to begin anew
            print("boot: Wi-Fi goes on with what it was doing:", e)
        for _ in range(150):
            if station.isconnected():
                break
            time.sleep_ms(100)
    return station.isconnected()


def set_clock():
    # The clock runs through resets, not without power, and certificates have dates. Without NTP wss_repl goes on from
    # the day of the latest login.
    if time.gmtime()[0] > 2024:
        return
    try:
        import ntptime

        ntptime.settime()
    except (ImportError, OSError) as e:
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
