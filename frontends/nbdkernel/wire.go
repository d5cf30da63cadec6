package nbdkernel

import (
	"encoding/binary"
	"fmt"
)

// ne is the byte order of netlink, that of the host. Both architectures that the
// engine is built for are little endian.
var ne = binary.NativeEndian

// A netlink message (linux/netlink.h, struct nlmsghdr) and the header of a
// generic one behind it (linux/genetlink.h, struct genlmsghdr), in bytes.
const (
	nlHeaderSize   = 16
	genlHeaderSize = 4
	attrHeaderSize = 4
)

// Kinds and flags of netlink messages.
const (
	nlError = 2 // NLMSG_ERROR: an errno, 0 for an acknowledgement

	nlRequest = 1 // NLM_F_REQUEST
	nlAck     = 4 // NLM_F_ACK
)

// The controller, which knows the families by name (linux/genetlink.h).
const (
	genlController    = 0x10
	ctrlGetFamily     = 3
	ctrlAttrFamily    = 1
	ctrlAttrName      = 2
	ctrlAttrGroups    = 7
	ctrlAttrGroupName = 1
	ctrlAttrGroupID   = 2
)

// The driver's family (linux/nbd-netlink.h).
const (
	familyName    = "nbd"
	familyGroup   = "nbd_mc_group"
	familyVersion = 1

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4 // to the group: a device has lost a connection
	cmdStatus      = 5

	attrIndex           = 1
	attrSize            = 2
	attrBlockSize       = 3
	attrTimeout         = 4 // seconds
	attrServerFlags     = 5
	attrSockets         = 7
	attrDeadConnTimeout = 8 // seconds
	attrDevices         = 9
	attrBackend         = 10

	attrSocketItem = 1
	attrSocketFD   = 1

	attrDeviceItem      = 1
	attrDeviceIndex     = 1
	attrDeviceConnected = 2
)

// attrNested marks an attribute that holds others; the driver asks for it.
const attrNested, attrTypeMask = 1 << 15, 1<<14 - 1

// message begins a message of a family; finish ends it.
func message(family uint16, flags uint16, seq uint32, cmd, version uint8) []byte {
	b := make([]byte, nlHeaderSize+genlHeaderSize, 256)
	ne.PutUint16(b[4:], family)
	ne.PutUint16(b[6:], nlRequest|flags)
	ne.PutUint32(b[8:], seq)
	b[nlHeaderSize], b[nlHeaderSize+1] = cmd, version
	return b
}

func finish(b []byte) []byte {
	ne.PutUint32(b, uint32(len(b)))
	return b
}

// attribute appends one with its padding.
func attribute(b []byte, kind uint16, data []byte) []byte {
	b = ne.AppendUint16(b, uint16(attrHeaderSize+len(data)))
	b = ne.AppendUint16(b, kind)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attrUint32(b []byte, kind uint16, v uint32) []byte {
	return attribute(b, kind, ne.AppendUint32(nil, v))
}

func attrUint64(b []byte, kind uint16, v uint64) []byte {
	return attribute(b, kind, ne.AppendUint64(nil, v))
}

// attrText appends a text with its final zero.
func attrText(b []byte, kind uint16, s string) []byte {
	return attribute(b, kind, append([]byte(s), 0))
}

// attrSocketList appends the sockets that a device is to have.
func attrSocketList(b []byte, fds []int) []byte {
	var list []byte
	for _, fd := range fds {
		list = attribute(list, attrNested|attrSocketItem, attrUint32(nil, attrSocketFD, uint32(fd)))
	}
	return attribute(b, attrNested|attrSockets, list)
}

// answer is a message from the kernel.
type answer struct {
	kind uint16
	seq  uint32
	cmd  uint8  // of a generic message
	data []byte // attributes, or what an error holds
}

// messages takes a datagram apart.
func messages(b []byte) (list []answer, err error) {
	for len(b) >= nlHeaderSize {
		n := int(ne.Uint32(b))
		if n < nlHeaderSize || n > len(b) {
			return list, fmt.Errorf("a netlink message says that it has %d bytes, of %d", n, len(b))
		}
		a := answer{kind: ne.Uint16(b[4:]), seq: ne.Uint32(b[8:]), data: b[nlHeaderSize:n]}
		if a.kind >= genlController {
			if len(a.data) < genlHeaderSize {
				return list, fmt.Errorf("a generic netlink message has %d bytes", n)
			}
			a.cmd, a.data = a.data[0], a.data[genlHeaderSize:]
		}
		list = append(list, a)
		b = b[min(len(b), (n+3)&^3):]
	}
	return list, nil
}

// errno of an nlError; ok says that it is whole.
func (a *answer) errno() (no int32, ok bool) {
	if len(a.data) < 4 {
		return 0, false
	}
	return -int32(ne.Uint32(a.data)), true
}

// attributes calls f for each attribute of data; it stops at one that is no
// whole one.
func attributes(data []byte, f func(kind uint16, value []byte)) {
	for len(data) >= attrHeaderSize {
		n := int(ne.Uint16(data))
		if n < attrHeaderSize || n > len(data) {
			return
		}
		f(ne.Uint16(data[2:])&attrTypeMask, data[attrHeaderSize:n])
		data = data[min(len(data), (n+3)&^3):]
	}
}

// uintOf reads a number of one, two, four or eight bytes; others are 0.
func uintOf(v []byte) uint64 {
	switch len(v) {
	case 1:
		return uint64(v[0])
	case 2:
		return uint64(ne.Uint16(v))
	case 4:
		return uint64(ne.Uint32(v))
	case 8:
		return ne.Uint64(v)
	}
	return 0
}

// textOf reads a text up to its final zero.
func textOf(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}
