# A unix port that behaves towards Python as an ESP32 does. It needs no change to MicroPython's own files: functions
# that have to differ are replaced at link time (--wrap) or by including the port's source under another name.

# MicroPython's own switch for 32 bits, MICROPY_FORCE_32BIT, was retired after 1.28 (80705342e5): make warns, and builds for
# 64. This is what it did before.
ifeq ($(BOARD_BITS),32)
CFLAGS += -m32
LDFLAGS += -m32
endif

CFLAGS += -DMP_CONFIGFILE='"board_config.h"'
QSTR_GLOBAL_DEPENDENCIES += $(VARIANT_DIR)/board_config.h $(VARIANT_DIR)/board_machine.h
# modwebrepl.c has a warning of its own, and newer compilers find more in older sources.
CFLAGS_EXTRA += -Wno-error

MBEDTLS_CONFIG_FILE = '"board_mbedtls_config.h"'
MICROPY_SSL_MBEDTLS = 1
MICROPY_SSL_AXTLS = 0

# libffi and Berkeley DB are submodules of no use here.
MICROPY_PY_FFI = 0
MICROPY_PY_BTREE = 0
MICROPY_STANDALONE = 0

# board_socket.c includes the port's modsocket.c, so that one stays empty.
MICROPY_PY_SOCKET = 0

# BOARD_LWIP: sockets as RP2 has them, MicroPython's extmod/modlwip.c over lwIP (board_lwip.c).
ifneq ($(BOARD_LWIP),)
MICROPY_PY_LWIP = 1
CFLAGS += -DBOARD_LWIP -DMICROPY_PY_NETWORK=1
INC += -I$(VARIANT_DIR)/lwip_inc
# The address of a struct in a struct is compared with NULL there.
CFLAGS_THIRDPARTY += -Wno-address
QSTR_GLOBAL_DEPENDENCIES += $(VARIANT_DIR)/lwip_inc/lwipopts.h
endif

# board_vfs.c includes vfs_posix.c.
$(BUILD)/extmod/vfs_posix.o: CFLAGS += -DBOARD_EMPTY_VFS_POSIX

# Threads with a GIL, as ESP32 has; without one, as RP2, where sockets are lwIP's. (The port's own switch for it appeared in 1.26.)
MICROPY_PY_THREAD = 0
CFLAGS += -DMICROPY_PY_THREAD=1 -DMICROPY_PY_THREAD_GIL=$(if $(BOARD_LWIP),0,1) -DMICROPY_PY_THREAD_RECURSIVE_MUTEX=1
LDFLAGS += -lpthread

# Up to 1.26 the unix port has a REPL of its own and leaves out the one that boards have.
ifeq ($(shell grep -c runtime/pyexec.c Makefile),0)
SHARED_SRC_C_EXTRA += runtime/pyexec.c
endif

comma := ,
LDFLAGS += $(addprefix -Wl$(comma)--wrap=, main getcwd gettimeofday __gettimeofday64 time __time64 \
	mp_hal_set_interrupt_char mp_hal_stdin_rx_chr \
	mp_hal_stdout_tx_str mp_hal_stdout_tx_strn mp_hal_stdout_tx_strn_cooked \
	mp_sys_stdin_obj mp_sys_stdout_obj mp_sys_stderr_obj \
	gc_alloc gc_realloc calloc mp_hal_ticks_ms \
	$(if $(BOARD_LWIP),tcp_new tcp_bind tcp_listen_with_backlog_and_err udp_new udp_bind tcp_write))
