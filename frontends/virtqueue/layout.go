package virtqueue

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// MaxSize is the largest queue, in descriptors. (A split ring could have 32768;
// nobody asks a disk for more than 1024.)
const MaxSize = 1024

// Layout of a split ring, all little endian (virtio 1.2, 2.7).
const (
	descSize   = 16 // addr u64, len u32, flags u16, next u16
	ringHeader = 4  // of both rings: flags u16, idx u16
	availEntry = 2  // head u16
	usedEntry  = 8  // id u32, len u32
	eventSize  = 2  // used_event after the available ring, avail_event after the used ring
)

// Flags of a descriptor (virtio 1.2, 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// Flags of the rings (virtio 1.2, 2.7.6 and 2.7.8).
const (
	availNoInterrupt = 1
	usedNoNotify     = 1
)

// RingSizes gives how long the three parts of a ring are, in bytes.
func RingSizes(size uint16, eventIdx bool) (desc, avail, used uint64) {
	n := uint64(size)
	desc, avail, used = descSize*n, ringHeader+availEntry*n, ringHeader+usedEntry*n
	if eventIdx {
		avail, used = avail+eventSize, used+eventSize
	}
	return desc, avail, used
}

// UsedIndex reads the used ring's index. used is the ring's memory, aligned to 4
// and at least 4 bytes long.
func UsedIndex(used []byte) uint16 {
	_ = used[ringHeader-1]
	return uint16(atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(used)))) >> 16)
}

// half is a 16-bit field that another party writes at any time. It is read as
// part of the aligned 32-bit word that it lies in, because there are no atomic
// loads of 16 bits. The two other bytes may belong to others; they lie in the
// same page, so that reading them cannot fault.
type half struct {
	word  *uint32
	shift uint8
}

// halfAt gives the field at p, which is aligned to 2.
func halfAt(p unsafe.Pointer) half {
	low := uintptr(p) & 2
	return half{word: (*uint32)(unsafe.Add(p, -int(low))), shift: uint8(low * 8)}
}

func (h half) load() uint16 { return uint16(atomic.LoadUint32(h.word) >> (h.shift & 31)) }

// littleEndian tells whether this machine has the byte order of the rings.
func littleEndian() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }

// aligned tells whether b starts at a multiple of n, a power of two.
func aligned(b []byte, n uintptr) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(n-1) == 0
}
