// lwIP as RP2 configures it (ports/rp2/lwip_inc/lwipopts.h): the sizes of its buffers and pools, and what depends on them,
// are in MicroPython's extmod/lwip-include/lwipopts_common.h, which boards with lwIP share.
#ifndef BOARD_LWIPOPTS_H
#define BOARD_LWIPOPTS_H

#include <stdint.h>

#define LWIP_NETIF_EXT_STATUS_CALLBACK  1
#define LWIP_NETIF_STATUS_CALLBACK      1

#define LWIP_IPV4                       1
#define LWIP_IPV6                       1
#define LWIP_ND6_NUM_DESTINATIONS       4
#define LWIP_ND6_QUEUEING               0

uint32_t board_random(void);
#define LWIP_RAND() board_random()

#include "extmod/lwip-include/lwipopts_common.h"

#endif
