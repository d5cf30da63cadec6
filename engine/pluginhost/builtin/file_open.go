package builtin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// openedFile is the file or block device behind a disk.
//
// The kernel reports a failed write-back once to each open file description,
// to the first call that syncs. On fd that is fdatasync for a flush and
// nothing else, so that no other call can swallow the error that a flush
// owes its caller; durable writes have descriptions of their own, see
// worker.dsyncFD.
type openedFile struct {
	path     string
	fd       int // holds the lock; -1 if not open
	readOnly bool
	direct   bool
	isBlock  bool
	created  bool
	memAlign uintptr // direct: alignment that memory needs, bytes
	info     block.Info
}

// openFile opens, locks, sizes and describes the file that o names.
func openFile(ctx context.Context, o store.Options) (f openedFile, err error) {
	f = openedFile{path: o.Strings["path"], fd: -1, readOnly: o.ReadOnly, direct: o.Bools["direct"]}
	if f.path == "" {
		return f, errors.New("option path is missing; give the file or block device that holds the disk")
	}
	wanted, resize := o.Sizes["size"]
	if resize && (wanted == 0 || wanted > maxSize) {
		return f, fmt.Errorf("size %d of %q is out of range; give 1 to %d bytes, or none to take the file as it is", wanted, f.path, uint64(maxSize))
	}
	defer func() {
		if err != nil {
			f.abandon()
		}
	}()
	for _, step := range []func() error{
		func() error { return f.open(resize) },
		func() error { return f.lock(ctx) },
		func() error { return f.measure() },
		func() error { return f.fit(wanted, resize) },
		f.align,
	} {
		if err = step(); err != nil {
			return f, err
		}
	}
	f.describe()
	return f, nil
}

// open gets the data descriptor, and makes the file if that is wanted.
func (f *openedFile) open(create bool) error {
	stat, err := os.Stat(f.path)
	switch {
	case err == nil:
		if mode := stat.Mode(); !mode.IsRegular() && (mode&os.ModeDevice == 0 || mode&os.ModeCharDevice != 0) {
			return fmt.Errorf("path %q is a %s; it must be a regular file or a block device", f.path, kindOf(mode))
		}
		f.isBlock = !stat.Mode().IsRegular()
	case errors.Is(err, os.ErrNotExist):
		if f.readOnly {
			return fmt.Errorf("path %q does not exist, and read_only = true cannot create it; correct the path", f.path)
		}
		if !create {
			return fmt.Errorf("path %q does not exist; correct it, or give a size to have the file created", f.path)
		}
		f.created = true
	default:
		return fmt.Errorf("path: %w", err)
	}
	fd, err := syscall.Open(f.path, f.openFlags(), 0o600)
	if err != nil {
		f.created = false
		return f.openError(err)
	}
	f.fd = fd
	return nil
}

func (f *openedFile) openFlags() int {
	flags := syscall.O_CLOEXEC | syscall.O_RDWR
	if f.readOnly {
		flags = syscall.O_CLOEXEC | syscall.O_RDONLY
	}
	if f.direct {
		flags |= syscall.O_DIRECT
	}
	switch {
	case f.created:
		flags |= syscall.O_CREAT | syscall.O_EXCL
	case f.isBlock && !f.readOnly:
		flags |= syscall.O_EXCL // refuses a device that is mounted or part of another
	}
	return flags
}

// openError says what each refusal means and what helps.
func (f *openedFile) openError(err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.EINVAL) && f.direct:
		hint = "; its file system does not support direct I/O: remove direct = true"
	case errors.Is(err, syscall.EBUSY):
		hint = "; the device is mounted or in use: unmount it, or set read_only = true"
	case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM):
		hint = fmt.Sprintf("; user %d may not open it that way: change its owner or mode, or set read_only = true", os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		hint = "; the file system is read-only: set read_only = true"
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		hint = "; no file descriptor is left: raise the limit (ulimit -n, LimitNOFILE=)"
	}
	return fmt.Errorf("cannot open path %q: %w%s", f.path, err, hint)
}

// kindOf names what a path is that cannot be a disk.
func kindOf(mode os.FileMode) string {
	switch {
	case mode.IsDir():
		return "directory"
	case mode&os.ModeNamedPipe != 0:
		return "named pipe"
	case mode&os.ModeSocket != 0:
		return "socket"
	case mode&os.ModeCharDevice != 0:
		return "character device"
	}
	return "special file"
}

// Block devices are also locked by udev for the moment in which it probes
// them; a conflict that lasts longer is a real one.
const (
	lockTries = 10
	lockPause = 50 * time.Millisecond
)

// lock keeps a second opener out: exclusive for read-write, shared for
// read-only. It is flock and not an OFD byte-range lock: flock(1) and udev
// know it, it works on block devices, and one that another volume of this
// same process holds conflicts too. (Classic POSIX locks would not, and would
// go away with the first close of any descriptor of the file.)
func (f *openedFile) lock(ctx context.Context) error {
	how := syscall.LOCK_EX
	if f.readOnly {
		how = syscall.LOCK_SH
	}
	for try := 1; ; try++ {
		errno := retry(func() error { return syscall.Flock(f.fd, how|syscall.LOCK_NB) })
		switch {
		case errno == 0:
			return nil
		case errno != syscall.EWOULDBLOCK:
			return fmt.Errorf("cannot lock path %q: %w; its file system must support flock", f.path, errno)
		case !f.isBlock || try == lockTries:
			f.created = false // whoever was quicker keeps the file
			return fmt.Errorf("path %q is in use by another volume or process (locked, %w); give each volume its own file, stop the other user (lslocks shows it), or set read_only = true on both", f.path, errno)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("path %q is in use (locked): %w", f.path, ctx.Err())
		case <-time.After(lockPause):
		}
	}
}

// fit makes the size what was asked for; it never shrinks a file.
func (f *openedFile) fit(wanted uint64, resize bool) error {
	switch have := f.info.Size; {
	case !resize && have == 0:
		return fmt.Errorf("path %q is empty; give a size to have it extended", f.path)
	case !resize || wanted == have:
		return f.settle()
	case wanted < have:
		return fmt.Errorf("path %q holds %d bytes and size asks for %d; shrinking would lose data: remove the option size, or set it to %d", f.path, have, wanted, have)
	case f.isBlock:
		return fmt.Errorf("block device %q has %d bytes and size asks for %d; a device cannot be extended here: remove the option size", f.path, have, wanted)
	case f.readOnly:
		return fmt.Errorf("path %q holds %d bytes and size asks for %d, but read_only = true cannot extend it; remove one of the two", f.path, have, wanted)
	}
	if errno := retry(func() error { return syscall.Ftruncate(f.fd, int64(wanted)) }); errno != 0 {
		return fmt.Errorf("cannot extend path %q to %d bytes: %w", f.path, wanted, errno)
	}
	f.info.Size = wanted
	return f.settle()
}

// settle makes a new size, and a new file's name, durable: later flushes are
// fdatasync and need not think of either.
func (f *openedFile) settle() error {
	if f.readOnly || f.isBlock {
		return nil
	}
	if errno := retry(func() error { return syscall.Fsync(f.fd) }); errno != 0 {
		return fmt.Errorf("cannot sync path %q: %w", f.path, errno)
	}
	if !f.created {
		return nil
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return fmt.Errorf("cannot sync the folder of path %q: %w", f.path, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// reopen opens the same file once more, whatever its path names by now; the
// lock stays with fd.
func (f *openedFile) reopen() (int, error) {
	flags := f.openFlags() &^ (syscall.O_CREAT | syscall.O_EXCL)
	return syscall.Open("/proc/self/fd/"+strconv.Itoa(f.fd), flags, 0)
}

// abandon undoes a failed open, a newly made file included.
func (f *openedFile) abandon() {
	if f.created {
		_ = os.Remove(f.path) // the error that led here says more
	}
	_ = f.close()
}

func (f *openedFile) close() error {
	if f.fd < 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	return syscall.Close(fd)
}
