package builtin

import (
	"context"
	"fmt"
	"syscall"

	"blockengine/sdk/block"
)

// Rescan implements store.Rescanner: somebody may have made the file or the device
// larger. It is the same file that is looked at, whatever its path names by now,
// and so its identity stays. What is smaller than before is said as it is: the
// engine stops such a volume.
func (d *fileDevice) Rescan(context.Context) error {
	size, err := d.sizeNow()
	if err != nil {
		return err
	}
	d.size.Store(size - size%uint64(d.info.BlockSize))
	return nil
}

// sizeNow asks the kernel for the size in bytes.
func (f *openedFile) sizeNow() (uint64, error) {
	if f.isBlock {
		size, errno := deviceSize(f.fd)
		if errno != 0 {
			return 0, fmt.Errorf("cannot get the size of block device %q: %w", f.path, errno)
		}
		return size, nil
	}
	var st syscall.Stat_t
	if errno := retry(func() error { return syscall.Fstat(f.fd, &st) }); errno != 0 {
		return 0, fmt.Errorf("path %q: %w", f.path, errno)
	}
	return uint64(st.Size), nil
}

// infoNow is the description with the size that was seen last.
func (d *fileDevice) infoNow() block.Info {
	info := d.info
	info.Size = d.size.Load()
	return info
}
