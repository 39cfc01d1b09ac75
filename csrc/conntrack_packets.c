/* Opening packets: a SYN, a SYN|ACK for the reply direction, or a small datagram, each with the identity that lets an
 * nft rule drop it (nfkeep/conntrack/identity.py), and the two ways by which they enter the stack. */
#include "conntrack.h"
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <linux/if_tun.h>
#include <linux/mount.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void write16(uint8_t *at, uint16_t value) { at[0] = (uint8_t)(value >> 8); at[1] = (uint8_t)value; }
static void write32(uint8_t *at, uint32_t value)
{
    write16(at, (uint16_t)(value >> 16));
    write16(at + 2, (uint16_t)value);
}

static uint32_t sum16(const uint8_t *data, size_t length, uint32_t sum)
{
    for (size_t i = 0; i + 1 < length; i += 2)
        sum += (uint32_t)data[i] << 8 | data[i + 1];
    return sum;                         /* every part here has an even length */
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

size_t nfk_packet(uint8_t *out, size_t room, uint8_t family, uint8_t protocol, const uint8_t *source,
                  const uint8_t *destination, uint16_t source_port, uint16_t destination_port,
                  int reply, uint32_t nonce, uint32_t acknowledge)
{
    size_t head = family == AF_INET ? 20 : 40, address = address_length(family);
    size_t body = protocol == NFK_TCP ? 20 : protocol == NFK_UDP ? 16 : 0;
    uint8_t *l4 = out + head;
    if (!body || room < head + body)
        return 0;
    memset(out, 0, head + body);
    if (family == AF_INET) {
        out[0] = 0x45;
        write16(out + 2, (uint16_t)(head + body));
        out[6] = 0x40;                  /* do not fragment */
        out[8] = 64;
        out[9] = protocol;
        memcpy(out + 12, source, 4);
        memcpy(out + 16, destination, 4);
        write16(out + 10, fold(sum16(out, 20, 0)));
    } else {
        out[0] = 0x60;
        write16(out + 4, (uint16_t)body);
        out[6] = protocol;
        out[7] = 64;
        memcpy(out + 8, source, 16);
        memcpy(out + 24, destination, 16);
    }
    write16(l4, source_port);
    write16(l4 + 2, destination_port);
    if (protocol == NFK_TCP) {
        write32(l4 + 4, nonce);
        write32(l4 + 8, reply ? acknowledge : 0);
        l4[12] = 0x50;
        l4[13] = reply ? 0x12 : 0x02;
        write16(l4 + 14, 64240);        /* a window of 0 would make conntrack shorten the timeout */
    } else {
        write16(l4 + 4, (uint16_t)body);
        memcpy(l4 + 8, "nfkp", 4);
        write32(l4 + 12, nonce);
    }
    uint32_t sum = sum16(source, address, sum16(destination, address, (uint32_t)protocol + (uint32_t)body));
    uint16_t check = fold(sum16(l4, body, sum));
    write16(l4 + (protocol == NFK_TCP ? 16 : 6), protocol == NFK_UDP && !check ? 0xffff : check);
    return head + body;
}

static ssize_t send_raw(int raw, uint8_t family, const uint8_t *packet, size_t length, const struct tuple *tuple,
                        int32_t scope)
{
    union { struct sockaddr_in v4; struct sockaddr_in6 v6; } to = {0};
    union { struct cmsghdr header; uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))]; } control = {0};
    struct iovec bytes = {(void *)packet, length};
    struct msghdr message = {.msg_name = &to, .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control};
    struct cmsghdr *source = &control.header;
    /* The source goes along, so that routing by source address picks the flow's own way out. */
    if (family == AF_INET) {
        struct in_pktinfo info = {0};
        to.v4.sin_family = AF_INET;
        memcpy(&to.v4.sin_addr, tuple->destination, 4);
        memcpy(&info.ipi_spec_dst, tuple->source, 4);
        message.msg_namelen = sizeof(to.v4);
        message.msg_controllen = CMSG_SPACE(sizeof(info));
        *source = (struct cmsghdr){.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO,
                                   .cmsg_len = CMSG_LEN(sizeof(info))};
        memcpy(CMSG_DATA(source), &info, sizeof(info));
    } else {
        struct in6_pktinfo info = {0};
        to.v6.sin6_family = AF_INET6;
        memcpy(&to.v6.sin6_addr, tuple->destination, 16);
        if (IN6_IS_ADDR_LINKLOCAL(&to.v6.sin6_addr) && scope > 0)
            to.v6.sin6_scope_id = (uint32_t)scope;
        memcpy(&info.ipi6_addr, tuple->source, 16);
        message.msg_namelen = sizeof(to.v6);
        message.msg_controllen = CMSG_SPACE(sizeof(info));
        *source = (struct cmsghdr){.cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO,
                                   .cmsg_len = CMSG_LEN(sizeof(info))};
        memcpy(CMSG_DATA(source), &info, sizeof(info));
    }
    return sendmsg(raw, &message, 0);
}

/* Through the TAP, or by the raw socket if `tap` is NULL. 0 or errno. */
int packet_send(const nfk_tap *tap, int raw, uint8_t family, uint8_t *packet, size_t length,
                const struct tuple *tuple, int32_t scope)
{
    ssize_t sent;
    if (tap) {
        uint8_t *ethernet = packet - NFK_FRAME_HEAD;
        memset(ethernet, 0, NFK_FRAME_HEAD);
        memcpy(ethernet, tap->mac, 6);  /* to the TAP itself: else the packet counts as some other host's */
        ethernet[6] = 0x02;
        write16(ethernet + 12, family == AF_INET ? 0x0800 : 0x86dd);
        do
            sent = write(tap->fd, ethernet, NFK_FRAME_HEAD + length);
        while (sent < 0 && errno == EINTR);
    } else {
        do
            sent = send_raw(raw, family, packet, length, tuple, scope);
        while (sent < 0 && errno == EINTR);
        if (sent < 0 && errno == EPERM)
            sent = 0;                   /* a rule in OUTPUT dropped it, as the caller's own rule is meant to */
    }
    return sent < 0 ? errno : 0;
}

int nfk_tap_open(char name[16], uint8_t mac[6])
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    strcpy(request.ifr_name, "nfkeep%d");
    if (ioctl(fd, TUNSETIFF, &request))
        goto failed;
    memcpy(name, request.ifr_name, 16);
    if (ioctl(fd, SIOCGIFHWADDR, &request))
        goto failed;
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    return fd;
failed:;
    int error = -errno;
    close(fd);
    return error;
}

/* A mount that has no place in the tree and ends with its descriptor. -errno (ENOSYS before Linux 5.2). */
int nfk_sysfs_open(void)
{
    int context = (int)syscall(SYS_fsopen, "sysfs", FSOPEN_CLOEXEC);
    if (context < 0)
        return -errno;
    int mount = syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) ? -1
                : (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY);
    int error = -errno;
    close(context);
    return mount < 0 ? error : mount;
}
