# Reads PEM and DER.
# In: a file's bytes.  Out: DER blocks.  Next: credentials.py, ussl.py.
from binascii import a2b_base64


def der_blocks(data, name):
    """The DER blocks in data: data itself, or the blocks of a PEM (RFC 7468) without parameters. Raises ValueError,
    whose text begins with name.

    It is done here because firmware without MBEDTLS_PEM_PARSE_C reads DER only, and none reads a PEM of several CAs.
    """
    if data[:1] == b"\x30":
        # One SEQUENCE and nothing else. Its length (X.690 section 8.1.3) shows when a copy is cut off.
        n = data[1] if len(data) > 1 else 0
        start = 2
        if n & 128:
            start += n & 127
            n = int.from_bytes(data[2:start], "big")
        if len(data) != start + n:
            raise ValueError("%s is cut off or damaged: copy it again" % name)
        return [data]
    found = []
    for part in data.split(b"-----BEGIN ")[1:]:
        label, _, body = part.partition(b"-----")
        body, end, _ = body.partition(b"-----END " + label + b"-----")
        if not end:
            raise ValueError("%s is cut off: copy it again" % name)
        if label.startswith(b"ENCRYPTED") or b"ENCRYPTED" in body:
            raise ValueError("%s has a passphrase: store it without one (openssl pkey -in OLD -out NEW)" % name)
        if not label.endswith(b"PARAMETERS"):
            try:
                found.append(a2b_base64(body))
            except ValueError:
                raise ValueError("%s is damaged: copy it again" % name)
    if not found:
        raise ValueError("%s is neither PEM nor DER: copy it again" % name)
    return found
