// As ports/rp2/lwip_inc/arch/cc.h. Assertions are off there, too, and have to be: closing a listening socket,
// extmod/modlwip.c sets callbacks that a listening PCB does not have.
#ifndef BOARD_LWIP_ARCH_CC_H
#define BOARD_LWIP_ARCH_CC_H

#define LWIP_PLATFORM_DIAG(x)
#define LWIP_PLATFORM_ASSERT(x)

#define LWIP_NO_CTYPE_H 1

#endif
