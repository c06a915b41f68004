// The unix port's configuration, then what an ESP32 build has instead (ports/esp32/mpconfigport.h).
#include <mpconfigport.h>

#define MICROPY_MPHALPORT_H "board_mphal.h"

#define MICROPY_HW_BOARD_NAME "Board on the desk"
#ifdef __LP64__
#define MICROPY_HW_MCU_NAME "64-bit unix"
#else
#define MICROPY_HW_MCU_NAME "32-bit unix"
#endif
#undef MICROPY_PY_OS_UNAME
#define MICROPY_PY_OS_UNAME (1)

// Ctrl-C is scheduled into the VM, never raised from a signal handler.
#undef MICROPY_ASYNC_KBD_INTR
#define MICROPY_ASYNC_KBD_INTR (0)

#define MICROPY_PY_OS_DUPTERM (1)
#define MICROPY_PY_OS_DUPTERM_NOTIFY (1)
#define MICROPY_PY_WEBREPL (1)
#define MICROPY_PY_SYS_STDIO_BUFFER (1)

#undef MICROPY_SCHEDULER_DEPTH
#define MICROPY_SCHEDULER_DEPTH (8)
#undef MICROPY_PY_THREAD_GIL_VM_DIVISOR
#define MICROPY_PY_THREAD_GIL_VM_DIVISOR (32)
void board_wake(void);
#define MICROPY_SCHED_HOOK_SCHEDULED board_wake()

// _board.interrupt_in() in board.c
extern unsigned board_looks;
#define MICROPY_VM_HOOK_LOOP \
    if (board_looks != 0 && --board_looks == 0) { \
        mp_sched_keyboard_interrupt(); \
    }

// select and time.sleep wait in mp_event_wait_ms(), where socket callbacks run, instead of in the operating system.
// (From 1.28 on poll() also runs what is pending before it looks, 2782d4598d: that is in extmod/modselect.c, which both
// have.)
#undef MICROPY_PY_SELECT_POSIX_OPTIMISATIONS
#define MICROPY_PY_SELECT_POSIX_OPTIMISATIONS (0)
#undef MICROPY_PY_SELECT_SELECT
#define MICROPY_PY_SELECT_SELECT (1)
#undef MICROPY_PY_TIME_CUSTOM_SLEEP

#undef MICROPY_PY_MACHINE_INCLUDEFILE
#define MICROPY_PY_MACHINE_INCLUDEFILE "board_machine.h"

// A board has one terminal: tracebacks of callbacks go there too.
extern const struct _mp_print_t mp_plat_print;
#undef MICROPY_ERROR_PRINTER
#define MICROPY_ERROR_PRINTER (&mp_plat_print)

// The return values of pyexec on boards. (The unix port has others since 1.27.)
#undef MICROPY_PYEXEC_ENABLE_EXIT_CODE_HANDLING
#undef MICROPY_PYEXEC_COMPILE_ONLY

// What RP2 has instead (ports/rp2/mpconfigport.h).
#if MICROPY_PY_LWIP
#undef MICROPY_HW_BOARD_NAME
#define MICROPY_HW_BOARD_NAME "Board on the desk, sockets by lwIP"
#undef MICROPY_PY_SYS_PLATFORM
#define MICROPY_PY_SYS_PLATFORM "rp2"
#define MICROPY_TRACKED_ALLOC (1) // for mbedTLS
#define MICROPY_PY_LWIP_SOCK_RAW (1)
#undef MICROPY_PY_SOCKET_LISTEN_BACKLOG_DEFAULT
#define MICROPY_PY_SOCKET_LISTEN_BACKLOG_DEFAULT (2)
#define MICROPY_PY_NETWORK_HOSTNAME_DEFAULT "mpy-rp2"
extern const struct _mp_obj_type_t board_wlan_type;
#define MICROPY_PORT_NETWORK_INTERFACES { MP_ROM_QSTR(MP_QSTR_WLAN), MP_ROM_PTR(&board_wlan_type) },
#endif

// See board_vfs.c.
#ifdef BOARD_EMPTY_VFS_POSIX
#undef MICROPY_VFS_POSIX
#define MICROPY_VFS_POSIX (0)
#endif
