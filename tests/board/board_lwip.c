// The network of a board whose sockets are lwIP's, as RP2 has them: MicroPython's extmod/modlwip.c over lwIP without an
// operating system, here on a TUN device of Linux. Built with BOARD_LWIP only.
//
// RP2 runs lwIP in an interrupt (PendSV): packets when they come, timers every 64 ms (ports/rp2/mpnetworkport.c). Here a
// thread stands in for the interrupt. MICROPY_PY_LWIP_ENTER holds it off, as there. It calls no Python: what modlwip.c
// has to tell Python it schedules.
//
// BOARD_ADDRESS is the board's IPv4 address; this machine's end of the TUN device gets the one before it. BOARD_LINK names a
// file of the numbers of `link_control`, which a test writes while the board runs: a link that loses, reorders, or is
// unplugged.

#define _GNU_SOURCE
#include "py/mpconfig.h"

#if MICROPY_PY_LWIP

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "py/runtime.h"
#include "extmod/modnetwork.h"
#undef htons // lwIP has its own
#undef htonl
#undef ntohs
#undef ntohl
#include "lwip/init.h"
#include "lwip/netif.h"
#include "lwip/tcp.h"
#include "lwip/timeouts.h"
#include "lwip/udp.h"

#define TICK_MS (64) // LWIP_TICK_RATE_MS
#define HOLD_MS (10) // how long a packet that is to be overtaken waits at most
#define MTU (1500)

static struct {
    volatile int32_t loss; // packets of 1000 that are lost
    volatile int32_t reorder; // packets of 1000 that the next one overtakes
    volatile int32_t unplugged;
    volatile int32_t packets, lost, reordered; // so far, both ways
    volatile int32_t no_memory; // how often TCP had no memory, or no place in its queue, for what was to be sent
} no_control, *link_control = &no_control;

static pthread_mutex_t lwip_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int tun = -1;
static struct netif nic;

// What waits to be overtaken, from and to the board.
static struct way {
    void (*deliver)(uint8_t *packet, size_t n);
    size_t n;
    uint8_t packet[MTU];
} inwards, outwards;

void board_lwip_enter(void) {
    pthread_mutex_lock(&lwip_lock);
}

void board_lwip_exit(void) {
    pthread_mutex_unlock(&lwip_lock);
}

u32_t sys_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

uint32_t board_random(void) {
    uint32_t n = 0;
    return getrandom(&n, sizeof(n), 0) > 0 ? n : 0;
}

/******************************************************************************/
// What modlwip.c calls without the lock. On a board an interrupt between two of their instructions is possible and rare;
// here the thread is another processor's, and would meet them all the time.

#define LOCKED(type, name, parameters, arguments) \
    type __real_##name parameters; \
    type __wrap_##name parameters; \
    type __wrap_##name parameters { \
        board_lwip_enter(); \
        type result = __real_##name arguments; \
        board_lwip_exit(); \
        return result; \
    }

LOCKED(struct tcp_pcb *, tcp_new, (void), ())
LOCKED(err_t, tcp_bind, (struct tcp_pcb *pcb, const ip_addr_t *ip, u16_t port), (pcb, ip, port))
LOCKED(struct tcp_pcb *, tcp_listen_with_backlog_and_err, (struct tcp_pcb *pcb, u8_t n, err_t *err), (pcb, n, err))
LOCKED(struct udp_pcb *, udp_new, (void), ())
LOCKED(err_t, udp_bind, (struct udp_pcb *pcb, const ip_addr_t *ip, u16_t port), (pcb, ip, port))

// modlwip.c answers that by waiting: 50 ms, up to 200 times, even where the socket is non-blocking.
err_t __real_tcp_write(struct tcp_pcb *pcb, const void *data, u16_t n, u8_t flags);
err_t __wrap_tcp_write(struct tcp_pcb *pcb, const void *data, u16_t n, u8_t flags);
err_t __wrap_tcp_write(struct tcp_pcb *pcb, const void *data, u16_t n, u8_t flags) {
    err_t err = __real_tcp_write(pcb, data, n, flags);
    link_control->no_memory += err == ERR_MEM;
    return err;
}

/******************************************************************************/
// The link. All of this holds the lock.

static void to_board(uint8_t *packet, size_t n) {
    struct pbuf *p = pbuf_alloc(PBUF_RAW, n, PBUF_POOL);
    if (p && (pbuf_take(p, packet, n) != ERR_OK || nic.input(p, &nic) != ERR_OK)) {
        pbuf_free(p);
    }
}

static void from_board(uint8_t *packet, size_t n) {
    if (write(tun, packet, n) < 0) {
        // The other end is down: on a network the packet would be lost, too.
    }
}

static void release(struct way *way) {
    if (way->n) {
        size_t n = way->n;
        way->n = 0;
        way->deliver(way->packet, n);
    }
}

static void pass(struct way *way, uint8_t *packet, size_t n) {
    ++link_control->packets;
    if (link_control->unplugged || (int32_t)(board_random() % 1000) < link_control->loss) {
        ++link_control->lost;
    } else if (!way->n && (int32_t)(board_random() % 1000) < link_control->reorder) {
        memcpy(way->packet, packet, n);
        way->n = n;
    } else {
        way->deliver(packet, n);
        link_control->reordered += way->n > 0;
        release(way);
    }
}

static err_t nic_output(struct netif *netif, struct pbuf *p) {
    (void)netif;
    uint8_t packet[MTU];
    pass(&outwards, packet, pbuf_copy_partial(p, packet, sizeof(packet), 0));
    return ERR_OK;
}

static err_t nic_output_ip4(struct netif *netif, struct pbuf *p, const ip4_addr_t *to) {
    (void)to;
    return nic_output(netif, p);
}

static err_t nic_output_ip6(struct netif *netif, struct pbuf *p, const ip6_addr_t *to) {
    (void)to;
    return nic_output(netif, p);
}

static err_t nic_init(struct netif *netif) {
    memcpy(netif->name, "w0", 2);
    netif->mtu = MTU;
    netif->output = nic_output_ip4;
    netif->output_ip6 = nic_output_ip6;
    netif->flags = NETIF_FLAG_UP | NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

// Stands in for PendSV.
static void *network(void *arg) {
    for (;;) {
        board_lwip_enter();
        sys_check_timeouts();
        bool held = inwards.n || outwards.n;
        board_lwip_exit();
        struct pollfd fd = { .fd = tun, .events = POLLIN };
        if (poll(&fd, 1, held ? HOLD_MS : TICK_MS) <= 0) {
            board_lwip_enter();
            release(&inwards);
            release(&outwards);
            board_lwip_exit();
            continue;
        }
        uint8_t packet[MTU];
        ssize_t n = read(tun, packet, sizeof(packet));
        if (n > 0) {
            board_lwip_enter();
            pass(&inwards, packet, n);
            board_lwip_exit();
        }
    }
    return arg;
}

static void fail(const char *what) {
    printf("board: %s: %s. It has to be root in its network namespace (unshare -rn).\r\n", what, strerror(errno));
    fflush(stdout);
    _exit(1);
}

static void set_address(int s, unsigned long request, struct ifreq *interface, uint32_t address) {
    struct sockaddr_in *in = (struct sockaddr_in *)&interface->ifr_addr;
    memset(in, 0, sizeof(*in));
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = address;
    if (ioctl(s, request, interface) < 0) {
        fail("the TUN device takes no address");
    }
}

// The TUN device. It stays through resets: the network goes on without the board.
static void tun_open(uint32_t address) {
    const char *fd = getenv("BOARD_TUN");
    if (fd) {
        tun = atoi(fd);
        return;
    }
    tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq interface = { .ifr_flags = IFF_TUN | IFF_NO_PI };
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (tun < 0 || s < 0 || ioctl(tun, TUNSETIFF, &interface) < 0) {
        fail("/dev/net/tun");
    }
    set_address(s, SIOCSIFADDR, &interface, lwip_htonl(lwip_ntohl(address) - 1));
    set_address(s, SIOCSIFDSTADDR, &interface, address);
    interface.ifr_flags = IFF_UP | IFF_RUNNING | IFF_POINTOPOINT;
    if (ioctl(s, SIOCSIFFLAGS, &interface) < 0) {
        fail("the TUN device does not start");
    }
    close(s);
}

// The descriptor that a reset leaves open, -1 if there is none.
int board_lwip_keep(void) {
    if (tun >= 0) {
        char text[12];
        snprintf(text, sizeof(text), "%d", tun);
        setenv("BOARD_TUN", text, 1);
        fcntl(tun, F_SETFD, 0);
    }
    return tun;
}

void board_lwip_start(void) {
    mod_network_init();
    lwip_init();
    const char *name = getenv("BOARD_LINK");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *at = mmap(NULL, sizeof(*link_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        link_control = at == MAP_FAILED ? &no_control : at;
        close(fd);
    }
    ip4_addr_t address, mask, gateway;
    const char *text = getenv("BOARD_ADDRESS");
    if (!text || !ip4addr_aton(text, &address)) {
        return;
    }
    tun_open(address.addr);
    IP4_ADDR(&mask, 255, 255, 255, 252);
    gateway.addr = lwip_htonl(lwip_ntohl(address.addr) - 1);
    inwards.deliver = to_board;
    outwards.deliver = from_board;
    netif_add(&nic, &address, &mask, &gateway, NULL, nic_init, ip_input);
    netif_set_default(&nic);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_t id;
    if (pthread_create(&id, NULL, network, NULL) != 0) {
        fail("no thread");
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

// A Pico W's clock starts here at power-on (the datetime that ports/rp2/main.c sets). A reset keeps it, in BOARD_CLOCK.
__attribute__((constructor)) static void clock_start(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    char text[24];
    snprintf(text, sizeof(text), "%ld", 1609459200L - (long)t.tv_sec); // 2021-01-01
    setenv("BOARD_CLOCK", text, 0);
}

/******************************************************************************/
// network.WLAN, as much of it as a boot.py uses (extmod/network_cyw43.c): the station is in the network from the start.

typedef struct _wlan_obj_t {
    mp_obj_base_t base;
    bool station;
} wlan_obj_t;

static const wlan_obj_t wlans[] = {{{ &board_wlan_type }, true}, {{ &board_wlan_type }, false}};

static mp_obj_t wlan_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw, const mp_obj_t *args) {
    (void)type;
    mp_arg_check_num(n_args, n_kw, 0, 1, false);
    return MP_OBJ_FROM_PTR(&wlans[n_args && mp_obj_get_int(args[0]) != MOD_NETWORK_STA_IF]);
}

static mp_obj_t wlan_is_up(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    return mp_obj_new_bool(((wlan_obj_t *)MP_OBJ_TO_PTR(args[0]))->station && tun >= 0);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(wlan_is_up_obj, 1, 2, wlan_is_up);

static mp_obj_t wlan_ignore(size_t n_args, const mp_obj_t *args, mp_map_t *kw_args) {
    (void)n_args;
    (void)args;
    (void)kw_args;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_KW(wlan_ignore_obj, 1, wlan_ignore);

static mp_obj_t wlan_ifconfig(size_t n_args, const mp_obj_t *args) {
    return mod_network_nic_ifconfig(&nic, n_args - 1, args + 1);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(wlan_ifconfig_obj, 1, 2, wlan_ifconfig);

static const mp_rom_map_elem_t wlan_locals_table[] = {
    { MP_ROM_QSTR(MP_QSTR_active), MP_ROM_PTR(&wlan_is_up_obj) },
    { MP_ROM_QSTR(MP_QSTR_isconnected), MP_ROM_PTR(&wlan_is_up_obj) },
    { MP_ROM_QSTR(MP_QSTR_connect), MP_ROM_PTR(&wlan_ignore_obj) },
    { MP_ROM_QSTR(MP_QSTR_config), MP_ROM_PTR(&wlan_ignore_obj) },
    { MP_ROM_QSTR(MP_QSTR_ifconfig), MP_ROM_PTR(&wlan_ifconfig_obj) },
};
static MP_DEFINE_CONST_DICT(wlan_locals, wlan_locals_table);

MP_DEFINE_CONST_OBJ_TYPE(
    board_wlan_type,
    MP_QSTR_WLAN,
    MP_TYPE_FLAG_NONE,
    make_new, wlan_make_new,
    locals_dict, &wlan_locals
    );

#endif
