// Included by extmod/modmachine.c: what an ESP32 has in its machine module and the bundle uses.
// Up to 1.24 the port defines this variable, because pyexec.c, where it belongs, is not part of the port.
#define pyexec_system_exit unix_pyexec_system_exit
#include "ports/unix/modmachine.c"
#undef pyexec_system_exit

MP_DECLARE_CONST_FUN_OBJ_0(board_unique_id_obj);
MP_DECLARE_CONST_FUN_OBJ_0(board_reset_obj);
extern const mp_obj_type_t board_timer_type;
extern const mp_obj_type_t board_rtc_type;
extern const mp_obj_type_t board_wdt_type;

#define MICROPY_PY_MACHINE_EXTRA_GLOBALS \
    { MP_ROM_QSTR(MP_QSTR_unique_id), MP_ROM_PTR(&board_unique_id_obj) }, \
    { MP_ROM_QSTR(MP_QSTR_reset), MP_ROM_PTR(&board_reset_obj) }, \
    { MP_ROM_QSTR(MP_QSTR_Timer), MP_ROM_PTR(&board_timer_type) }, \
    { MP_ROM_QSTR(MP_QSTR_RTC), MP_ROM_PTR(&board_rtc_type) }, \
    { MP_ROM_QSTR(MP_QSTR_WDT), MP_ROM_PTR(&board_wdt_type) },
