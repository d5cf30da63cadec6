package sys

import (
	"testing"
	"unsafe"
)

// The layouts are the kernel's: linux/io_uring.h.
func TestUringLayouts(t *testing.T) {
	var sqe UringSQE
	var p UringParams
	var w uringWait
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"sqe", unsafe.Sizeof(sqe), 64},
		{"sqe.fd", unsafe.Offsetof(sqe.Fd), 4},
		{"sqe.off", unsafe.Offsetof(sqe.Off), 8},
		{"sqe.addr", unsafe.Offsetof(sqe.Addr), 16},
		{"sqe.len", unsafe.Offsetof(sqe.Len), 24},
		{"sqe.user_data", unsafe.Offsetof(sqe.UserData), 32},
		{"sqe.buf_index", unsafe.Offsetof(sqe.BufIndex), 40},
		{"sqe.cmd", unsafe.Offsetof(sqe.Cmd), 48},
		{"cqe", unsafe.Sizeof(UringCQE{}), 16},
		{"params", unsafe.Sizeof(p), 120},
		{"params.features", unsafe.Offsetof(p.Features), 20},
		{"params.sq_off", unsafe.Offsetof(p.SQOff), 40},
		{"params.cq_off", unsafe.Offsetof(p.CQOff), 80},
		{"offsets.cqes", unsafe.Offsetof(p.CQOff.DroppedOrCQEs), 20},
		{"rsrc_register", unsafe.Sizeof(UringTable{}), 32},
		{"rsrc_update2", unsafe.Sizeof(UringUpdate{}), 32},
		{"rsrc_update2.nr", unsafe.Offsetof(UringUpdate{}.N), 24},
		{"files_update", unsafe.Sizeof(UringFilesUpdate{}), 16},
		{"getevents_arg", unsafe.Sizeof(w), 24},
		{"getevents_arg.ts", unsafe.Offsetof(w.ts), 16},
	} {
		if c.got != c.want {
			t.Errorf("%s is at, or has, %d bytes, want %d", c.name, c.got, c.want)
		}
	}
}
