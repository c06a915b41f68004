# A block device in memory, whose power can fail. Nothing but this class: boot.py of a board may have it as text.
class Ram:
    """After `left` writes (None: never) nothing is written any more, the last one by half if `torn`; each raises."""

    def __init__(self, blocks, size=512, data=None):
        self.size = size
        self.data = bytearray(blocks * size) if data is None else bytearray(data)
        self.left = None
        self.torn = False
        self.gone = False  # nobody is to be told any more: what a collector closes of a board that is off

    def readblocks(self, n, buf, offset=0):
        if self.gone:
            return
        at = n * self.size + offset
        buf[:] = memoryview(self.data)[at : at + len(buf)]

    def writeblocks(self, n, buf, offset=None):
        if self.gone:
            return
        at = n * self.size + (offset or 0)
        if self.left is not None:
            if self.left <= 0:
                if self.torn and not self.left:
                    self.data[at : at + len(buf) // 2] = buf[: len(buf) // 2]
                self.left -= 1
                raise OSError(5)
            self.left -= 1
        self.data[at : at + len(buf)] = buf

    def ioctl(self, op, arg):
        if op == 4:
            return len(self.data) // self.size
        if op == 5:
            return self.size
        if op == 6:
            # littlefs erases before it writes: flash loses what was there
            if self.left is not None and self.left <= 0:
                raise OSError(5)
            for i in range(arg * self.size, (arg + 1) * self.size):
                self.data[i] = 0xFF
        return 0
