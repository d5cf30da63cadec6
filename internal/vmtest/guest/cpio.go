package guest

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// File modes of cpio entries, as in stat(2).
const (
	modeDir  = 0o040755
	modeExec = 0o100755
	modeLink = 0o120777
	modeChar = 0o020600
)

// archive writes a cpio archive in the "newc" format, which the kernel unpacks
// as an initramfs (its Documentation/driver-api/early-userspace/buffer-format).
// Directories are made as they are needed. Times and numbers of inodes are
// fixed, so that equal contents give equal bytes.
type archive struct {
	w    io.Writer
	err  error // the first one; nothing is written after it
	ino  int
	dirs map[string]bool
	pos  int
}

func newArchive(w io.Writer) *archive { return &archive{w: w, dirs: map[string]bool{".": true}} }

// file adds a file with the mode and contents.
func (a *archive) file(name string, mode int, data []byte) { a.entry(name, mode, 0, 0, data) }

// link adds a symbolic link.
func (a *archive) link(name, target string) { a.entry(name, modeLink, 0, 0, []byte(target)) }

// char adds a character device.
func (a *archive) char(name string, major, minor int) { a.entry(name, modeChar, major, minor, nil) }

// dir adds a directory and those above it, unless they are there.
func (a *archive) dir(name string) {
	name = clean(name)
	if a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.write(name, modeDir, 0, 0, nil)
}

func (a *archive) entry(name string, mode, major, minor int, data []byte) {
	name = clean(name)
	a.dir(path.Dir(name))
	a.write(name, mode, major, minor, data)
}

func clean(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

func (a *archive) write(name string, mode, major, minor int, data []byte) {
	a.ino++
	// inode, mode, uid, gid, links, time, size, device (2), this device (2),
	// length of the name with its zero, checksum (unused in this format).
	a.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad(4)
	a.bytes(data)
	a.pad(4)
}

// close ends the archive. It is padded, so that another can follow it.
func (a *archive) close() error {
	a.ino = -1
	a.write("TRAILER!!!", 0, 0, 0, nil)
	a.pad(512)
	return a.err
}

func (a *archive) printf(format string, args ...any) { a.bytes(fmt.Appendf(nil, format, args...)) }

func (a *archive) pad(to int) { a.bytes(make([]byte, -a.pos&(to-1))) }

func (a *archive) bytes(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
		a.pos += len(b)
	}
}
