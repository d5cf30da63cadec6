package sys

import (
	"golang.org/x/sys/unix"
)

// GenericNetlink opens a non-blocking socket to the kernel's generic netlink
// families. What is written to it is carried out before the write returns, by
// kernels that may sleep in it for as long as they like.
func GenericNetlink() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_GENERIC)
	if err != nil {
		return -1, call("socket", "generic netlink", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return -1, call("bind", "generic netlink", err)
	}
	return fd, nil
}

// JoinNetlinkGroup has a netlink socket receive what the kernel tells a group.
func JoinNetlinkGroup(fd int, group uint32) error {
	return call("setsockopt NETLINK_ADD_MEMBERSHIP", "", unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group)))
}
