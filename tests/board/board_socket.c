// The unix port's sockets with ESP32's setsockopt(SOL_SOCKET, 20, callback) added (ports/esp32/modsocket.c).
//
// A function-like macro renames a function where it is defined but not where its address is taken, so the port's
// method tables pick up the two functions at the end of this file.
#include "py/mpconfig.h"
#if !MICROPY_PY_LWIP
#define MICROPY_PY_SOCKET (1)
#define socket_setsockopt(n_args, args) unix_socket_setsockopt(n_args, args)
#define socket_ioctl(self, request, arg, errcode) unix_socket_ioctl(self, request, arg, errcode)
#include <stdlib.h>
#include "py/obj.h"
static mp_uint_t (socket_ioctl)(mp_obj_t self, mp_uint_t request, uintptr_t arg, int *errcode);
static mp_obj_t (socket_setsockopt)(size_t n_args, const mp_obj_t *args);
#include "ports/unix/modsocket.c"

#include "py/mpstate.h"

#define SO_CALLBACK (20)

// Two columns: socket and callback. ESP32 keeps them in a list; its number of sockets is the limit there.
MP_REGISTER_ROOT_POINTER(mp_obj_t board_socket_events[10][2]);
_Static_assert(BOARD_SOCKETS == 10, "as above");

static uint64_t last_look_us;
static int period_us = -1;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

static bool socket_callback_add(mp_obj_t sock, mp_obj_t callback) {
    int free_slot = -1;
    for (int i = 0; i < BOARD_SOCKETS; ++i) {
        mp_obj_t *entry = MP_STATE_VM(board_socket_events)[i];
        if (entry[0] == sock) {
            free_slot = i;
            break;
        } else if (entry[0] == MP_OBJ_NULL && free_slot < 0) {
            free_slot = i;
        }
    }
    if (free_slot >= 0) {
        MP_STATE_VM(board_socket_events)[free_slot][0] = sock;
        MP_STATE_VM(board_socket_events)[free_slot][1] = callback;
    }
    return free_slot >= 0;
}

static void socket_callback_forget(mp_obj_t sock) {
    for (int i = 0; i < BOARD_SOCKETS; ++i) {
        if (MP_STATE_VM(board_socket_events)[i][0] == sock) {
            MP_STATE_VM(board_socket_events)[i][0] = MP_OBJ_NULL;
            MP_STATE_VM(board_socket_events)[i][1] = MP_OBJ_NULL;
        }
    }
}

// The sockets to wake up for, within *wait_us. Just after a look these are none, for the rest of the period: a callback
// that leaves its socket readable (it may hold its input back) must not turn the wait into a busy loop.
int board_socket_fds(struct pollfd *fds, uint64_t *wait_us) {
    int n = 0;
    for (int i = 0; i < BOARD_SOCKETS; ++i) {
        mp_obj_t sock = MP_STATE_VM(board_socket_events)[i][0];
        if (sock != MP_OBJ_NULL) {
            fds[n].fd = ((mp_obj_socket_t *)MP_OBJ_TO_PTR(sock))->fd;
            fds[n].events = POLLIN;
            fds[n++].revents = 0;
        }
    }
    uint64_t passed = now_us() - last_look_us;
    if (n > 0 && passed < (uint64_t)period_us) {
        *wait_us = MIN(*wait_us, period_us - passed);
        n = 0;
    }
    return n;
}

// Calls the callbacks of readable sockets, from the event poll hook only.
void board_socket_events(void) {
    if (period_us < 0) {
        // ESP32 looks at every eighth poll of 10 ms. A test that wants that slowness sets BOARD_SOCKET_MS=80.
        const char *ms = getenv("BOARD_SOCKET_MS");
        period_us = ms ? atoi(ms) * 1000 : 1000;
    }
    mp_obj_t ready[BOARD_SOCKETS];
    struct pollfd fds[BOARD_SOCKETS];
    uint64_t us = 0;
    int n = board_socket_fds(fds, &us);
    if (n == 0 || poll(fds, n, 0) <= 0) {
        return;
    }
    last_look_us = now_us();
    int n_ready = 0;
    for (int i = 0; i < BOARD_SOCKETS; ++i) {
        mp_obj_t sock = MP_STATE_VM(board_socket_events)[i][0];
        for (int k = 0; sock != MP_OBJ_NULL && k < n; ++k) {
            if (fds[k].fd == ((mp_obj_socket_t *)MP_OBJ_TO_PTR(sock))->fd && fds[k].revents) {
                ready[n_ready++] = sock;
            }
        }
    }
    for (int k = 0; k < n_ready; ++k) {
        // An earlier callback may have removed this one.
        for (int i = 0; i < BOARD_SOCKETS; ++i) {
            if (MP_STATE_VM(board_socket_events)[i][0] == ready[k]) {
                mp_call_function_1_protected(MP_STATE_VM(board_socket_events)[i][1], ready[k]);
                break;
            }
        }
    }
}

static mp_obj_t (socket_setsockopt)(size_t n_args, const mp_obj_t *args) {
    if (mp_obj_get_int(args[2]) == SO_CALLBACK && (args[3] == mp_const_none || mp_obj_is_callable(args[3]))) {
        if (args[3] == mp_const_none) {
            socket_callback_forget(args[0]);
        } else if (!socket_callback_add(args[0], args[3])) {
            mp_raise_OSError(ENFILE);
        }
        return mp_const_none;
    }
    return unix_socket_setsockopt(n_args, args);
}

static mp_uint_t (socket_ioctl)(mp_obj_t self_in, mp_uint_t request, uintptr_t arg, int *errcode) {
    mp_obj_socket_t *self = MP_OBJ_TO_PTR(self_in);
    if (request == MP_STREAM_CLOSE) {
        // As on ESP32 a second close is harmless; the unix port would close whatever has that number by now.
        if (self->fd < 0) {
            return 0;
        }
        socket_callback_forget(self_in);
        mp_uint_t ret = unix_socket_ioctl(self_in, request, arg, errcode);
        self->fd = -1;
        return ret;
    }
    return unix_socket_ioctl(self_in, request, arg, errcode);
}

#endif
