package ublk

import "unsafe"

// The kernel interface, linux/ublk_cmd.h: layouts in host order, with sizes and
// offsets held by a test.

// controlPath is where control commands go to.
const controlPath = "/dev/ublk-control"

// Numbers of control commands.
const (
	cmdGetInfo       = 0x02
	cmdAdd           = 0x04
	cmdDelete        = 0x05
	cmdStart         = 0x06
	cmdStop          = 0x07
	cmdSetParams     = 0x08
	cmdGetParams     = 0x09
	cmdStartRecovery = 0x10
	cmdEndRecovery   = 0x11
	cmdGetInfo2      = 0x12 // with the device's path, for unprivileged devices
	cmdGetFeatures   = 0x13 // Linux 6.5; this and later ones have no old encoding
	cmdUpdateSize    = 0x15
	cmdQuiesce       = 0x16
)

var cmdNames = map[uint8]string{
	cmdGetInfo: "GET_DEV_INFO", cmdAdd: "ADD_DEV", cmdDelete: "DEL_DEV", cmdStart: "START_DEV",
	cmdStop: "STOP_DEV", cmdSetParams: "SET_PARAMS", cmdGetParams: "GET_PARAMS",
	cmdStartRecovery: "START_USER_RECOVERY", cmdEndRecovery: "END_USER_RECOVERY",
	cmdGetInfo2: "GET_DEV_INFO2", cmdGetFeatures: "GET_FEATURES", cmdUpdateSize: "UPDATE_SIZE",
	cmdQuiesce: "QUIESCE_DEV",
}

// onlyReads are the commands whose encoding is _IOR; the others' is _IOWR.
func onlyReads(nr uint8) bool {
	switch nr {
	case cmdGetInfo, cmdGetInfo2, cmdGetParams, cmdGetFeatures:
		return true
	}
	return false
}

// Numbers of a queue's commands.
const (
	ioFetch          = 0x20
	ioCommitAndFetch = 0x21
	ioGetData        = 0x22 // gives a write its buffer, see flagNeedGetData
)

// ioctl encodes a number as kernels since 6.4 want it: _IOR or _IOWR of 'u'.
func ioctl(nr uint8, size uintptr, reads bool) uint32 {
	dir := uint32(3)
	if reads {
		dir = 2
	}
	return dir<<30 | uint32(size)<<16 | 'u'<<8 | uint32(nr)
}

// ctrlOp and ioOp give the opcode in one of the two encodings.
func ctrlOp(nr uint8, encoded bool) uint32 {
	if !encoded {
		return uint32(nr)
	}
	return ioctl(nr, unsafe.Sizeof(ctrlCmd{}), onlyReads(nr))
}

func ioOp(nr uint8, encoded bool) uint32 {
	if !encoded {
		return uint32(nr)
	}
	return ioctl(nr, unsafe.Sizeof(ioCmd{}), false)
}

// What a queue's command ends with, beside errnos.
const (
	resOK       = 0
	resNeedData = 1   // a write, to be given a buffer by ioGetData
	resAbort    = -19 // ENODEV: the device is being stopped, or we are believed dead
)

// Features of driver and device.
const (
	flagZeroCopy     = 1 << 0
	flagCompInTask   = 1 << 1
	flagNeedGetData  = 1 << 2
	flagRecovery     = 1 << 3
	flagReissue      = 1 << 4
	flagUnprivileged = 1 << 5
	flagIoctlEncode  = 1 << 6
	flagUserCopy     = 1 << 7
	flagZoned        = 1 << 8
	flagFailIO       = 1 << 9  // Linux 6.13
	flagUpdateSize   = 1 << 10 // 6.16, as are the next two
	flagAutoBufReg   = 1 << 11
	flagQuiesce      = 1 << 12
	flagPerIODaemon  = 1 << 13
	flagRegAnywhere  = 1 << 14 // 6.18
	flagBatchIO      = 1 << 15
	flagIntegrity    = 1 << 16
	flagSafeStop     = 1 << 17
	flagNoPartScan   = 1 << 18
	flagSharedMemory = 1 << 19
	flagDescSize     = 1 << 20
)

// flagNames are the header's, without UBLK_F_, by bit.
var flagNames = [...]string{"SUPPORT_ZERO_COPY", "URING_CMD_COMP_IN_TASK", "NEED_GET_DATA", "USER_RECOVERY",
	"USER_RECOVERY_REISSUE", "UNPRIVILEGED_DEV", "CMD_IOCTL_ENCODE", "USER_COPY", "ZONED", "USER_RECOVERY_FAIL_IO",
	"UPDATE_SIZE", "AUTO_BUF_REG", "QUIESCE", "PER_IO_DAEMON", "BUF_REG_OFF_DAEMON", "BATCH_IO", "INTEGRITY",
	"SAFE_STOP_DEV", "NO_AUTO_PART_SCAN", "SHMEM_ZC", "IO_DESC_SIZE"}

// States of a device in the kernel.
const (
	stateDead     = 0 // added, or stopped
	stateLive     = 1
	stateQuiesced = 2 // its server has gone; requests wait
	stateFailIO   = 3 // its server has gone; requests fail
)

var kernelStates = [...]string{"dead", "live", "quiesced", "fail_io"}

// ctrlCmd is struct ublksrv_ctrl_cmd, in the command area of a control entry.
type ctrlCmd struct {
	devID   uint32
	queueID uint16 // 0xffff: none
	len     uint16 // of the buffer, bytes
	addr    uint64 // of the buffer
	data    uint64
	pathLen uint16 // of the device's path, with its zero, at the buffer's start
	_       uint16
	_       uint32
}

// devInfo is struct ublksrv_ctrl_dev_info.
type devInfo struct {
	queues uint16
	depth  uint16
	state  uint16
	_      uint16
	maxIO  uint32 // bytes
	id     uint32
	pid    int32 // of the server
	_      uint32
	flags  uint64
	token  uint64 // ublksrv_flags: the server's own, kept by the driver
	uid    uint32 // of who has made it
	gid    uint32
	_, _   uint64
}

// anyDevice asks ADD_DEV for a free number.
const anyDevice = 0xffffffff

// Kinds of parameters.
const (
	paramBasic   = 1 << 0
	paramDiscard = 1 << 1
)

// Attributes of a disk.
const (
	attrReadOnly      = 1 << 0
	attrRotational    = 1 << 1
	attrVolatileCache = 1 << 2
	attrFUA           = 1 << 3
)

// params is struct ublk_params as far as we set it; the driver takes a shorter
// one.
type params struct {
	len   uint32
	types uint32

	attrs         uint32
	logicalShift  uint8
	physicalShift uint8
	optShift      uint8
	minShift      uint8
	maxSectors    uint32
	_             uint32 // chunk_sectors
	devSectors    uint64
	_             uint64 // virt_boundary_mask

	discardAlignment   uint32
	discardGranularity uint32
	maxDiscardSectors  uint32
	maxZeroesSectors   uint32
	maxDiscardSegments uint16
	_                  uint16
	_                  uint32
}

// ioDesc is struct ublksrv_io_desc: a request, in memory that the driver writes
// and we may only read.
type ioDesc struct {
	opFlags uint32
	sectors uint32
	start   uint64 // sector
	addr    uint64 // of the buffer that we gave
}

// Operations, in the low 8 bits of opFlags.
const (
	opRead        = 0
	opWrite       = 1
	opFlush       = 2
	opDiscard     = 3
	opWriteZeroes = 5
	opMask        = 0xff
)

// Flags in opFlags.
const (
	descFUA     = 1 << 13
	descNoUnmap = 1 << 15

	descUnregistered = 1 << 17 // NEED_REG_BUF: the driver could not register its payload
)

// ioCmd is struct ublksrv_io_cmd, in the command area of a queue's entry.
type ioCmd struct {
	queue  uint16
	tag    uint16
	result int32  // bytes, or an errno, negative
	addr   uint64 // of the buffer for the tag's next request
}

// Where the payload of a request is in the character device of a device with
// flagUserCopy: a tag of a queue has 32 MiB.
const (
	payloadBase  = 1 << 31
	payloadTag   = 25 // bits before the tag
	payloadQueue = payloadTag + 16
)

// payloadAt gives where the payload of a tag's request begins.
func payloadAt(queue, tag int) int64 {
	return payloadBase + int64(queue)<<payloadQueue + int64(tag)<<payloadTag
}

const (
	sectorShift = 9
	descSize    = int(unsafe.Sizeof(ioDesc{}))
)

// descriptors gives where queue q's descriptors are in the device's memory, and
// how many bytes they have, which must be said exactly.
func descriptors(q, depth, page int) (offset int64, size int) {
	whole := func(n int) int { return (n*descSize + page - 1) / page * page }
	return int64(q) * int64(whole(MaxDepth)), whole(depth)
}
