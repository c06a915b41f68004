# Two loops over every byte that comes in or goes out, made on the board from text that is let go of afterwards.
# In: nothing.  Out: unmask(), text_frames().  Next: port.py, which unloads this.
#
# Where the firmware can compile them to machine code, 1 KB takes 1 to 2 us instead of 60 to 300. It is done on the
# board: a .mpy file with machine code in it fits only one processor.

# unmask(data, key, n): the masking of RFC 6455 section 5.3. XOR n bytes of data (a writable memoryview) with key (4).
try:
    exec("""@micropython.viper
def unmask(data:ptr8,key:ptr8,n:int):
 i=0
 if not int(data)&3:
  d=ptr32(data)
  k=ptr32(key)
  while i<n>>2:
   d[i]^=k[0]
   i+=1
  i<<=2
 while i<n:
  data[i]^=key[i&3]
  i+=1
""")
except (SyntaxError, MemoryError):  # the firmware has no such emitter, or no memory from which code can run

    def unmask(data, key, n):
        # A KeyboardInterrupt in a loop would leave it half done. This has no jump (guard.py): map() goes on in C.
        def part(i):
            d = data[i : i + 256]
            k = len(d)
            d[:] = (int.from_bytes(d, "big") ^ int.from_bytes((key * 64)[:k], "big")).to_bytes(k, "big")

        try:
            return any(map(part, range(0, n, 256)))
        except:  # no memory: half of it may be done, and nobody could go on  # noqa: E722
            raise OSError(12)  # ENOMEM


# text_frames(b, i, n): make TEXT frames of up to 125 bytes, at the beginning of b, from the text at b[i:n]: as many as
# have room for their headers before i. A line's end is a frame of its own, and so is a prompt (">>> ", "... ", "=== ",
# shared/runtime/pyexec.c) at a line's beginning or at the end of the text. All bytes of a character in UTF-8 are in the
# same frame. Returns what was found << 24 | where the rest of the text begins << 12 | where the frames end. What was
# found is a sum: 1, a byte that is not ASCII; 2, what may be the REPL's announcement of raw or paste mode (modes.py);
# 4, a prompt at the beginning of the last line; and always 8.
_TEXT_FRAMES = """
def text_frames(b:ptr8,i:int,n:int)->int:
 j=0
 f=8
 while i<n and j+2<=i:
  e=i+125
  if e>n:
   e=n
  k=i
  while k<e and (b[k]!=13 or k+1>=n or b[k+1]!=10):
   k+=1
  if k==i:
   k+=2
   f&=-5
  elif k==e and k<n:
   while k>e-3 and b[k]&192==128:
    k-=1
  p=i
  while p+4<=k:
   c=int(b[p])
   if b[p+3]==32 and c==b[p+1] and c==b[p+2] and (c==62 or c==46 or c==61):
    k=p
    if p==i:
     k+=4
     f|=4
    break
   if k<n or p==k-4:
    break
   p=k-4
  if k-i==24 and b[i]==114 or k-i==46 and b[i]==112:
   f|=2
  b[j]=129
  b[j+1]=k-i
  j+=2
  while i<k:
   if b[i]>127:
    f|=1
   b[j]=b[i]
   i+=1
   j+=1
 return f<<24|i<<12|j
"""
try:
    exec("@micropython.viper" + _TEXT_FRAMES)
except (SyntaxError, MemoryError):
    exec(_TEXT_FRAMES)
del _TEXT_FRAMES
