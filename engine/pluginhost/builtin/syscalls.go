package builtin

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"
)

// Numbers of the kernel interface, from include/uapi/linux: fs.h (RWF_*,
// BLK*), falloc.h, fadvise.h, fcntl.h and stat.h.
const (
	rwfDsync  = 0x02
	rwfNowait = 0x08

	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10

	seekData = 3
	seekHole = 4

	fadvWillNeed = 3

	blkDiscard     = 0x1277     // _IO(0x12, 119), takes two uint64: start, length
	blkSectorSize  = 0x1268     // _IO(0x12, 104), gives an int
	blkGetSize64   = 0x80081272 // _IOR(0x12, 114, size_t)
	statxBasic     = 0x07ff
	statxBirthTime = 0x0800
	statxDioAlign  = 0x2000
	atEmptyPath    = 0x1000
)

// ioVectored does preadv2 or pwritev2 (which is the number), again after an
// interruption, and gives the bytes moved. iov must not be empty.
func ioVectored(which uintptr, fd int, iov []syscall.Iovec, off uint64, flags uintptr) (int, syscall.Errno) {
	for {
		// The offset goes in one register on the 64-bit systems that this
		// package supports; the kernel ignores the high half there.
		n, _, errno := syscall.Syscall6(which, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)), uintptr(off), 0, flags)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// retry calls f until it is not interrupted and gives its errno.
func retry(f func() error) syscall.Errno {
	for {
		err := f()
		if err == nil {
			return 0
		}
		errno, ok := err.(syscall.Errno) // what package syscall returns, always
		if !ok {
			return syscall.EIO
		}
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// seek gives where the next data or hole (whence) at or after off begins.
// It does move the descriptor's position, which nothing here reads: all I/O
// names its offset, and the answer is the call's result. So concurrent seeks
// on one descriptor do not disturb each other.
func seek(fd int, off uint64, whence int) (uint64, syscall.Errno) {
	var pos int64
	errno := retry(func() (err error) {
		pos, err = syscall.Seek(fd, int64(off), whence)
		return err
	})
	return uint64(pos), errno
}

func fallocate(fd int, mode uint32, off, length uint64) syscall.Errno {
	return retry(func() error { return syscall.Fallocate(fd, mode, int64(off), int64(length)) })
}

func fdatasync(fd int) syscall.Errno {
	return retry(func() error { return syscall.Fdatasync(fd) })
}

// fadvise is a hint; what the kernel thinks of it does not matter.
func fadvise(fd int, off, length uint64, advice uintptr) {
	_, _, _ = syscall.Syscall6(syscall.SYS_FADVISE64, uintptr(fd), uintptr(off), uintptr(length), advice, 0, 0)
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) syscall.Errno {
	for {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// discardBlocks tells a block device that bytes [off, off+length) are free.
func discardBlocks(fd int, off, length uint64) syscall.Errno {
	span := [2]uint64{off, length}
	errno := ioctl(fd, blkDiscard, unsafe.Pointer(&span))
	runtime.KeepAlive(&span)
	return errno
}

// deviceSize gives a block device's size in bytes.
func deviceSize(fd int) (uint64, syscall.Errno) {
	var size uint64
	errno := ioctl(fd, blkGetSize64, unsafe.Pointer(&size))
	return size, errno
}

// deviceSector gives a block device's logical block size in bytes.
func deviceSector(fd int) (uint32, syscall.Errno) {
	var size int32
	errno := ioctl(fd, blkSectorSize, unsafe.Pointer(&size))
	return uint32(size), errno
}

// fileFacts is what statx tells beyond fstat; zero where the kernel or the
// file system does not know.
type fileFacts struct {
	birth     string // seconds.nanoseconds
	memAlign  uint32 // direct I/O: alignment of memory, bytes
	diskAlign uint32 // direct I/O: alignment of offsets and lengths, bytes
}

// Offsets in struct statx (include/uapi/linux/stat.h), 256 bytes.
const (
	statxSize       = 256
	statxOffBirth   = 0x50 // struct statx_timestamp: int64 seconds, uint32 nanoseconds
	statxOffMem     = 0x98
	statxOffDioDisk = 0x9c
)

// factsOf asks statx about an open file. Kernels without it, or without the
// fields, leave the facts empty.
func factsOf(fd int) fileFacts {
	var (
		buf   [statxSize]byte
		empty [1]byte // the path "": the file behind fd itself
		facts fileFacts
	)
	_, _, errno := syscall.Syscall6(sysStatx, uintptr(fd), uintptr(unsafe.Pointer(&empty)), atEmptyPath,
		statxBasic|statxBirthTime|statxDioAlign, uintptr(unsafe.Pointer(&buf)), 0)
	if errno != 0 {
		return facts
	}
	got := binary.NativeEndian.Uint32(buf[:])
	if got&statxBirthTime != 0 {
		facts.birth = formatBirth(int64(binary.NativeEndian.Uint64(buf[statxOffBirth:])), binary.NativeEndian.Uint32(buf[statxOffBirth+8:]))
	}
	if got&statxDioAlign != 0 {
		facts.memAlign = binary.NativeEndian.Uint32(buf[statxOffMem:])
		facts.diskAlign = binary.NativeEndian.Uint32(buf[statxOffDioDisk:])
	}
	return facts
}
