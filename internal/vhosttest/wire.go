package vhosttest

import (
	"encoding/binary"
	"fmt"
)

// le is the byte order of virtio 1.2 and, on the machines that are supported,
// of vhost-user, which uses the machine's own.
var le = binary.LittleEndian

// Request is a front-end's message type (vhost-user, Front-end message types).
type Request uint32

// The messages that front-ends send.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	ResetOwner          Request = 4
	SetMemTable         Request = 5
	SetLogBase          Request = 6
	SetLogFD            Request = 7
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	SetBackendReqFD     Request = 21
	GetConfig           Request = 24
	SetConfig           Request = 25
	GetInflightFD       Request = 31
	SetInflightFD       Request = 32
	ResetDevice         Request = 34
	GetMaxMemSlots      Request = 36
	AddMemReg           Request = 37
	RemMemReg           Request = 38
	SetStatus           Request = 39
	GetStatus           Request = 40
)

// ConfigChange is the back-end's message that the configuration space has
// changed (vhost-user, Back-end message types).
const ConfigChange Request = 2

var requestNames = map[Request]string{
	GetFeatures: "GET_FEATURES", SetFeatures: "SET_FEATURES", SetOwner: "SET_OWNER", ResetOwner: "RESET_OWNER",
	SetMemTable: "SET_MEM_TABLE", SetLogBase: "SET_LOG_BASE", SetLogFD: "SET_LOG_FD", SetVringNum: "SET_VRING_NUM",
	SetVringAddr: "SET_VRING_ADDR", SetVringBase: "SET_VRING_BASE", GetVringBase: "GET_VRING_BASE",
	SetVringKick: "SET_VRING_KICK", SetVringCall: "SET_VRING_CALL", SetVringErr: "SET_VRING_ERR",
	GetProtocolFeatures: "GET_PROTOCOL_FEATURES", SetProtocolFeatures: "SET_PROTOCOL_FEATURES",
	GetQueueNum: "GET_QUEUE_NUM", SetVringEnable: "SET_VRING_ENABLE", SetBackendReqFD: "SET_BACKEND_REQ_FD",
	GetConfig: "GET_CONFIG", SetConfig: "SET_CONFIG", GetInflightFD: "GET_INFLIGHT_FD", SetInflightFD: "SET_INFLIGHT_FD",
	ResetDevice: "RESET_DEVICE", GetMaxMemSlots: "GET_MAX_MEM_SLOTS", AddMemReg: "ADD_MEM_REG", RemMemReg: "REM_MEM_REG",
	SetStatus: "SET_STATUS", GetStatus: "GET_STATUS",
}

func (r Request) String() string {
	if s, ok := requestNames[r]; ok {
		return s
	}
	return fmt.Sprintf("request %d", uint32(r))
}

// replied says whether a message has a reply of its own, so that none is made
// of its need_reply flag.
func (r Request) replied() bool {
	switch r {
	case GetFeatures, GetProtocolFeatures, GetQueueNum, GetVringBase, GetConfig, GetInflightFD, GetMaxMemSlots, GetStatus:
		return true
	}
	return false
}

// Flags of a message's header (vhost-user, Header).
const (
	FlagVersion   = 1 // of two bits
	FlagReply     = 1 << 2
	FlagNeedReply = 1 << 3
)

// headerSize of a message: request, flags, size, each 4 bytes.
const headerSize = 12

// maxPayload is the most that a reply may have: a configuration space of 4 KiB.
const maxPayload = 12 + 4096

// maxFDs that a reply may bring.
const maxFDs = 8

// Features are bits of a device and of its rings (virtio 1.2, 5.2.3 and 6).
const (
	FSizeMax     = 1 << 1
	FSegMax      = 1 << 2
	FGeometry    = 1 << 4
	FRO          = 1 << 5
	FBlkSize     = 1 << 6
	FFlush       = 1 << 9
	FTopology    = 1 << 10
	FConfigWCE   = 1 << 11
	FMQ          = 1 << 12
	FDiscard     = 1 << 13
	FWriteZeroes = 1 << 14
	FSecureErase = 1 << 16

	FNotifyOnEmpty    = 1 << 24
	FLogAll           = 1 << 26
	FIndirect         = 1 << 28
	FEventIdx         = 1 << 29
	FProtocolFeatures = 1 << 30
	FVersion1         = 1 << 32
	FAccessPlatform   = 1 << 33
	FRingPacked       = 1 << 34
)

// Protocol features (vhost-user, Protocol features).
const (
	PMQ                = 1 << 0
	PLogShmFD          = 1 << 1
	PReplyAck          = 1 << 3
	PBackendReq        = 1 << 5
	PConfig            = 1 << 9
	PBackendSendFD     = 1 << 10
	PHostNotifier      = 1 << 11
	PInflight          = 1 << 12
	PResetDevice       = 1 << 13
	PInband            = 1 << 14
	PConfigureMemSlots = 1 << 15
	PStatus            = 1 << 16
	PDeviceState       = 1 << 19
)

// Device status bits of SET_STATUS (virtio 1.2, 2.1).
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
)

// Requests of the block device and their results (virtio 1.2, 5.2.6).
const (
	OpIn          = 0
	OpOut         = 1
	OpFlush       = 4
	OpGetID       = 8
	OpDiscard     = 11
	OpWriteZeroes = 13

	StatusOK     = 0
	StatusIOErr  = 1
	StatusUnsupp = 2
	statusUnset  = 0xee // what a driver finds if the device has written none
)

// SectorSize is the unit of addresses and of the capacity.
const SectorSize = 512

// IDSize is the length of what GET_ID gives.
const IDSize = 20

// u64s encodes payloads of 64-bit numbers.
func u64s(v ...uint64) []byte {
	var b []byte
	for _, n := range v {
		b = le.AppendUint64(b, n)
	}
	return b
}

// vringState encodes "A vring state description".
func vringState(index int, num uint32) []byte {
	return le.AppendUint32(le.AppendUint32(nil, uint32(index)), num)
}

// MemRegion is a region as messages describe it.
type MemRegion struct {
	Guest, Size, User, Offset uint64
}

func (r MemRegion) append(b []byte) []byte {
	return append(b, u64s(r.Guest, r.Size, r.User, r.Offset)...)
}

// memTable encodes "Memory regions description".
func memTable(regions []MemRegion) []byte {
	b := u64s(uint64(len(regions)))
	for _, r := range regions {
		b = r.append(b)
	}
	return b
}

// InflightInfo is "Inflight description": 20 bytes.
type InflightInfo struct {
	Size, Offset uint64
	Queues, Num  uint16
}

func (i InflightInfo) encode() []byte {
	return le.AppendUint16(le.AppendUint16(u64s(i.Size, i.Offset), i.Queues), i.Num)
}

func decodeInflight(b []byte) (InflightInfo, error) {
	if len(b) != 20 {
		return InflightInfo{}, fmt.Errorf("GET_INFLIGHT_FD: the reply has %d bytes, not 20", len(b))
	}
	return InflightInfo{le.Uint64(b), le.Uint64(b[8:]), le.Uint16(b[16:]), le.Uint16(b[18:])}, nil
}

// configAccess encodes "Virtio device config space". size is what is told, data
// what is sent along.
func configAccess(offset, size, flags uint32, data []byte) []byte {
	b := le.AppendUint32(nil, offset)
	b = le.AppendUint32(b, size)
	return append(le.AppendUint32(b, flags), data...)
}
