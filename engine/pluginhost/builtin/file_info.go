package builtin

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"blockengine/sdk/block"
)

// pageBlock is the size at which files are fast, and the alignment that is
// safe for direct I/O where nobody tells.
const pageBlock = 4096

// measure finds the size and the identity.
func (f *openedFile) measure() error {
	var st syscall.Stat_t
	if errno := retry(func() error { return syscall.Fstat(f.fd, &st) }); errno != 0 {
		return fmt.Errorf("path %q: %w", f.path, errno)
	}
	if !f.isBlock {
		f.info.Size = uint64(st.Size)
		f.info.Identity = fileIdentity(&st, factsOf(f.fd).birth)
		return nil
	}
	size, errno := deviceSize(f.fd)
	if errno != 0 {
		return fmt.Errorf("cannot get the size of block device %q: %w", f.path, errno)
	}
	f.info.Size = size
	f.info.Identity = fmt.Sprintf("blockdev:%d:%d:%d", devMajor(st.Rdev), devMinor(st.Rdev), deviceSequence(st.Rdev, size))
	return nil
}

// deviceSequence tells devices apart that get the same number one after the other:
// the kernel counts the disks that it has seen. One that does not tell (before 5.15)
// leaves the size, with which a device that has grown is another one for who
// remembers it over a restart.
func deviceSequence(rdev, size uint64) uint64 {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/", devMajor(rdev), devMinor(rdev))
	for _, name := range []string{dir + "diskseq", dir + "../diskseq"} { // a partition's is the whole disk's
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			return n
		}
	}
	return size
}

// fileIdentity tells files apart by what survives a rename: device, inode
// and, because file systems give inode numbers out again, time of birth.
func fileIdentity(st *syscall.Stat_t, birth string) string {
	id := fmt.Sprintf("file:%d:%d:%d", devMajor(st.Dev), devMinor(st.Dev), st.Ino)
	if birth != "" {
		id += ":" + birth
	}
	return id
}

// formatBirth writes a time as seconds.nanoseconds.
func formatBirth(sec int64, nsec uint32) string { return fmt.Sprintf("%d.%09d", sec, nsec) }

// devMajor and devMinor split a device number as glibc's major and minor do.
func devMajor(dev uint64) uint64 { return dev>>8&0xfff | dev>>32&^0xfff }
func devMinor(dev uint64) uint64 { return dev&0xff | dev>>12&^0xff }

// align finds the block size: 1 in a file (the page cache takes any range),
// the logical sector of a device, and what O_DIRECT demands.
func (f *openedFile) align() error {
	f.info.BlockSize, f.memAlign = 1, 1
	if f.isBlock {
		sector, errno := deviceSector(f.fd)
		if errno != 0 || !validBlock(sector) {
			return fmt.Errorf("block device %q tells no usable sector size (%d, errno %d)", f.path, sector, errno)
		}
		f.info.BlockSize = sector
	}
	if f.direct {
		facts := factsOf(f.fd)
		f.info.BlockSize = max(f.info.BlockSize, directBlock(facts.diskAlign, f.isBlock))
		f.memAlign = uintptr(directBlock(facts.memAlign, f.isBlock))
	}
	if odd := f.info.Size % uint64(f.info.BlockSize); odd != 0 {
		return fmt.Errorf("path %q holds %d bytes, which is no multiple of %d as direct = true needs here; give size = %d, or remove direct",
			f.path, f.info.Size, f.info.BlockSize, f.info.Size-odd+uint64(f.info.BlockSize))
	}
	f.info.PreferredBlock = max(pageBlock, f.info.BlockSize)
	return nil
}

// directBlock checks an alignment that the kernel reported; 0 is none. A
// sector is the least that is used, since every client knows it.
func directBlock(reported uint32, isBlock bool) uint32 {
	switch {
	case validBlock(reported):
		return max(reported, 512)
	case isBlock:
		return 512 // the caller takes the larger of this and the sector
	}
	return pageBlock
}

// validBlock reports whether n is a block size that the engine accepts.
func validBlock(n uint32) bool { return n != 0 && n <= 64<<10 && n&(n-1) == 0 }

// describe fills in what the disk can do.
func (f *openedFile) describe() {
	caps := block.CapFlush | block.CapFUA | block.CapWriteZeroes | block.CapCache | block.CapFlushCoversAll
	if f.isBlock {
		caps |= f.deviceCaps()
	} else {
		caps |= f.fileCaps()
	}
	f.info.Caps = capsFor(caps, f.readOnly)
}

// fileCaps probes a regular file. The hole is punched behind the end, where
// there is nothing to lose.
func (f *openedFile) fileCaps() block.Caps {
	var caps block.Caps
	if !f.readOnly && fallocate(f.fd, fallocPunchHole|fallocKeepSize, (f.info.Size|(1<<20-1))+1, pageBlock) == 0 {
		caps |= block.CapDiscard | block.CapFastZero
	}
	// A file system without the notion answers that all is data; one that
	// does not know the call at all refuses it.
	if _, errno := seek(f.fd, 0, seekHole); errno == 0 {
		caps |= block.CapBlockStatus
	}
	return caps
}

// deviceCaps asks the device's queue in sysfs; without it nothing is promised.
func (f *openedFile) deviceCaps() block.Caps {
	var st syscall.Stat_t
	if retry(func() error { return syscall.Fstat(f.fd, &st) }) != 0 {
		return 0
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", devMajor(st.Rdev), devMinor(st.Rdev)))
	if err != nil {
		return 0
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir) // a partition's queue is the whole disk's
	}
	var caps block.Caps
	for name, c := range map[string]block.Caps{
		"discard_max_bytes":      block.CapDiscard,
		"write_zeroes_max_bytes": block.CapFastZero,
		"rotational":             block.CapRotational,
	} {
		if n, err := queueNumber(dir, name); err == nil && n > 0 {
			caps |= c
		}
	}
	return caps
}

// queueNumber reads one number of a device's queue folder.
func queueNumber(dir, name string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(dir, "queue", name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
