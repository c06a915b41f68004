// The feature level of an ESP32 build, on the unix port. What differs from the unix port is in board_config.h.
#define MICROPY_CONFIG_ROM_LEVEL (MICROPY_CONFIG_ROM_LEVEL_EXTRA_FEATURES)
#include "variants/mpconfigvariant_common.h"
