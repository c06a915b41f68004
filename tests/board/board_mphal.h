// The unix port's HAL with an ESP32's way of waiting and reading stdin.
#ifndef BOARD_MPHAL_H
#define BOARD_MPHAL_H

#include <poll.h>
#include "py/ringbuf.h"

#define mp_hal_delay_us unix_hal_delay_us
#include "ports/unix/mphalport.h"
#undef mp_hal_delay_us
void mp_hal_delay_us(mp_uint_t us);
void board_delay_ms(mp_uint_t ms);
#define mp_hal_delay_ms board_delay_ms

// What MICROPY_EVENT_POLL_HOOK does on ESP32, in its newer spelling.
void board_socket_events(void);
void board_wait(mp_uint_t ms);
#define MICROPY_INTERNAL_EVENT_HOOK board_socket_events()
#undef MICROPY_INTERNAL_WFE
#define MICROPY_INTERNAL_WFE(TIMEOUT_MS) board_wait(TIMEOUT_MS)

#undef mp_hal_stdio_poll
uintptr_t mp_hal_stdio_poll(uintptr_t poll_flags);
extern ringbuf_t stdin_ringbuf;

#if MICROPY_PY_LWIP
// lwIP calls back by mp_sched_schedule(): there is nothing to look at (ports/rp2/mphalport.h).
#undef MICROPY_INTERNAL_EVENT_HOOK
void board_lwip_enter(void);
void board_lwip_exit(void);
#define MICROPY_PY_LWIP_ENTER board_lwip_enter();
#define MICROPY_PY_LWIP_REENTER board_lwip_enter();
#define MICROPY_PY_LWIP_EXIT board_lwip_exit();
#endif

int board_socket_fds(struct pollfd *fds, uint64_t *wait_us);
#define BOARD_SOCKETS (10) // lwIP's default for CONFIG_LWIP_MAX_SOCKETS

#endif
