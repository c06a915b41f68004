// sys.stdin, sys.stdout and sys.stderr as boards have them: over mp_hal_stdin_rx_chr() and friends instead of file
// descriptors. The linker gives these to everything that asks for the unix port's.
#define mp_sys_stdin_obj __wrap_mp_sys_stdin_obj
#define mp_sys_stdout_obj __wrap_mp_sys_stdout_obj
#define mp_sys_stderr_obj __wrap_mp_sys_stderr_obj
#include "shared/runtime/sys_stdio_mphal.c"

// The boards' way of turning LF into CR LF. Kept as it is because a dupterm stream sees the pieces it cuts.
#define mp_hal_stdout_tx_str board_stdout_tx_str
#define mp_hal_stdout_tx_strn_cooked board_stdout_tx_strn_cooked
void board_stdout_tx_str(const char *str);
void board_stdout_tx_strn_cooked(const char *str, size_t len);
#include "shared/runtime/stdout_helpers.c"
