# What the firmware can do, as far as only a start has to know. port.py has the rest.
# In: nothing.  Out: what is missing, addresses, suites, a clock.  Next: start.py, credentials.py.
import os
import socket
import sys

from wss.port import tls


def missing():
    """One sentence naming what this firmware lacks for a secure REPL, or None."""
    what = None
    if not hasattr(os, "dupterm"):
        what = "os.dupterm"
    # axTLS (ESP8266) has no CERT_REQUIRED: it cannot ask a client for a certificate.
    elif not hasattr(tls, "CERT_REQUIRED"):
        what = "the tls module with mbedTLS"
    return what and "wss_repl needs %s, which this firmware was built without" % what


def resolve(host, number):
    """What getaddrinfo() knows of an address of this board. Raises ValueError."""
    try:
        if host not in ("0.0.0.0", "::"):  # found out now, while a server at the same port still runs
            found = socket.getaddrinfo(host, 0)[0]
            sock = socket.socket(found[0])
            try:
                sock.bind(found[-1])
            finally:
                sock.close()
            known = addresses("::")  # lwIP binds to any address
            if known != ["::"] and host[:4] != "127." and host not in known and found[-1][0] not in known:
                raise OSError
        return socket.getaddrinfo(host, number)[0]
    except (OSError, IndexError, TypeError):
        raise ValueError("host is an address of this board, and the firmware knows none like %s" % (host,))


def addresses(host):
    """The addresses at which a server listens that listens at host; for messages only."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    # Wi-Fi can be asked for, and Ethernet on ESP32. Other interfaces are found among the variables of boot.py, because
    # a call of such a class would start the interface anew.
    import __main__

    nics = list(__main__.__dict__.values())
    try:
        import network

        nics += [network.WLAN(network.STA_IF), network.WLAN(network.AP_IF)]
        if sys.platform == "esp32":
            nics.append(network.LAN())  # raises without one
    except Exception:  # of many kinds: no Wi-Fi, no Ethernet, no such module
        pass
    found = []
    for nic in nics:
        try:
            address = nic.ifconfig()[0]
            if nic.active() and address != "0.0.0.0" and address not in found:
                found.append(address)
                if host == "::":
                    found += [a[0] for a in nic.ipconfig("addr6")]
        except Exception:  # anything that is no network interface, or has no IPv6
            pass
    return found or [host]


def aead_only(context):
    """Have a TLS context take suites with authenticated encryption alone, not CBC (RFC 7457 section 2.4)."""
    try:
        context.set_ciphers([c for c in context.get_ciphers() if "GCM" in c or "CCM" in c or "CHACHA" in c])
    except AttributeError:
        pass  # before 1.23: what mbedTLS prefers is chosen, which is one of these where the client has one


def set_clock(date):
    """Set the clock to (year, month, day, hour, minute, second) in UTC; False where there is none to set."""
    try:
        from machine import RTC

        y, month, d, h, m, s = date
        RTC().datetime((y, month, d, 0, h, m, s, 0))
        return True
    except (ImportError, OSError, ValueError):
        return False
