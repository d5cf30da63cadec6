package main

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"time"

	"blockengine/engine/iouring"
	"blockengine/engine/sys"
)

// quiesce tells the driver to quiesce a device, as somebody would who has nothing
// to do with its engine: QUIESCE_DEV, struct ublksrv_ctrl_cmd, by its bytes.
func quiesce(id int) error {
	fd, err := sys.OpenDevice("/dev/ublk-control")
	if err != nil {
		return err
	}
	ring, err := iouring.New(iouring.Options{Entries: 1, SQE128: true})
	if err != nil {
		return err
	}
	defer ring.Close()
	e := ring.Get()
	e.Opcode, e.Fd, e.Off = sys.UringOpCmd, int32(fd), 0xc0207516
	cmd := ring.Command(e)
	binary.NativeEndian.PutUint32(cmd, uint32(id))
	binary.NativeEndian.PutUint16(cmd[4:], 0xffff)
	binary.NativeEndian.PutUint64(cmd[16:], 1000) // ms
	if err := ring.SubmitAndWait(10 * time.Second); err != nil {
		return err
	}
	c, ok := ring.Next()
	if !ok || c.Res < 0 {
		return fmt.Errorf("quiesce device %d: %v, %v", id, ok, syscall.Errno(-c.Res))
	}
	return nil
}
