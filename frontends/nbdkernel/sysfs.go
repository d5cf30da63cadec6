package nbdkernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// devicePath is where programs find a device.
func devicePath(number int) string { return fmt.Sprintf("/dev/nbd%d", number) }

// attribute reads what sysfs says of a device, "" if nothing.
func (d *driver) attribute(number int, name string) string {
	b, err := os.ReadFile(filepath.Join(d.sysfs, "nbd"+strconv.Itoa(number), name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// backend is the text that whoever connected a device has given with it; "" for
// one that is not connected.
func (d *driver) backend(number int) string { return d.attribute(number, "backend") }

// size of a device in bytes.
func (d *driver) size(number int) uint64 {
	sectors, _ := strconv.ParseUint(d.attribute(number, "size"), 10, 54)
	return sectors * 512
}

// numbers gives those of all devices that there are, connected or not.
func (d *driver) numbers() (list []int) {
	names, _ := filepath.Glob(filepath.Join(d.sysfs, "nbd*"))
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(name), "nbd"))
		if err == nil && n >= 0 {
			list = append(list, n)
		}
	}
	return list
}

// find looks for the device that was connected with a text.
func (d *driver) find(backend string) (number int, ok bool) {
	for _, n := range d.numbers() {
		if d.backend(n) == backend {
			return n, true
		}
	}
	return AnyNumber, false
}
