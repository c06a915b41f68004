# main.py: an asyncio program with the secure REPL beside it (boot.py has joined the network).
# While it runs a client sees what it prints, and gets and puts files; Ctrl-C ends the program, and the REPL answers:
# main() again starts it anew.
import asyncio

import wss_repl

ticks = 0


async def work():
    global ticks
    while True:
        ticks += 1
        if ticks % 100 == 0:
            print("ticks", ticks)
        await asyncio.sleep_ms(10)


async def serve():
    while True:
        wss_repl.poll()
        await asyncio.sleep_ms(20)


async def tasks():
    await asyncio.gather(work(), serve())


def main():
    try:
        asyncio.run(tasks())
    finally:
        asyncio.new_event_loop()  # or the next run() goes on with the old tasks


wss_repl.start(ssl=True)
main()
