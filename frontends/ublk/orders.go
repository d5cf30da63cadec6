package ublk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// charPath and blockPath are a device's two faces: ours, and its users'.
func charPath(id int) string  { return "/dev/ublkc" + strconv.Itoa(id) }
func blockPath(id int) string { return "/dev/ublkb" + strconv.Itoa(id) }

func bytesAt[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// add makes a device. The driver answers with what it has made of info.
func (c *control) add(ctx context.Context, info *devInfo) error {
	return c.run(ctx, order{nr: cmdAdd, id: info.id, in: bytesAt(info), out: bytesAt(info)})
}

// info asks about a device. It gives ENODEV where there is none.
func (c *control) info(ctx context.Context, id int) (info devInfo, err error) {
	o := order{nr: cmdGetInfo2, id: uint32(id), out: bytesAt(&info), path: charPath(id)}
	if c.features == 0 {
		o.nr, o.path = cmdGetInfo, "" // a kernel that may be too old for the other
	}
	err = c.run(ctx, o)
	return info, err
}

// device is a device in the driver, for the commands that are about one.
type device struct {
	*control
	id           int
	unprivileged bool // the driver wants to see that we may open it
}

func (d *device) order(nr uint8) order {
	o := order{nr: nr, id: uint32(d.id)}
	if d.unprivileged {
		o.path = charPath(d.id)
	}
	return o
}

func (d *device) do(ctx context.Context, nr uint8, data uint64) error {
	o := d.order(nr)
	o.data = data
	return d.run(ctx, o)
}

func (d *device) setParams(ctx context.Context, p *params) error {
	o := d.order(cmdSetParams)
	o.in = bytesAt(p)
	return d.run(ctx, o)
}

func (d *device) getParams(ctx context.Context) (p params, err error) {
	o := d.order(cmdGetParams)
	p.len = uint32(unsafe.Sizeof(p))
	o.in, o.out = bytesAt(&p), bytesAt(&p)
	err = d.run(ctx, o)
	return p, err
}

// start makes the block device. The kernel reads its partition table before it
// answers, for which the storage server may take its time.
func (d *device) start(ctx context.Context, patience time.Duration) error {
	o := d.order(cmdStart)
	o.data, o.long = uint64(os.Getpid()), patience
	return d.run(ctx, o)
}

// number reads the N of "ublkcN".
func number(name string) (int, bool) {
	text, found := strings.CutPrefix(filepath.Base(name), "ublkc")
	if !found {
		return 0, false
	}
	id, err := strconv.Atoi(text)
	return id, err == nil && id >= 0
}

// classPath has an entry for each device that the driver has.
const classPath = "/sys/class/ublk-char"

// numbers gives those of all devices.
func numbers() ([]int, error) {
	entries, err := os.ReadDir(classPath)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("ublk: %w", err)
	}
	var ids []int
	for _, e := range entries {
		if id, ok := number(e.Name()); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
