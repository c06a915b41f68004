"""Streams of frames (lines: hex, then opcode:hex of each frame): does the decoder read what is written there?"""

import random
import sys
from binascii import unhexlify

from wss.frames import Decoder

same = 0
with open(sys.argv[1]) as f:
    for line in f:
        stream, *want = line.split()
        want = [(int(w.partition(":")[0]), unhexlify(w.partition(":")[2])) for w in want]
        want = [w for w in want if w[1] or w[0] > 7]  # of an empty data frame the decoder says nothing
        got = []

        def sink(op, payload, start, got=got):
            if start:
                got.append([op, b""])
            got[-1][1] += payload
            return len(payload)

        decoder = Decoder(sink)
        data = bytearray(unhexlify(stream))
        i = 0
        random.seed(len(data))
        while i < len(data):
            k = random.choice((1, 2, 7, 64, 255, 2048))
            piece = memoryview(bytearray(data[i : i + k]))
            decoder.at = 0
            while decoder.at < len(piece):
                decoder.feed(piece)
            i += k
        if [tuple(g) for g in got] != want:
            raise ValueError("read %s, not %s" % (got, want))
        same += 1
        if same % 50 == 0:
            print("at", same)
print("same", same)
