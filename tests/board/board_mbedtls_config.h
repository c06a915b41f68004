// mbedTLS as ESP-IDF configures it for MicroPython (ports/esp32/boards/sdkconfig.base): TLS 1.2 only, dates checked. Or,
// where sockets are lwIP's, as RP2 has it (ports/rp2/mbedtls).
#ifndef BOARD_MBEDTLS_CONFIG_H
#define BOARD_MBEDTLS_CONFIG_H

#define MBEDTLS_CIPHER_MODE_CTR // MICROPY_PY_CRYPTOLIB_CTR needs it
#define MBEDTLS_TIMING_C

#ifdef BOARD_LWIP
#define MBEDTLS_ECP_NIST_OPTIM
#define MICROPY_MBEDTLS_CONFIG_BARE_METAL (1) // it takes its memory from the Python heap
#endif

#include "extmod/mbedtls/mbedtls_config_common.h"

#ifdef BOARD_LWIP
// There is no such hardware here: the operating system's random numbers.
#undef MBEDTLS_ENTROPY_HARDWARE_ALT
#undef MBEDTLS_NO_PLATFORM_ENTROPY
#else
// ESP-IDF's defaults that MicroPython's common file leaves out.
#define MBEDTLS_CCM_C
#define MBEDTLS_GCM_C // in the common file since 1.24
#define MBEDTLS_BASE64_C
#define MBEDTLS_PEM_PARSE_C
#define MBEDTLS_SSL_KEEP_PEER_CERTIFICATE
#endif

#endif
