package ublk

import (
	"bytes"
	"encoding/hex"
	"testing"
	"unsafe"
)

func TestLayouts(t *testing.T) {
	var c ctrlCmd
	var i devInfo
	var p params
	var d ioDesc
	var o ioCmd
	for _, x := range []struct {
		name      string
		got, want uintptr
	}{
		{"ctrl_cmd", unsafe.Sizeof(c), 32},
		{"ctrl_cmd.queue_id", unsafe.Offsetof(c.queueID), 4},
		{"ctrl_cmd.len", unsafe.Offsetof(c.len), 6},
		{"ctrl_cmd.addr", unsafe.Offsetof(c.addr), 8},
		{"ctrl_cmd.data", unsafe.Offsetof(c.data), 16},
		{"ctrl_cmd.dev_path_len", unsafe.Offsetof(c.pathLen), 24},
		{"dev_info", unsafe.Sizeof(i), 64},
		{"dev_info.state", unsafe.Offsetof(i.state), 4},
		{"dev_info.max_io_buf_bytes", unsafe.Offsetof(i.maxIO), 8},
		{"dev_info.dev_id", unsafe.Offsetof(i.id), 12},
		{"dev_info.ublksrv_pid", unsafe.Offsetof(i.pid), 16},
		{"dev_info.flags", unsafe.Offsetof(i.flags), 24},
		{"dev_info.ublksrv_flags", unsafe.Offsetof(i.token), 32},
		{"dev_info.owner_uid", unsafe.Offsetof(i.uid), 40},
		{"dev_info.owner_gid", unsafe.Offsetof(i.gid), 44},
		{"params.basic", unsafe.Offsetof(p.attrs), 8},
		{"params.basic.logical_bs_shift", unsafe.Offsetof(p.logicalShift), 12},
		{"params.basic.max_sectors", unsafe.Offsetof(p.maxSectors), 16},
		{"params.basic.dev_sectors", unsafe.Offsetof(p.devSectors), 24},
		{"params.discard", unsafe.Offsetof(p.discardAlignment), 40},
		{"params.discard.max_discard_segments", unsafe.Offsetof(p.maxDiscardSegments), 56},
		{"params", unsafe.Sizeof(p), 64},
		{"io_desc", unsafe.Sizeof(d), 24},
		{"io_desc.start_sector", unsafe.Offsetof(d.start), 8},
		{"io_cmd", unsafe.Sizeof(o), 16},
		{"io_cmd.result", unsafe.Offsetof(o.result), 4},
		{"io_cmd.addr", unsafe.Offsetof(o.addr), 8},
	} {
		if x.got != x.want {
			t.Errorf("%s: %d bytes, want %d", x.name, x.got, x.want)
		}
	}
}

// Opcodes as the header's macros make them.
func TestOpcodes(t *testing.T) {
	for _, x := range []struct{ got, want uint32 }{
		{ctrlOp(cmdAdd, true), 0xc0207504},
		{ctrlOp(cmdDelete, true), 0xc0207505},
		{ctrlOp(cmdGetInfo, true), 0x80207502},
		{ctrlOp(cmdGetInfo2, true), 0x80207512},
		{ctrlOp(cmdGetParams, true), 0x80207509},
		{ctrlOp(cmdSetParams, true), 0xc0207508},
		{ctrlOp(cmdGetFeatures, true), 0x80207513},
		{ctrlOp(cmdUpdateSize, true), 0xc0207515},
		{ctrlOp(cmdEndRecovery, true), 0xc0207511},
		{ctrlOp(cmdAdd, false), 4},
		{ioOp(ioFetch, true), 0xc0107520},
		{ioOp(ioCommitAndFetch, true), 0xc0107521},
		{ioOp(ioCommitAndFetch, false), 0x21},
		{ioOp(ioGetData, true), 0xc0107522},
		{ctrlOp(cmdQuiesce, true), 0xc0207516},
	} {
		if x.got != x.want {
			t.Errorf("opcode %#x, want %#x", x.got, x.want)
		}
	}
}

// bytesOf shows a struct as it lies in memory.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// What the kernel reads, byte for byte (a little-endian host).
func TestGoldenBytes(t *testing.T) {
	if b := uint16(1); *(*byte)(unsafe.Pointer(&b)) != 1 {
		t.Skip("the bytes are those of a little-endian host")
	}
	for name, x := range map[string]struct {
		got  []byte
		want string
	}{
		"ctrl_cmd": {bytesOf(&ctrlCmd{devID: 1, queueID: 0xffff, len: 64, addr: 0x1122334455667788, data: 9, pathLen: 12}),
			"01000000ffff4000" + "8877665544332211" + "0900000000000000" + "0c00000000000000"},
		"io_cmd": {bytesOf(&ioCmd{queue: 2, tag: 3, result: -5, addr: 0x10}), "02000300fbffffff" + "1000000000000000"},
		"io_desc": {bytesOf(&ioDesc{opFlags: opWrite | descFUA, sectors: 8, start: 4096, addr: 1}),
			"0120000008000000" + "0010000000000000" + "0100000000000000"},
		"dev_info": {bytesOf(&devInfo{queues: 1, depth: 2, state: stateQuiesced, maxIO: 4, id: 5, pid: 6, flags: 7, token: 8}),
			"0100020002000000" + "0400000005000000" + "0600000000000000" + "0700000000000000" + "0800000000000000" +
				"000000000000000000000000000000000000000000000000"},
		"params": {bytesOf(&params{len: 64, types: 3, attrs: 4, logicalShift: 9, physicalShift: 12, optShift: 13, minShift: 12,
			maxSectors: 512, devSectors: 1 << 20, discardGranularity: 4096, maxDiscardSectors: 7, maxZeroesSectors: 8, maxDiscardSegments: 1}),
			"4000000003000000" + "04000000090c0d0c" + "0002000000000000" + "0000100000000000" + "0000000000000000" +
				"0000000000100000" + "0700000008000000" + "0100000000000000"},
	} {
		want, err := hex.DecodeString(x.want)
		if err != nil || !bytes.Equal(x.got, want) {
			t.Errorf("%s: %x, want %x (%v)", name, x.got, want, err)
		}
	}
}

// Where a tag's payload is: UBLKSRV_IO_BUF_OFFSET, 25 bits a tag, 41 a queue.
func TestPayloadAt(t *testing.T) {
	for _, x := range []struct {
		queue, tag int
		want       int64
	}{{0, 0, 0x80000000}, {0, 1, 0x82000000}, {1, 0, 0x200_80000000}, {3, 4095, 0x600_80000000 + 4095<<25}} {
		if got := payloadAt(x.queue, x.tag); got != x.want {
			t.Errorf("queue %d, tag %d: %#x, want %#x", x.queue, x.tag, got, x.want)
		}
	}
}

func TestDescriptors(t *testing.T) {
	for _, x := range []struct {
		q, depth int
		off      int64
		size     int
	}{{0, 1, 0, 4096}, {0, 170, 0, 4096}, {0, 171, 0, 8192}, {1, 64, 98304, 4096}, {3, 4096, 294912, 98304}} {
		if off, size := descriptors(x.q, x.depth, 4096); off != x.off || size != x.size {
			t.Errorf("queue %d of %d: %d bytes at %d", x.q, x.depth, size, off)
		}
	}
}
