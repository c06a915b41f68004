// What an ESP32 has around the MicroPython VM: a UART, timers, an event poll hook, resets.
//
// One extra thread stands in for the hardware. Like an interrupt handler it never touches the MicroPython heap and
// runs no Python: it reads file descriptor 0 into a FIFO, watches for the interrupt character, and schedules timer
// callbacks. The file names ESP32's counterparts; they were read in MicroPython 1.23.0 to 1.29.0-preview (1c3c201149).
// Where ESP32 changed in between, the stand-in does what the version it is built from does: see SINCE().

#define _GNU_SOURCE // ppoll
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "py/builtin.h"
#include "py/gc.h"
#include "py/mphal.h"
#include "py/mpthread.h"
#include "py/runtime.h"
#include "py/stream.h"
#include "extmod/misc.h"
#include "shared/readline/readline.h"
#include "shared/runtime/pyexec.h"

#if MICROPY_PY_LWIP
// Where sockets are lwIP's, what differs between ESP32 and RP2 is as on RP2: timers, stdin, the order of a soft reset.
#define RP2 (1)
void board_lwip_start(void);
int board_lwip_keep(void);
#else
#define RP2 (0)
#endif

// Whether the MicroPython that this is built from is 1.MINOR or later. A preview counts as the release it leads to.
#define SINCE(minor) (MICROPY_VERSION >= MICROPY_MAKE_VERSION(1, minor, 0))

#define TIMERS (4) // SOC_TIMER_GROUP_TOTAL_TIMERS of an ESP32
#define VIRTUAL_TIMERS (32) // an ESP32 has as many as its memory holds
#define FIFO_SIZE (4096)
// Not a real-time signal: those queue, and a full queue (it is one for all processes of a user) would make the garbage
// collector of another board wait for ever for a thread that never got its signal (ports/unix/mpthreadport.c).
#define SIG_POKE SIGUSR2

static bool board_mode; // whether _board.run() was called; otherwise this is a plain unix MicroPython with extras
static char **saved_argv;
static pthread_t main_thread;
static int main_event = -1; // eventfd: wakes the main thread from board_wait()
static int hw_event = -1; // eventfd: wakes the hardware thread from poll()
static uint64_t dog_due_us; // when the watchdog resets the board, 0 while there is none
static uint64_t dog_period_us;
static void restart(bool soft);

static void event_set(int fd) {
    uint64_t one = 1;
    int err = errno;
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0) {
        // The counter is saturated, so it is set.
    }
    errno = err;
}

static void event_clear(int fd) {
    uint64_t n;
    if (read(fd, &n, sizeof(n)) < 0) {
        // It was clear already.
    }
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

// mp_hal_wake_main_task(), and MICROPY_SCHED_HOOK_SCHEDULED.
void board_wake(void) {
    event_set(main_event);
}

static bool something_pending(void) {
    return MP_STATE_VM(sched_state) == MP_SCHED_PENDING || MP_STATE_MAIN_THREAD(mp_pending_exception) != MP_OBJ_NULL;
}

// A board starts with its clock at 2000-01-01. BOARD_CLOCK (seconds) shifts the clock that Python and mbedTLS see.
int64_t board_clock_s(void); // board_control.c
extern bool board_heap_is_gone;
int __wrap_gettimeofday(struct timeval *tv, void *zone) {
    (void)zone;
    const char *shift = getenv("BOARD_CLOCK");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    tv->tv_sec = t.tv_sec + (shift ? atol(shift) : 0) + board_clock_s();
    tv->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t __wrap_time(time_t *t) {
    struct timeval tv;
    __wrap_gettimeofday(&tv, NULL);
    if (t) {
        *t = tv.tv_sec;
    }
    return tv.tv_sec;
}

// Their names in a 32-bit program with a 64-bit time_t, which the unix port has since 1.26.
int __wrap___gettimeofday64(struct timeval *tv, void *zone) {
    return __wrap_gettimeofday(tv, zone);
}

time_t __wrap___time64(time_t *t) {
    return __wrap_time(t);
}

/******************************************************************************/
// The hardware thread

static pthread_mutex_t hw_lock = PTHREAD_MUTEX_INITIALIZER; // guards the FIFO and the timers
static bool uart_on, uart_eof;
static uint8_t fifo[FIFO_SIZE + 512]; // room for the ring's content on top, see restart()
static size_t fifo_len;

static struct {
    bool used, armed, repeat;
    uint64_t period_us, start_us, due_us;
} timers[TIMERS + VIRTUAL_TIMERS];

// The Python side of the timers: object and callback. A virtual timer has its row only while it is in use.
MP_REGISTER_ROOT_POINTER(mp_obj_t board_timers[4 + 32][2]);
_Static_assert(TIMERS + VIRTUAL_TIMERS == 4 + 32, "as above");

int mp_interrupt_char = -1;

static void uart_receive(void) {
    uint8_t *p = fifo + fifo_len;
    ssize_t n = read(STDIN_FILENO, p, FIFO_SIZE - fifo_len);
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
        uart_eof = true;
    }
    for (ssize_t i = 0; i < n; ++i) {
        if (p[i] == mp_interrupt_char) {
            mp_sched_keyboard_interrupt();
        } else {
            fifo[fifo_len++] = p[i];
        }
    }
}

static void *hardware(void *arg) {
    const char *parent = getenv("BOARD_PARENT");
    bool poke = false;
    for (;;) {
        pthread_mutex_lock(&hw_lock);
        bool room = uart_on && !uart_eof && fifo_len < FIFO_SIZE;
        int timeout_ms = poke ? 10 : uart_eof ? 100 : -1;
        uint64_t now = now_us();
        uint64_t first = UINT64_MAX;
        for (int i = 0; i < TIMERS + VIRTUAL_TIMERS; ++i) {
            if (timers[i].armed && timers[i].due_us < first) {
                first = timers[i].due_us;
            }
        }
        if (dog_due_us && dog_due_us < first) {
            first = dog_due_us;
        }
        pthread_mutex_unlock(&hw_lock);

        struct timespec wait = { timeout_ms / 1000, timeout_ms % 1000 * 1000000L };
        if (first != UINT64_MAX) {
            uint64_t us = first > now ? first - now : 0;
            if (timeout_ms < 0 || us < timeout_ms * 1000ULL) {
                wait.tv_sec = us / 1000000;
                wait.tv_nsec = us % 1000000 * 1000;
                timeout_ms = 0;
            }
        }
        struct pollfd fds[2] = {
            { .fd = hw_event, .events = POLLIN },
            { .fd = room ? STDIN_FILENO : -1, .events = POLLIN },
        };
        ppoll(fds, 2, timeout_ms < 0 ? NULL : &wait, NULL);
        if (fds[0].revents) {
            event_clear(hw_event);
        }

        // Whoever started the board is gone, and with it anybody who could stop it.
        if (uart_eof && parent && getppid() != atoi(parent)) {
            _exit(0);
        }

        // A main thread that sits in a system call gets EINTR, looks at what is pending and goes on, as ESP32's
        // blocking socket calls do every 100 ms. Not during a garbage collection, whose sem_wait() takes no EINTR.
        if (poke && something_pending() && MP_STATE_MAIN_THREAD(gc_lock_depth) == 0) {
            pthread_kill(main_thread, SIG_POKE);
        }

        pthread_mutex_lock(&hw_lock);
        if (fds[1].revents) {
            uart_receive();
            board_wake();
        }
        now = now_us();
        if (dog_due_us && dog_due_us <= now) {
            restart(false);
        }
        for (int i = 0; i < TIMERS + VIRTUAL_TIMERS; ++i) {
            if (timers[i].armed && timers[i].due_us <= now) {
                mp_sched_schedule(MP_STATE_VM(board_timers)[i][1], MP_STATE_VM(board_timers)[i][0]);
                timers[i].armed = timers[i].repeat;
                timers[i].due_us += timers[i].period_us;
                if (timers[i].due_us <= now) {
                    // This machine was busy; an ESP32's timer would not have missed these.
                    timers[i].due_us = now + timers[i].period_us;
                }
            }
        }
        poke = something_pending();
        pthread_mutex_unlock(&hw_lock);
    }
    return arg;
}

static void on_poke(int sig) {
    (void)sig;
}

static void hardware_start(void) {
    static bool started;
    if (!started) {
        started = true;
        hw_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct sigaction sa = { .sa_handler = on_poke }; // without SA_RESTART
        sigaction(SIG_POKE, &sa, NULL);
        // Signals to the process are for the main thread.
        sigset_t all, old;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        pthread_t id;
        if (pthread_create(&id, NULL, hardware, NULL) != 0) {
            mp_raise_OSError(errno);
        }
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    event_set(hw_event);
}

/******************************************************************************/
// Waiting (MICROPY_EVENT_POLL_HOOK in ports/esp32/mpconfigport.h, mp_hal_delay_ms in ports/esp32/mphalport.c)

// Sleeps until something happens, at most the given time or a millisecond: select() has objects to look at again.
static void wait_us(uint64_t us) {
    if (something_pending()) {
        return;
    }
    struct pollfd fds[1 + BOARD_SOCKETS] = {{ .fd = main_event, .events = POLLIN }};
    #if RP2
    int n = 1;
    #else
    int n = 1 + board_socket_fds(fds + 1, &us);
    #endif
    struct timespec t = { us / 1000000, us % 1000000 * 1000 };
    MP_THREAD_GIL_EXIT();
    ppoll(fds, n, &t, NULL);
    if (fds[0].revents) {
        event_clear(main_event);
    }
    MP_THREAD_GIL_ENTER();
}

void board_wait(mp_uint_t ms) {
    wait_us(ms == 0 ? 0 : 1000);
}

void board_delay_ms(mp_uint_t ms) {
    uint64_t end = now_us() + ms * 1000ULL;
    for (;;) {
        mp_event_handle_nowait();
        uint64_t now = now_us();
        if (now >= end) {
            return;
        }
        wait_us(MIN(end - now, 10000));
    }
}

void mp_hal_delay_us(mp_uint_t us) {
    uint64_t end = now_us() + us;
    for (;;) {
        uint64_t now = now_us();
        if (now >= end) {
            return;
        }
        MP_THREAD_GIL_EXIT();
        usleep(MIN(end - now, 1000));
        MP_THREAD_GIL_ENTER();
        if (now + 1000 < end) {
            mp_handle_pending(true);
        }
    }
}

/******************************************************************************/
// stdin and stdout (ports/esp32/mphalport.c)

static uint8_t stdin_ringbuf_array[RP2 ? 512 : 260];
ringbuf_t stdin_ringbuf = { stdin_ringbuf_array, sizeof(stdin_ringbuf_array), 0, 0 };

// What ESP32's UART interrupt does byte by byte. Here it waits for room instead of dropping: a pipe delivers in an
// instant what takes a UART's sender seconds.
static void uart_to_ring(void) {
    if (!uart_on) {
        uart_on = true;
        hardware_start();
    }
    pthread_mutex_lock(&hw_lock);
    size_t n = MIN(fifo_len, ringbuf_free(&stdin_ringbuf));
    for (size_t i = 0; i < n; ++i) {
        ringbuf_put(&stdin_ringbuf, fifo[i]);
    }
    bool was_full = fifo_len >= FIFO_SIZE;
    fifo_len -= n;
    memmove(fifo, fifo + n, fifo_len);
    pthread_mutex_unlock(&hw_lock);
    if (was_full && n) {
        event_set(hw_event);
    }
}

// From 1.28 on ESP32 also reads straight from dupterm when the ring is empty (MicroPython's commit a63cc639f2).
// BOARD_STDIN=pull does so in an older version, and BOARD_STDIN=ring reads the ring alone in a newer one. RP2 always did.
static bool stdin_pulls(void) {
    static int pull = -1;
    if (pull < 0) {
        const char *s = getenv("BOARD_STDIN");
        pull = s && *s ? strcmp(s, "pull") == 0 : SINCE(28) || RP2;
    }
    return pull;
}

int __wrap_mp_hal_stdin_rx_chr(void) {
    for (;;) {
        uart_to_ring();
        int c = ringbuf_get(&stdin_ringbuf);
        if (c != -1) {
            return c;
        }
        if (stdin_pulls()) {
            c = mp_os_dupterm_rx_chr();
            if (c >= 0) {
                return c;
            }
        }
        if (uart_eof) {
            if (!board_mode) {
                return CHAR_CTRL_D;
            }
            // The other end of the UART is closed and all it sent has been used.
            _exit(0);
        }
        mp_event_handle_nowait();
        wait_us(stdin_pulls() ? 1000 : 10000);
    }
}

uintptr_t mp_hal_stdio_poll(uintptr_t poll_flags) {
    uintptr_t ret = mp_os_dupterm_poll(poll_flags);
    uart_to_ring();
    if ((poll_flags & MP_STREAM_POLL_RD) && ringbuf_peek(&stdin_ringbuf) != -1) {
        ret |= MP_STREAM_POLL_RD;
    }
    if (poll_flags & MP_STREAM_POLL_WR) {
        ret |= MP_STREAM_POLL_WR;
    }
    return ret;
}

mp_uint_t __wrap_mp_hal_stdout_tx_strn(const char *str, size_t len) {
    mp_uint_t ret = len;
    bool release_gil = len > 20; // MICROPY_PY_STRING_TX_GIL_THRESHOLD
    if (release_gil) {
        MP_THREAD_GIL_EXIT();
    }
    const char *p = str;
    for (size_t left = len; left;) {
        ssize_t n = write(STDOUT_FILENO, p, left);
        if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            struct pollfd fd = { .fd = STDOUT_FILENO, .events = POLLOUT };
            poll(&fd, 1, 100);
            continue;
        } else if (n < 0) {
            break; // nobody listens; a UART would not care
        }
        p += n;
        left -= n;
    }
    if (release_gil) {
        MP_THREAD_GIL_ENTER();
    }
    int dupterm_res = mp_os_dupterm_tx_strn(str, len);
    if (dupterm_res >= 0) {
        ret = MIN((mp_uint_t)dupterm_res, ret);
    }
    return ret;
}

void board_stdout_tx_str(const char *str);
void board_stdout_tx_strn_cooked(const char *str, size_t len);

void __wrap_mp_hal_stdout_tx_str(const char *str) {
    board_stdout_tx_str(str);
}

void __wrap_mp_hal_stdout_tx_strn_cooked(const char *str, size_t len) {
    if (board_mode) {
        board_stdout_tx_strn_cooked(str, len);
    } else {
        __wrap_mp_hal_stdout_tx_strn(str, len);
    }
}

void __real_mp_hal_set_interrupt_char(char c);
void __wrap_mp_hal_set_interrupt_char(char c) {
    mp_interrupt_char = (signed char)c;
    if (!board_mode) {
        __real_mp_hal_set_interrupt_char(c);
    }
}

/******************************************************************************/
// machine.Timer (ports/esp32/machine_timer.c)
//
// Up to 1.24 two bits of the id say which of the four hardware timers is meant: -1 is the timer 3. 1.25 to 1.28 refuse
// an id beyond 0 to 3. From 1.29 on (67524d6473) a negative id, or none, makes a new virtual timer each time.
// Up to 1.28 a soft reset stops all timers before the heap is swept. From 1.29 on (96de72daee) the finaliser of each
// timer does so, in the sweep: what other objects' finalisers do there may meet timers that still run.
//
// RP2 (ports/rp2/machine_timer.c) has virtual timers alone, with the id -1 or none, each a new object with a finaliser. They
// print no id, and microseconds.
#define FINALISED (SINCE(29) || RP2)

typedef struct _board_timer_obj_t {
    mp_obj_base_t base;
    int id; // as Python sees it
    int slot; // in timers[] and board_timers
} board_timer_obj_t;

static void timer_print(const mp_print_t *print, mp_obj_t self_in, mp_print_kind_t kind) {
    (void)kind;
    board_timer_obj_t *self = MP_OBJ_TO_PTR(self_in);
    int mode = timers[self->slot].repeat ? MP_QSTR_PERIODIC : MP_QSTR_ONE_SHOT;
    unsigned long us = timers[self->slot].period_us;
    if (RP2) {
        mp_printf(print, "Timer(mode=%q, tick_hz=1000000, period=%lu)", mode, us);
    } else {
        mp_printf(print, "Timer(%d, mode=%q, period=%lu)", self->id, mode, us / 1000);
    }
}

static void timer_stop(int slot) {
    pthread_mutex_lock(&hw_lock);
    timers[slot].armed = false;
    timers[slot].start_us = 0;
    #if FINALISED
    // A stopped timer has no period any more (RP2's keeps it), and nothing but the program keeps a virtual one.
    timers[slot].period_us = RP2 ? timers[slot].period_us : 0;
    MP_STATE_VM(board_timers)[slot][1] = MP_OBJ_NULL;
    if (slot >= TIMERS) {
        MP_STATE_VM(board_timers)[slot][0] = MP_OBJ_NULL;
    }
    #endif
    pthread_mutex_unlock(&hw_lock);
}

static mp_obj_t timer_init(size_t n_args, const mp_obj_t *args, mp_map_t *kw_args) {
    enum { ARG_mode, ARG_callback, ARG_period, ARG_tick_hz, ARG_freq };
    static const mp_arg_t allowed[] = {
        { MP_QSTR_mode, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 1} },
        { MP_QSTR_callback, MP_ARG_KW_ONLY | MP_ARG_OBJ, {.u_rom_obj = MP_ROM_NONE} },
        { MP_QSTR_period, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 0x7fffffff} },
        { MP_QSTR_tick_hz, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 1000} },
        { MP_QSTR_freq, MP_ARG_KW_ONLY | MP_ARG_OBJ, {.u_rom_obj = MP_ROM_NONE} },
    };
    int slot = ((board_timer_obj_t *)MP_OBJ_TO_PTR(args[0]))->slot;
    timer_stop(slot);
    mp_arg_val_t vals[MP_ARRAY_SIZE(allowed)];
    mp_arg_parse_all(n_args - 1, args + 1, kw_args, MP_ARRAY_SIZE(allowed), allowed, vals);
    uint64_t us;
    if (vals[ARG_freq].u_obj != mp_const_none) {
        us = (uint64_t)(1000000 / mp_obj_get_float(vals[ARG_freq].u_obj));
    } else {
        us = (uint64_t)vals[ARG_period].u_int * 1000000 / vals[ARG_tick_hz].u_int;
    }
    if (SINCE(29) && !RP2 && us == 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("Timer period is too short for this timer"));
    }
    pthread_mutex_lock(&hw_lock);
    MP_STATE_VM(board_timers)[slot][0] = args[0];
    MP_STATE_VM(board_timers)[slot][1] = vals[ARG_callback].u_obj;
    timers[slot].repeat = vals[ARG_mode].u_int;
    timers[slot].period_us = us;
    timers[slot].start_us = now_us();
    timers[slot].due_us = timers[slot].start_us + MAX(us, 1);
    timers[slot].armed = true;
    pthread_mutex_unlock(&hw_lock);
    hardware_start();
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_KW(timer_init_obj, 1, timer_init);

static mp_obj_t timer_deinit(mp_obj_t self_in) {
    timer_stop(((board_timer_obj_t *)MP_OBJ_TO_PTR(self_in))->slot);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(timer_deinit_obj, timer_deinit);

#if FINALISED
static mp_obj_t timer_del(mp_obj_t self_in) {
    int slot = ((board_timer_obj_t *)MP_OBJ_TO_PTR(self_in))->slot;
    timer_stop(slot);
    MP_STATE_VM(board_timers)[slot][0] = MP_OBJ_NULL;
    timers[slot].used = false;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(timer_del_obj, timer_del);
#endif

static mp_obj_t timer_value(mp_obj_t self_in) {
    int slot = ((board_timer_obj_t *)MP_OBJ_TO_PTR(self_in))->slot;
    if (timers[slot].start_us == 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("timer not set"));
    }
    return mp_obj_new_int_from_uint((now_us() - timers[slot].start_us) % MAX(timers[slot].period_us, 1) / 1000);
}
static MP_DEFINE_CONST_FUN_OBJ_1(timer_value_obj, timer_value);

static mp_obj_t timer_object(const mp_obj_type_t *type, mp_int_t id) {
    if (RP2 && id != -1) {
        mp_raise_ValueError(MP_ERROR_TEXT("Timer doesn't exist"));
    }
    if (!SINCE(25) && !RP2) {
        id &= 3;
    } else if (id >= TIMERS || (id < 0 && !FINALISED)) {
        mp_raise_ValueError(MP_ERROR_TEXT("invalid Timer number"));
    }
    int slot = id;
    if (id < 0) {
        for (slot = TIMERS; timers[slot].used;) {
            if (++slot == TIMERS + VIRTUAL_TIMERS) {
                mp_raise_OSError(ENOMEM);
            }
        }
    } else if (MP_STATE_VM(board_timers)[slot][0] != MP_OBJ_NULL) {
        return MP_STATE_VM(board_timers)[slot][0]; // a hardware timer that exists is returned as it is
    }
    #if FINALISED
    if (id > 0) {
        timer_object(type, id - 1); // the driver hands them out in order
    }
    board_timer_obj_t *self = mp_obj_malloc_with_finaliser(board_timer_obj_t, type);
    #else
    board_timer_obj_t *self = mp_obj_malloc(board_timer_obj_t, type);
    #endif
    self->id = id;
    self->slot = slot;
    timers[slot].used = true;
    if (slot < TIMERS) {
        MP_STATE_VM(board_timers)[slot][0] = MP_OBJ_FROM_PTR(self);
    }
    return MP_OBJ_FROM_PTR(self);
}

static mp_obj_t timer_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw, const mp_obj_t *args) {
    mp_arg_check_num(n_args, n_kw, FINALISED ? 0 : 1, 1, true);
    mp_obj_t self = timer_object(type, n_args ? mp_obj_get_int(args[0]) : -1);
    if (n_kw > 0) {
        mp_map_t kw_args;
        mp_map_init_fixed_table(&kw_args, n_kw, args + n_args);
        timer_init(1, &self, &kw_args);
    }
    return self;
}

static const mp_rom_map_elem_t timer_locals_table[] = {
    #if FINALISED
    { MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&timer_del_obj) },
    #endif
    { MP_ROM_QSTR(MP_QSTR_deinit), MP_ROM_PTR(&timer_deinit_obj) },
    { MP_ROM_QSTR(MP_QSTR_init), MP_ROM_PTR(&timer_init_obj) },
    { MP_ROM_QSTR(MP_QSTR_value), MP_ROM_PTR(&timer_value_obj) },
    { MP_ROM_QSTR(MP_QSTR_ONE_SHOT), MP_ROM_INT(0) },
    { MP_ROM_QSTR(MP_QSTR_PERIODIC), MP_ROM_INT(1) },
};
static MP_DEFINE_CONST_DICT(timer_locals, timer_locals_table);

MP_DEFINE_CONST_OBJ_TYPE(
    board_timer_type,
    MP_QSTR_Timer,
    MP_TYPE_FLAG_NONE,
    make_new, timer_make_new,
    print, timer_print,
    locals_dict, &timer_locals
    );

/******************************************************************************/
// machine.WDT (ports/esp32/machine_wdt.c): one, which a soft reset does not stop

static mp_obj_t wdt_feed(mp_obj_t self_in) {
    (void)self_in;
    pthread_mutex_lock(&hw_lock);
    dog_due_us = now_us() + dog_period_us;
    pthread_mutex_unlock(&hw_lock);
    hardware_start();
    event_set(hw_event);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(wdt_feed_obj, wdt_feed);

static mp_obj_t wdt_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw, const mp_obj_t *args) {
    enum { ARG_id, ARG_timeout };
    static const mp_arg_t allowed[] = {
        { MP_QSTR_id, MP_ARG_INT, {.u_int = 0} },
        { MP_QSTR_timeout, MP_ARG_INT, {.u_int = 5000} },
    };
    mp_arg_val_t vals[MP_ARRAY_SIZE(allowed)];
    mp_arg_parse_all_kw_array(n_args, n_kw, args, MP_ARRAY_SIZE(allowed), allowed, vals);
    if (vals[ARG_id].u_int != 0 || vals[ARG_timeout].u_int <= 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("WDT timeout too short"));
    }
    dog_period_us = (uint64_t)vals[ARG_timeout].u_int * 1000;
    mp_obj_t self = MP_OBJ_FROM_PTR(mp_obj_malloc(mp_obj_base_t, type));
    wdt_feed(self);
    return self;
}

static const mp_rom_map_elem_t wdt_locals_table[] = {
    { MP_ROM_QSTR(MP_QSTR_feed), MP_ROM_PTR(&wdt_feed_obj) },
};
static MP_DEFINE_CONST_DICT(wdt_locals, wdt_locals_table);

MP_DEFINE_CONST_OBJ_TYPE(
    board_wdt_type,
    MP_QSTR_WDT,
    MP_TYPE_FLAG_NONE,
    make_new, wdt_make_new,
    locals_dict, &wdt_locals
    );

/******************************************************************************/
// machine.RTC (ports/esp32/machine_rtc.c): the clock can be set, and keeps its time through resets but not without power

static mp_obj_t rtc_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw, const mp_obj_t *args) {
    mp_arg_check_num(n_args, n_kw, 0, 1, false);
    return MP_OBJ_FROM_PTR(mp_obj_malloc(mp_obj_base_t, type));
}

// (year, month, day, weekday, hour, minute, second, microsecond) in UTC
static mp_obj_t rtc_datetime(size_t n_args, const mp_obj_t *args) {
    struct timeval now;
    __wrap_gettimeofday(&now, NULL);
    struct tm tm;
    if (n_args == 1) {
        gmtime_r(&now.tv_sec, &tm);
        int values[] = { tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, (tm.tm_wday + 6) % 7, tm.tm_hour, tm.tm_min,
                         tm.tm_sec, now.tv_usec };
        mp_obj_t items[8];
        for (int i = 0; i < 8; ++i) {
            items[i] = MP_OBJ_NEW_SMALL_INT(values[i]);
        }
        return mp_obj_new_tuple(8, items);
    }
    mp_obj_t *items;
    mp_obj_get_array_fixed_n(args[1], 8, &items);
    memset(&tm, 0, sizeof(tm));
    tm.tm_year = mp_obj_get_int(items[0]) - 1900;
    tm.tm_mon = mp_obj_get_int(items[1]) - 1;
    tm.tm_mday = mp_obj_get_int(items[2]);
    tm.tm_hour = mp_obj_get_int(items[4]);
    tm.tm_min = mp_obj_get_int(items[5]);
    tm.tm_sec = mp_obj_get_int(items[6]);
    const char *shift = getenv("BOARD_CLOCK");
    char text[24];
    snprintf(text, sizeof(text), "%ld", (long)(timegm(&tm) - now.tv_sec) + (shift ? atol(shift) : 0));
    setenv("BOARD_CLOCK", text, 1);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(rtc_datetime_obj, 1, 2, rtc_datetime);

static const mp_rom_map_elem_t rtc_locals_table[] = {
    { MP_ROM_QSTR(MP_QSTR_datetime), MP_ROM_PTR(&rtc_datetime_obj) },
};
static MP_DEFINE_CONST_DICT(rtc_locals, rtc_locals_table);

MP_DEFINE_CONST_OBJ_TYPE(
    board_rtc_type,
    MP_QSTR_RTC,
    MP_TYPE_FLAG_NONE,
    make_new, rtc_make_new,
    locals_dict, &rtc_locals
    );

/******************************************************************************/
// Identity, start and reset (ports/esp32/main.c)

// Six bytes as an ESP32 has, from BOARD_UID (hexadecimal) where a test needs two boards.
static mp_obj_t unique_id(void) {
    const char *hex = getenv("BOARD_UID");
    if (!hex || !*hex) {
        hex = "30aea4b0a2d0";
    }
    uint8_t id[16];
    size_t n = 0;
    unsigned int byte;
    while (n < sizeof(id) && sscanf(hex + 2 * n, "%2x", &byte) == 1) {
        id[n++] = byte;
        if (strlen(hex) < 2 * n) {
            break;
        }
    }
    return mp_obj_new_bytes(id, n);
}
MP_DEFINE_CONST_FUN_OBJ_0(board_unique_id_obj, unique_id);

// Starts the program again in the same process, which keeps its id, stdin and stdout and loses everything else.
// A soft reset keeps the stdin ring and the kind of REPL, as on ESP32. The caller holds hw_lock, for good: from here on
// the hardware thread must neither read the UART nor wake anybody, as its event's descriptor is about to be closed.
static void restart(bool soft) {
    int state[2] = { -1, -1 };
    if (soft && pipe(state) == 0) {
        uint8_t mode = pyexec_mode_kind;
        int c;
        bool ok = write(state[1], &mode, 1) == 1;
        while (ok && (c = ringbuf_get(&stdin_ringbuf)) != -1) {
            uint8_t byte = c;
            ok = write(state[1], &byte, 1) == 1;
        }
        ok = ok && write(state[1], fifo, fifo_len) == (ssize_t)fifo_len;
        char fd[12];
        snprintf(fd, sizeof(fd), "%d", state[0]);
        setenv("BOARD_STATE", fd, 1);
    }
    if (soft && dog_due_us) {
        char due[24];
        snprintf(due, sizeof(due), "%llu", (unsigned long long)dog_due_us);
        setenv("BOARD_DOG", due, 1);
    }
    #if RP2
    int keep = board_lwip_keep();
    #else
    int keep = -1;
    #endif
    long max = sysconf(_SC_OPEN_MAX);
    for (int fd = 3; fd < MIN(max, 1024); ++fd) {
        if (fd != state[0] && fd != keep) {
            close(fd);
        }
    }
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL); // the hardware thread blocks all, and the new program would inherit that
    // One that was sent just now would end the new program before its main(). The other is the garbage collector's.
    signal(SIG_POKE, SIG_IGN);
    signal(SIGRTMIN + 5, SIG_IGN);
    execv("/proc/self/exe", saved_argv);
    _exit(1);
}

static void restore(void) {
    const char *state = getenv("BOARD_STATE");
    if (state) {
        int fd = atoi(state);
        uint8_t mode;
        if (read(fd, &mode, 1) == 1) {
            pyexec_mode_kind = mode;
            ssize_t n = read(fd, fifo, sizeof(fifo));
            fifo_len = n > 0 ? n : 0;
        }
        close(fd);
        unsetenv("BOARD_STATE");
    }
    const char *due = getenv("BOARD_DOG");
    if (due) {
        dog_due_us = strtoull(due, NULL, 10);
        unsetenv("BOARD_DOG");
        hardware_start();
    }
}

#if !FINALISED
static void timers_off(void) { // machine_timer_deinit_all()
    pthread_mutex_lock(&hw_lock);
    for (int i = 0; i < TIMERS + VIRTUAL_TIMERS; ++i) {
        timers[i].armed = false;
    }
    pthread_mutex_unlock(&hw_lock);
}
#endif

// What a timer or the network has scheduled just before the sweep: it runs as soon as Python code comes to a jump.
static mp_obj_t too_late(mp_obj_t arg) {
    m_malloc(16); // ends the board
    return arg;
}
static MP_DEFINE_CONST_FUN_OBJ_1(too_late_obj, too_late);

static mp_obj_t reset(void) {
    pthread_mutex_lock(&hw_lock);
    restart(false);
    return mp_const_none;
}
MP_DEFINE_CONST_FUN_OBJ_0(board_reset_obj, reset);

// Life of a board from power-on to its next reset. Does not return.
static mp_obj_t run(void) {
    board_mode = true;
    signal(SIGINT, SIG_IGN);
    restore();
    uart_to_ring();
    readline_init0();
    #if RP2
    board_lwip_start();
    #endif

    pyexec_frozen_module("_boot.py", false);
    int ret = pyexec_file_if_exists("boot.py");
    if (!(ret & PYEXEC_FORCED_EXIT) && pyexec_mode_kind == PYEXEC_MODE_FRIENDLY_REPL && ret != 0) {
        ret = pyexec_file_if_exists("main.py");
    }
    while (!(ret & PYEXEC_FORCED_EXIT)) {
        ret = pyexec_mode_kind == PYEXEC_MODE_RAW_REPL ? pyexec_raw_repl() : pyexec_friendly_repl();
    }
    #if RP2 // ports/rp2/main.c: nothing is swept yet
    board_stdout_tx_str("MPY: soft reboot\r\n");
    #endif
    // As ports/esp32/main.c: the line goes to os.dupterm's object as well, which is free memory like all others
    #if !FINALISED
    timers_off();
    #endif
    gc_sweep_all();
    board_heap_is_gone = true;
    mp_sched_schedule(MP_OBJ_FROM_PTR(&too_late_obj), mp_const_none);
    #if !RP2
    board_stdout_tx_str("MPY: soft reboot\r\n");
    #endif
    pthread_mutex_lock(&hw_lock);
    restart(true);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(run_obj, run);

// interrupt_in(n): a Ctrl-C comes when the VM looks for the n-th time whether something is pending (py/vm.c), which it
// does at jumps; 0: none comes. Returns how many looks were left before the one that was set earlier: 0 when it has come.
unsigned board_looks;
static mp_obj_t interrupt_in(mp_obj_t n) {
    unsigned left = board_looks;
    board_looks = mp_obj_get_int(n);
    return MP_OBJ_NEW_SMALL_INT(left);
}
static MP_DEFINE_CONST_FUN_OBJ_1(interrupt_in_obj, interrupt_in);

static const mp_rom_map_elem_t board_globals_table[] = {
    { MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR__board) },
    { MP_ROM_QSTR(MP_QSTR_interrupt_in), MP_ROM_PTR(&interrupt_in_obj) },
    { MP_ROM_QSTR(MP_QSTR_run), MP_ROM_PTR(&run_obj) },
};
static MP_DEFINE_CONST_DICT(board_globals, board_globals_table);

const mp_obj_module_t board_module = {
    .base = { &mp_type_module },
    .globals = (mp_obj_dict_t *)&board_globals,
};
MP_REGISTER_MODULE(MP_QSTR__board, board_module);

int __real_main(int argc, char **argv);
int __wrap_main(int argc, char **argv) {
    saved_argv = argv;
    main_thread = pthread_self();
    main_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return __real_main(argc, argv);
}

// The root of a VfsPosix is "/" to Python; os.getcwd() there would otherwise be an empty string.
char *__real_getcwd(char *buf, size_t size);
char *__wrap_getcwd(char *buf, size_t size) {
    char *ret = __real_getcwd(buf, size);
    const char *root = getenv("BOARD_DIR");
    if (ret && root && strcmp(ret, root) == 0 && strlen(ret) + 2 <= size) {
        strcat(ret, "/");
    }
    return ret;
}
