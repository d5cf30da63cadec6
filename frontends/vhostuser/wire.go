package vhostuser

import "encoding/binary"

// Types of messages from the front-end (vhost-user, "Front-end message types").
const (
	msgGetFeatures         uint32 = 1
	msgSetFeatures         uint32 = 2
	msgSetOwner            uint32 = 3
	msgResetOwner          uint32 = 4
	msgSetMemTable         uint32 = 5
	msgSetVringNum         uint32 = 8
	msgSetVringAddr        uint32 = 9
	msgSetVringBase        uint32 = 10
	msgGetVringBase        uint32 = 11
	msgSetVringKick        uint32 = 12
	msgSetVringCall        uint32 = 13
	msgSetVringErr         uint32 = 14
	msgGetProtocolFeatures uint32 = 15
	msgSetProtocolFeatures uint32 = 16
	msgGetQueueNum         uint32 = 17
	msgSetVringEnable      uint32 = 18
	msgSetBackendReqFD     uint32 = 21
	msgGetConfig           uint32 = 24
	msgSetConfig           uint32 = 25
	msgGetInflightFD       uint32 = 31
	msgSetInflightFD       uint32 = 32
	msgResetDevice         uint32 = 34
	msgGetMaxMemSlots      uint32 = 36
	msgAddMemReg           uint32 = 37
	msgRemMemReg           uint32 = 38
	msgSetStatus           uint32 = 39
	msgGetStatus           uint32 = 40
)

// backConfigChange is the message that we send on the back-end channel
// (vhost-user, "Back-end message types").
const backConfigChange uint32 = 2

// featureProtocol says, among the virtio features, that protocol features are
// negotiated, and that rings wait to be enabled.
const featureProtocol uint64 = 1 << 30

// Protocol features.
const (
	protoMQ                uint64 = 1 << 0
	protoReplyAck          uint64 = 1 << 3
	protoBackendReq        uint64 = 1 << 5
	protoConfig            uint64 = 1 << 9
	protoInflight          uint64 = 1 << 12
	protoResetDevice       uint64 = 1 << 13
	protoConfigureMemSlots uint64 = 1 << 15
	protoStatus            uint64 = 1 << 16

	protocolFeatures = protoMQ | protoReplyAck | protoBackendReq | protoConfig | protoInflight |
		protoResetDevice | protoConfigureMemSlots | protoStatus
)

// Flags of a header.
const (
	flagVersion     uint32 = 1 // in the lowest two bits
	flagVersionMask uint32 = 3
	flagReply       uint32 = 1 << 2
	flagNeedReply   uint32 = 1 << 3
)

// Sizes, in bytes, and counts.
const (
	headerBytes    = 12
	stateBytes     = 8
	addrBytes      = 40
	regionBytes    = 32
	configHeader   = 12
	inflightBytes  = 20   // 24 where the compiler pads the structure
	maxPayload     = 4096 // of any message; the longest that makes sense has 268
	maxConfig      = 256
	maxTableSlots  = 8   // of SET_MEM_TABLE
	maxDescriptors = 8   // that come with a message
	maxSlots       = 509 // of memory, together
)

// The second part of a payload that names a ring and may carry a descriptor.
const (
	vringIndexMask uint64 = 0xff
	vringNoFD      uint64 = 1 << 8
)

// ne is the byte order of all numbers: the machine's own, and both sides are on
// one machine. The engine runs on little-endian machines only.
var ne = binary.LittleEndian

// header is what each message begins with.
type header struct {
	request uint32
	flags   uint32
	size    uint32 // of the payload
}

func decodeHeader(b []byte) header {
	return header{request: ne.Uint32(b[0:]), flags: ne.Uint32(b[4:]), size: ne.Uint32(b[8:])}
}

// encodeMessage gives a whole message.
func encodeMessage(request, flags uint32, payload []byte) []byte {
	b := make([]byte, headerBytes, headerBytes+len(payload))
	ne.PutUint32(b[0:], request)
	ne.PutUint32(b[4:], flags|flagVersion)
	ne.PutUint32(b[8:], uint32(len(payload)))
	return append(b, payload...)
}

func encodeU64(v uint64) []byte { return ne.AppendUint64(nil, v) }

// vringState is "a vring state description".
type vringState struct{ index, num uint32 }

func decodeState(b []byte) vringState { return vringState{ne.Uint32(b[0:]), ne.Uint32(b[4:])} }

func (s vringState) encode() []byte {
	return ne.AppendUint32(ne.AppendUint32(nil, s.index), s.num)
}

// vringAddr is "a vring address description": where the front-end has the
// parts of a ring, in its own address space.
type vringAddr struct {
	index, flags            uint32
	desc, used, avail, logs uint64
}

func decodeAddr(b []byte) vringAddr {
	return vringAddr{
		index: ne.Uint32(b[0:]), flags: ne.Uint32(b[4:]),
		desc: ne.Uint64(b[8:]), used: ne.Uint64(b[16:]), avail: ne.Uint64(b[24:]), logs: ne.Uint64(b[32:]),
	}
}

// region is "a region" of guest memory.
type region struct {
	guest  uint64 // address in the guest
	size   uint64 // bytes
	user   uint64 // address in the front-end
	offset uint64 // in the file
}

func decodeRegion(b []byte) region {
	return region{ne.Uint64(b[0:]), ne.Uint64(b[8:]), ne.Uint64(b[16:]), ne.Uint64(b[24:])}
}

// inflightArea is "inflight description".
type inflightArea struct {
	size, offset uint64 // of the area in its file, bytes
	queues       uint16
	queueSize    uint16
}

func decodeInflight(b []byte) inflightArea {
	return inflightArea{ne.Uint64(b[0:]), ne.Uint64(b[8:]), ne.Uint16(b[16:]), ne.Uint16(b[18:])}
}

// encode gives n bytes: front-ends differ in whether they pad.
func (a inflightArea) encode(n int) []byte {
	b := make([]byte, max(n, inflightBytes))
	ne.PutUint64(b[0:], a.size)
	ne.PutUint64(b[8:], a.offset)
	ne.PutUint16(b[16:], a.queues)
	ne.PutUint16(b[18:], a.queueSize)
	return b
}
